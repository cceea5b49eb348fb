"""Renders a report as one HTML file without remote resources, with all text escaped."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2

from ranef.files.atomic_write import StrPath, write_whole
from ranef.report.parts import Picture, Section


@dataclass(frozen=True)
class Page:
    """A report page.

    Attributes:
        title: its title.
        lead: a paragraph under the title; "" for none.
        sections: its contents.
        beside: titles of other pages in the same folder, by file name.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    beside: Mapping[str, str] = field(default_factory=dict)

    def pictures(self) -> list[Picture]:
        """All pictures of the page, in order."""
        return [picture for section in self.sections for picture in section.pictures()]

    def html(self) -> str:
        """The HTML text of the page.

        The content-security policy allows only the page's own style and script, by their hashes,
        and embedded images, so that a browser loads nothing from elsewhere.
        """
        style, script = _resource("page.css"), _resource("page.js")
        policy = (
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; "
            f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
        )
        return (
            _environment()
            .get_template("page.html")
            .render(page=self, policy=policy, style=style, script=script)
        )

    def write(self, path: StrPath) -> Path:
        """Write the page and return its path; the file is written whole or not at all.

        Raises:
            FileError: if it cannot be written.
        """
        # Lone surrogates, which Python's strings may hold, cannot be encoded and are replaced.
        return write_whole(path, self.html().encode("utf-8", "replace"))


def _resource(name: str) -> str:
    return files("ranef.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash of a style or script as a content-security policy writes it."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ranef.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = _address
    environment.filters["points"] = _points
    return environment


def _address(picture: Picture) -> str:
    """The picture as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"


def _points(picture: Picture) -> str:
    """The picture's points as JSON, for an attribute that the template escapes."""
    return json.dumps([[p.x, p.y, p.text] for p in picture.points], ensure_ascii=False)
