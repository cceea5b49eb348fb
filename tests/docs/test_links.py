"""Relative links lead to files, and those with a heading to one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (
    *(".", ".github", ".github/ISSUE_TEMPLATE", "docs", "docs/reference"),
    *("news", "benchmarks", "requirements"),
)
PAGES = [
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).glob("*.md"))),
    *sorted((ROOT / "src").rglob("*.md")),
]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings of a page as they stand in links, spaces as hyphens and without punctuation."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_page_hold(page):
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        assert not heading or heading in anchors(to), target
