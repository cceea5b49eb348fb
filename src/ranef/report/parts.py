"""The parts of a report page. `kind` names the block of the template that shows a part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ranef.formula.equation import Line, Sub


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Sentences:
    """A list of sentences."""

    sentences: Sequence[str]
    kind: ClassVar[str] = "sentences"


@dataclass(frozen=True)
class Code:
    """Text in a monospaced font, such as a formula."""

    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Equations:
    """The equations of a model, one a line."""

    lines: Sequence[Line]
    kind: ClassVar[str] = "equations"

    def pieces(self) -> list[list[tuple[str, bool]]]:
        """Each line as pieces of text, with whether each piece is a subscript."""
        return [
            [(p.text, True) if isinstance(p, Sub) else (p, False) for p in line]
            for line in self.lines
        ]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        head: names of the columns.
        rows: the cells, row by row.
        caption: a sentence above the table.
        words: whether cells hold words. All columns are then aligned to the left, and otherwise
            only the first.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    words: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Point:
    """A point of a picture that shows a text on hover.

    Attributes:
        x: distance from the left edge, as a share of the picture's width.
        y: distance from the top edge, as a share of the picture's height.
        text: the text.
    """

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Picture:
    """A figure with a sentence on how to read it.

    Attributes:
        name: of its file, without suffix.
        title: what it shows.
        reading: how to read it.
        png: the contents of the file.
        width: in pixels.
        height: in pixels.
        points: the points that show a text on hover.
    """

    name: str
    title: str
    reading: str
    png: bytes
    width: int
    height: int
    points: tuple[Point, ...] = ()
    kind: ClassVar[str] = "picture"


Part = Text | Sentences | Code | Equations | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and the parts below it."""

    title: str
    parts: Sequence[Part]

    def pictures(self) -> list[Picture]:
        """The pictures of the section, in order."""
        return [part for part in self.parts if isinstance(part, Picture)]


def cells(values: Sequence[object]) -> tuple[str, ...]:
    """Values as texts, floating-point numbers with four significant digits."""
    return tuple(f"{v:,.4g}" if isinstance(v, float) else str(v) for v in values)
