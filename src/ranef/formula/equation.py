"""Equations for people to read: text with subscripts, from what the model really is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sub:
    """A subscript."""

    text: str


# Text and subscripts from left to right.
Line = tuple[str | Sub, ...]


@dataclass(frozen=True)
class Summand:
    """What a term adds to the predictor of row i, and the laws of what stands in it."""

    text: Line
    distributions: tuple[Line, ...] = ()


def joined(lines: list[Line], between: str) -> Line:
    """The lines one after the other with a text between them."""
    out: list[str | Sub] = []
    for i, line in enumerate(lines):
        out += [between, *line] if i else [*line]
    return tuple(out)


def plain(line: Line) -> str:
    """The line without markup, a subscript as ``_{...}``."""
    return "".join(f"_{{{p.text}}}" if isinstance(p, Sub) else p for p in line)
