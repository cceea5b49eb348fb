"""The description of the package's page: README.md with the names of files for its relative links.

A package index shows the README alone, so that a link to a file of the repository leads nowhere.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link or picture whose target is neither an address nor a heading: text, path, heading.
_RELATIVE = re.compile(r"!?\[([^]]*)\]\((?!\w+:|#)([^)#]+)(#[^)]*)?\)")


def described(readme: str) -> str:
    """The text of the README in which each file is named where it was linked to."""

    def named(link: re.Match[str]) -> str:
        text, path, _ = link.groups()
        return f"`{path}`" if path.startswith(text) else f"{text} (`{path}`)"

    return _RELATIVE.sub(named, readme)


class ReadmeHook(MetadataHookInterface):
    """Fills the dynamic field `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        readme = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": described(readme)}
