"""Parses and evaluates hypotheses such as "b1 = b2" or "2 * x > exp(z)" on arrays of draws.

A parser by recursive descent. Names are looked up in a given mapping, and nothing else is
evaluated: the grammar has numbers, names, + - * / ^, parentheses, a few functions, and one of
= < >.

    hypothesis = sum [("=" | "<" | ">") sum]
    sum        = product {("+" | "-") product}
    product    = sign {("*" | "/") sign}
    sign       = ["+" | "-"] power
    power      = atom ["^" sign]
    atom       = number | name | function "(" sum ")" | "(" sum ")"

A name is a run of letters, digits and any of _ . : | with an optional part in brackets, such as
``f[b]`` or ``1|g_sigma``, or any text in backticks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from ranef.errors import FormulaError, suggestion

Draws = NDArray[np.float64]

FUNCTIONS: dict[str, Callable[[Draws], Draws]] = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "logit": logit,
    "expit": expit,
    "plogis": expit,
    "inv_logit": expit,
}

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.:|\[]))"
    r"|`(?P<quoted>[^`]+)`"
    r"|(?P<name>[\w.:|]+(?:\[[^\]]*\])?)"
    r"|(?P<sign>\*\*|==|<=|>=|[-+*/^()=<>])"
    r")"
)
_SAME = {"**": "^", "==": "=", "<=": "<", ">=": ">"}
# Parentheses and signs within each other, so that Python's own stack suffices.
_DEEPEST = 50


@dataclass(frozen=True)
class Stated:
    """A hypothesis evaluated at every draw.

    Attributes:
        text: the hypothesis as written.
        difference: the left side minus the right side, (draws,).
        relation: "=", "<" or ">"; "" if there is one side alone.
    """

    text: str
    difference: Draws
    relation: str


@dataclass
class _Parser:
    text: str
    look_up: Callable[[str], Draws | None]
    known: Callable[[], list[str]]
    tokens: list[tuple[str, str, int]] = field(default_factory=list)
    place: int = 0
    depth: int = 0

    def __post_init__(self) -> None:
        position, end = 0, len(self.text.rstrip())
        while position < end:
            match = _TOKEN.match(self.text, position)
            if match is None or match.lastgroup is None:
                raise self._error(position, "this is not part of a hypothesis")
            value = match[match.lastgroup]
            self.tokens.append((match.lastgroup, value, match.start(match.lastgroup)))
            position = match.end()

    def _error(self, position: int, message: str) -> FormulaError:
        return FormulaError.at(self.text, position, f"hypothesis: {message}")

    def _next(self) -> str:
        """The next sign, or "" for anything else."""
        if self.place >= len(self.tokens) or self.tokens[self.place][0] != "sign":
            return ""
        sign = self.tokens[self.place][1]
        return _SAME.get(sign, sign)

    def _take(self, *signs: str) -> str:
        sign = self._next()
        if sign and sign in signs:
            self.place += 1
            return sign
        return ""

    def stated(self) -> Stated:
        left, relation = self._sum(), self._take("=", "<", ">")
        if relation:
            left = left - self._sum()
        if self.place < len(self.tokens):
            raise self._error(self.tokens[self.place][2], "nothing was expected here")
        return Stated(self.text.strip(), left, relation)

    def _sum(self) -> Draws:
        value = self._product()
        while sign := self._take("+", "-"):
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> Draws:
        value = self._signed()
        while sign := self._take("*", "/"):
            other = self._signed()
            value = value * other if sign == "*" else value / other
        return value

    def _signed(self) -> Draws:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._error(0, f"more than {_DEEPEST} signs and parentheses within each other")
        sign = self._take("+", "-")
        value = self._signed() if sign and self._next() in ("+", "-") else self._power()
        self.depth -= 1
        return -value if sign == "-" else value

    def _power(self) -> Draws:
        value = self._atom()
        return value ** self._signed() if self._take("^") else value

    def _atom(self) -> Draws:
        if self._take("("):
            value = self._sum()
            self._close()
            return value
        if self.place >= len(self.tokens):
            raise self._error(len(self.text.rstrip()), "a number or a name was expected here")
        kind, value, position = self.tokens[self.place]
        if kind == "sign":
            raise self._error(position, "a number or a name was expected here")
        self.place += 1
        if kind == "number":
            return np.float64(value)  # pyright: ignore[reportReturnType]
        if kind == "name" and value in FUNCTIONS and self._take("("):
            inside = self._sum()
            self._close()
            return FUNCTIONS[value](inside)
        found = self.look_up(value)
        if found is None:
            raise self._error(position, f"there is no {value!r}; {suggestion(value, self.known())}")
        return found

    def _close(self) -> None:
        if not self._take(")"):
            position = len(self.text.rstrip())
            if self.place < len(self.tokens):
                position = self.tokens[self.place][2]
            raise self._error(position, "a closing parenthesis was expected here")


def evaluated(
    text: str, look_up: Callable[[str], Draws | None], known: Callable[[], list[str]]
) -> Stated:
    """Evaluate a hypothesis.

    Args:
        text: the hypothesis.
        look_up: draws of a name, (draws,); None for a name that does not exist.
        known: the names that exist, for the message where one does not.

    Raises:
        FormulaError: for a text that is no hypothesis, with a caret below the place at fault.
    """
    with np.errstate(all="ignore"):
        return _Parser(text, look_up, known).stated()
