"""Equations in print: lines of text with subscripts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sub:
    """Text set as a subscript."""

    text: str


# One line of an equation: text and subscripts from left to right.
Line = tuple[str | Sub, ...]


@dataclass(frozen=True)
class Summand:
    """A term in print.

    Attributes:
        text: what the term adds to the predictor of row i.
        distributions: distributions of the quantities in `text`, one line each.
    """

    text: Line
    distributions: tuple[Line, ...] = ()


def joined(lines: list[Line], between: str) -> Line:
    """One line of all `lines`, with the text `between` between them."""
    out: list[str | Sub] = []
    for i, line in enumerate(lines):
        out += [between, *line] if i else [*line]
    return tuple(out)


def plain(line: Line) -> str:
    """The line as plain text, with subscripts written ``_{...}``."""
    return "".join(f"_{{{p.text}}}" if isinstance(p, Sub) else p for p in line)
