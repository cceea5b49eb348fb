"""Products of expressions to the columns of a model matrix, replayed on new rows.

A factor enters with treatment contrasts (its first level is the reference) where the
product without it is in the model too, and with one column for each level where not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef import transforms
from ranef.errors import ColumnError, DataError, OptionError
from ranef.expression import Column, Expression, Function
from ranef.formula import Product
from ranef.frame import Frame, sorted_levels

MAX_COLUMNS = 5_000


@dataclass
class Scan:
    """What batches of rows have shown so far."""

    factors: dict[str, dict[str, None]] = field(default_factory=dict)
    triangles: dict[str, NDArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """One expression of a product; `levels` is None for a number.

    Attributes:
        width: columns it contributes.
        levels: all levels of a factor, the reference first where `reduced`.
    """

    expression: Expression
    width: int = 1
    levels: tuple[str, ...] | None = None
    reduced: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        if self.levels is not None:
            return self.levels[1:] if self.reduced else self.levels
        return ("",) if self.width == 1 else tuple(str(i + 1) for i in range(self.width))

    def columns(self, frame: Frame, learned: transforms.Learned) -> NDArray[np.float64]:
        """(n, width)."""
        if self.levels is None:
            single = transforms.evaluate_single if self.width == 1 else transforms.evaluate
            return single(self.expression, frame, learned).reshape(frame.n, -1)
        name = self.expression.columns()[0]
        found = frame.levels(name)
        place = {level: i for i, level in enumerate(self.levels)}
        codes = np.array([*(place.get(level, -1) for level in found.names), -1])[found.codes]
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            code = found.codes[row]
            level = repr(found.names[code]) if code >= 0 else "missing"
            raise DataError(
                f"the level {level} of {name!r} in row {frame.row_number(row)} was not in the "
                f"training rows, so it has no coefficient; use (1 | {name}) to predict for levels "
                "never seen"
            )
        return np.eye(len(self.levels))[codes][:, int(self.reduced) :]


@dataclass(frozen=True)
class Coding:
    """The columns of one product: a variable `name`, one coefficient for each of `names`."""

    name: str
    parts: tuple[Part, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the coefficients; () where there is a single one that needs none."""
        combined = [""]
        for part in self.parts:
            combined = [f"{a}, {b}".strip(", ") for a in combined for b in part.names]
        return () if combined == [""] else tuple(combined)

    def columns(self, frame: Frame, learned: transforms.Learned) -> NDArray[np.float64]:
        out = np.ones((frame.n, 1))
        for part in self.parts:
            values = part.columns(frame, learned)
            out = (out[:, :, None] * values[:, None, :]).reshape(frame.n, -1)
        return out

    @property
    def width(self) -> int:
        return int(np.prod([part.width for part in self.parts], dtype=int))


@dataclass(frozen=True)
class Matrix:
    """What was learned: the coding of each product, and the numbers of its transforms."""

    codings: tuple[Coding, ...]
    learned: transforms.Learned

    def build(self, frame: Frame) -> NDArray[np.float64]:
        """The columns on the rows of `frame`, (n, p)."""
        blocks = [coding.columns(frame, self.learned) for coding in self.codings]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((frame.n, 0))


def is_factor(expression: Expression, frame: Frame) -> bool:
    """Whether the expression is C(column), or a column of text.

    Raises:
        DataError: for a column of a file whose few texts look like errors among numbers.
    """
    if isinstance(expression, Function) and expression.name == "C":
        if len(expression.arguments) != 1 or not isinstance(expression.arguments[0], Column):
            raise OptionError(f"{expression}: C() takes one column")
        return True
    if not isinstance(expression, Column) or not frame.is_text(expression.name):
        return False
    frame.refuse_stray_texts(expression.name)
    return True


def needs(products: Sequence[Product]) -> dict[str, str]:
    """Columns that products read, as "level", "number", or "any" for what the table says."""
    out: dict[str, str] = {}
    for expression in (e for product in products for e in product):
        coded = isinstance(expression, Function) and expression.name == "C"
        bare = isinstance(expression, Column)
        for name in expression.columns():
            out[name] = "level" if coded else "any" if bare else "number"
    return out


def scan(seen: Scan | None, products: Sequence[Product], frame: Frame) -> Scan:
    """Learn from one batch of rows."""
    expressions = [e for product in products for e in product]
    seen = seen or Scan()
    factors = {key: dict(levels) for key, levels in seen.factors.items()}
    for expression in expressions:
        if is_factor(expression, frame):
            name = expression.columns()[0]
            found = frame.levels(name)
            present = found.names[found.present()]
            factors.setdefault(str(expression), {}).update(dict.fromkeys(present))
    calls = transforms.stateful_calls(expressions)
    return Scan(factors, transforms.accumulate(seen.triangles, calls, frame))


def finish(seen: Scan, products: Sequence[Product]) -> Matrix:
    """The coding of every product.

    Raises:
        DataError: for a factor with one level, or more columns than a dense matrix should have.
    """
    expressions = [e for product in products for e in product]
    learned = transforms.finish(seen.triangles, transforms.stateful_calls(expressions))
    present = {frozenset(str(e) for e in product) for product in products}
    codings = tuple(
        Coding(
            ":".join(str(e) for e in product) or "Intercept",
            tuple(_part(e, product, present, seen) for e in product),
        )
        for product in products
    )
    names = [coding.name for coding in codings]
    for product, coding in zip(products, codings, strict=True):
        if names.count(coding.name) > 1 or (product and coding.name == "Intercept"):
            raise ColumnError(
                f"two parts of a term are named {coding.name!r}; rename the column of that name"
            )
        if coding.width > MAX_COLUMNS:
            raise DataError(
                f"{coding.name} would take {coding.width:,} columns, more than {MAX_COLUMNS:,}; "
                "for a factor with many levels use group effects such as (1 | g)"
            )
    return Matrix(codings, learned)


def _part(
    expression: Expression, product: Product, present: set[frozenset[str]], seen: Scan
) -> Part:
    key = str(expression)
    if key not in seen.factors:
        if isinstance(expression, Function) and expression.name == "poly":
            return Part(expression, transforms.degree(expression))
        return Part(expression)
    levels: tuple[str, ...] = tuple(sorted_levels(seen.factors[key]))
    if len(levels) == 1:
        raise DataError(
            f"the factor {expression} has one level, {levels[0]!r}, and so no effect to estimate; "
            "leave it out"
        )
    rest = frozenset(str(e) for e in product) - {key}
    reduced = rest in present
    return Part(expression, len(levels) - int(reduced), levels, reduced)
