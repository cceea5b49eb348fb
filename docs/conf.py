"""The documentation as a site, by Sphinx: `make docs` builds it into build/docs/html.

The pages are the Markdown files of this folder, which are read on a code host as well. What a page
cannot say in both places is done here: links to files outside of the folder lead to their pages of
the site, pages that stand for a file of the root become that file, and docstrings, which are plain
text with names in backticks, become reStructuredText. Nothing remote is loaded, neither by the
build nor by the pages.
"""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

project = "ranef"
author = "The ranef authors"
copyright = "The ranef authors, Apache-2.0"  # noqa: A001
release = installed("ranef")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery", "pictures"]
myst_heading_anchors = 4
default_role = "literal"
smartquotes = False
autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "ranef"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "logo": {"text": f"ranef {release}"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "show_toc_level": 2,
    "show_prev_next": True,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": []}
html_context = {"default_mode": "auto"}
# A summary beside a search result would be fetched, which browsers refuse for files.
html_show_search_summary = False

# Examples are fitted while the site is built, and one that fails fails the build.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "subsection_order": [f"gallery/{name}" for name in ("groups", "families", "curves", "answers")],
    "within_subsection_order": "FileNameSortKey",
    "nested_sections": False,
    "image_scrapers": ("gallery_figures",),
    "capture_repr": (),
    "remove_config_comments": True,
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "thumbnail_size": (360, 250),
}

# Files outside of this folder that have a page, and pages that are such a file.
_PAGES = {
    "../README.md#installation": "installation.md",
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../SECURITY.md": "security.md",
    "gallery/": "examples/index.rst",
}
# Pages with a table of contents.
_CONTENTS = ("index", "user_guide", "about")
_FILES = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "security": "SECURITY.md"}
_LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?!\w+:)([^)\s#]*)(#[^)\s]*)?\)")


def _linked(link: re.Match[str]) -> str:
    """A link to a page of the site, or the text alone where the file has none."""
    text, path, heading = link[1], link[2], link[3] or ""
    page = _PAGES.get(path + heading) or _PAGES.get(path)
    if page is not None:
        return f"[{text}]({page}{heading if page.endswith('.md') and page in path.lower() else ''})"
    return text if path.startswith("../") else link[0]


def _page(app: Sphinx, name: str, source: list[str]) -> None:
    """Replaces what a page says on a code host by what the site shows."""
    text = source[0]
    if name in _FILES:
        text = (DOCS.parent / _FILES[name]).read_text(encoding="utf-8")
        app.env.note_dependency(str(DOCS.parent / _FILES[name]))
        text = re.sub(r"\]\((?!\w+:|#)(?!docs/)", "](../", text).replace("](docs/", "](")
    if name == "user_guide":
        text = text.replace("{others}", "\n".join(_unlisted()))
    depth = name.count("/")
    if depth:  # Links of a page in a folder, such as reference/.
        text = text.replace("](../../", "](../")
    source[0] = _LINK.sub(_linked, text)


def _unlisted() -> list[str]:
    """Pages that no table of contents names, so that a new page of the guide is on the site."""
    contents = [(DOCS / f"{name}.md").read_text(encoding="utf-8") for name in _CONTENTS]
    entries = re.findall(r"^(?:.*<)?([\w/-]+)>?$", "\n".join(contents), re.MULTILINE)
    named = {"index", *entries}
    return sorted(page.stem for page in DOCS.glob("*.md") if page.stem not in named)


_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note|Notes):")


def _docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Escapes what reStructuredText takes for markup, and keeps indented equations as they are."""
    found: list[str] = []
    described = True
    for i, line in enumerate(lines):
        described = described and not _SECTION.match(line)
        literal = described and line.startswith("    ")
        before = [each for each in lines[max(0, i - 2) : i] if each.strip()]
        if literal and not (before and before[-1].startswith("    ")):
            found += ["::", ""]
        found.append(line if literal else _escaped(line))
    lines[:] = found


def _escaped(line: str) -> str:
    """The line with asterisks, bars and last underscores as characters, outside of backticks."""
    parts = re.split(r"(``[^`]*``|`[^`]*`)", line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(\*|\||_(?=\W|$))", r"\\\1", parts[i])
    return "".join(parts)


def _outdated(
    app: Sphinx, env: object, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """The page that lists the others is read again where there is one more or less."""
    return ["user_guide"] if added or removed else []


# Classes that users get from functions and do not make.
_RETURNED = {
    "ranef.Fit",
    "ranef.check.symptom.Check",
    "ranef.posterior.kfold.KFold",
    "ranef.posterior.loo.LeaveOneOut",
    "ranef.stacked.StackedFits",
}


def _signature(
    app: Sphinx, what: str, name: str, thing: object, options: object, arguments: str, returns: str
) -> tuple[str, str] | None:
    """No arguments for what users do not make."""
    return ("", "") if name in _RETURNED else None


def setup(app: Sphinx) -> None:
    """Connects the changes of sources and docstrings to the build."""
    app.connect("source-read", _page)
    app.connect("env-get-outdated", _outdated)
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-process-signature", _signature)
