"""What a page is made of. A part names the template's block that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ranef.formula.equation import Line, Sub


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Something typed, such as a formula."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Equations:
    """The model on paper."""

    lines: Sequence[Line]
    kind: ClassVar[str] = "equations"

    def pieces(self) -> list[list[tuple[str, bool]]]:
        """Each line as texts, and whether each is a subscript."""
        return [
            [(p.text, True) if isinstance(p, Sub) else (p, False) for p in line]
            for line in self.lines
        ]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column, and all where they hold words, to the left."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Point:
    """A point of a picture that says what it is.

    Attributes:
        x, y: from the left and the top, in shares of the picture's size.
        text: what it says on hover.
    """

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Picture:
    """A figure with how to read it.

    Attributes:
        name: of its file, without ending.
        title, reading: what it shows, and a sentence on how to read it.
        png: the file.
        width, height: in pixels.
        points: those that answer on hover.
    """

    name: str
    title: str
    reading: str
    png: bytes
    width: int
    height: int
    points: tuple[Point, ...] = ()
    kind: ClassVar[str] = "picture"


Part = Text | Code | Equations | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what follows it."""

    title: str
    parts: Sequence[Part]

    def pictures(self) -> list[Picture]:
        return [part for part in self.parts if isinstance(part, Picture)]


def cells(values: Sequence[Any]) -> tuple[str, ...]:
    """Numbers to four significant digits, the rest as it is."""
    return tuple(f"{v:,.4g}" if isinstance(v, float) else str(v) for v in values)
