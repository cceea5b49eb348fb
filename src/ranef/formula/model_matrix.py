"""Products of expressions to the columns of a model matrix, replayed on new rows.

A factor enters with treatment contrasts (its first level is the reference), or with one column
for each level where nothing else spans these. Which of them holds is decided product by product:
each stands for all products of fewer of its factors, and gets the columns that those before it do
not span, so that the matrix has full rank and the space is that of all the products together
(Nathaniel Smith's algorithm in patsy).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame, LevelsSeen, NameIndex
from ranef.errors import ColumnError, DataError, OptionError
from ranef.formula import transforms
from ranef.formula.expression import Column, Expression, Function
from ranef.formula.formula import Product, coding_of

MAX_COLUMNS = 5_000
# Factors of one product, which stands for two to this power of them.
_MAX_FACTORS = 12


@dataclass
class MatrixScan:
    """What batches of rows have shown so far."""

    factors: dict[str, LevelsSeen] = field(default_factory=dict)
    triangles: dict[str, NDArray] = field(default_factory=dict)


@dataclass(frozen=True)
class CodedExpression:
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
            several = is_poly(self.expression)
            single = transforms.evaluate if several else transforms.evaluate_single
            return single(self.expression, frame, learned).reshape(frame.n, -1)
        name = self.expression.columns()[0]
        found = frame.levels(name)
        codes = np.append(NameIndex(self.levels).places(found.names), -1)[found.codes]
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
    parts: tuple[CodedExpression, ...]

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
            # A product beyond the numbers is refused where it is used, by row.
            with np.errstate(over="ignore"):
                out = (out[:, :, None] * values[:, None, :]).reshape(frame.n, -1)
        return out

    @property
    def width(self) -> int:
        return int(np.prod([part.width for part in self.parts], dtype=int))


@dataclass(frozen=True)
class ModelMatrix:
    """What was learned: the coding of each product, and the numbers of its transforms."""

    codings: tuple[Coding, ...]
    learned: transforms.Learned

    def build(self, frame: Frame) -> NDArray[np.float64]:
        """The columns on the rows of `frame`, (n, p)."""
        blocks = [coding.columns(frame, self.learned) for coding in self.codings]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((frame.n, 0))


def is_poly(expression: Expression) -> bool:
    return isinstance(expression, Function) and expression.name == "poly"


def is_factor(expression: Expression, frame: Frame, booleans: bool = True) -> bool:
    """Whether the expression is C(column), or a column of text, categories or true and false.

    Args:
        expression: a part of a product.
        frame: the rows.
        booleans: whether true and false are two levels rather than 1 and 0.

    Raises:
        DataError: for a column of a file whose few texts look like errors among numbers, and for
            numbers that are written as texts.
    """
    if isinstance(expression, Function) and expression.name == "C":
        if len(expression.arguments) != 1 or not isinstance(expression.arguments[0], Column):
            raise OptionError(f"{expression}: C() takes one column")
        return True
    if not isinstance(expression, Column):
        return False
    if frame.is_boolean(expression.name):
        return booleans
    if not frame.is_text(expression.name):
        return False
    frame.refuse_stray_texts(expression.name)
    frame.refuse_spoiled_numbers(expression.name)
    return True


def needs(products: Sequence[Product]) -> dict[str, str]:
    """Columns that products read, as "level", "number", or "any" for what the table says."""
    out: dict[str, str] = {}
    for expression in (e for product in products for e in product):
        coded = isinstance(expression, Function) and expression.name == "C"
        bare = isinstance(expression, Column)
        numbers, _ = expression.columns_by_use()
        for name in expression.columns():
            level = coded or name not in numbers
            # What the table says of a column says it for other uses, too.
            if out.get(name) != "any":
                out[name] = "level" if level else "any" if bare else "number"
    return out


def scan(
    seen: MatrixScan | None, products: Sequence[Product], frame: Frame, booleans: bool = True
) -> MatrixScan:
    """Learn from one batch of rows."""
    expressions = [e for product in products for e in product]
    seen = seen or MatrixScan()
    factors = dict(seen.factors)
    for expression in {str(e): e for e in expressions}.values():
        if is_factor(expression, frame, booleans):
            key, found = str(expression), frame.levels(expression.columns()[0])
            factors[key] = factors.get(key, LevelsSeen()).add(found)
    calls = transforms.stateful_calls(expressions)
    return MatrixScan(factors, transforms.accumulate(seen.triangles, calls, frame))


def finish(seen: MatrixScan, products: Sequence[Product]) -> ModelMatrix:
    """The coding of every product.

    Raises:
        DataError: for a factor with one level, or more columns than a dense matrix should have.
    """
    expressions = [e for product in products for e in product]
    learned = transforms.finish(seen.triangles, transforms.stateful_calls(expressions))
    levels = {
        str(e): levels_of(e, seen.factors[str(e)]) for e in expressions if str(e) in seen.factors
    }
    codings: list[Coding] = []
    own: list[Product] = []
    spanned: dict[frozenset[str], set[frozenset[str]]] = {}
    for product in products:
        for full in _subproducts(product, levels, spanned):
            parts = tuple(
                _part(e, levels.get(str(e)), full.get(str(e), False))
                for e in product
                if str(e) in full or str(e) not in levels
            )
            codings.append(Coding(":".join(str(p.expression) for p in parts) or "Intercept", parts))
            own.append(product)
    names = [coding.name for coding in codings]
    for product, coding in zip(own, codings, strict=True):
        if names.count(coding.name) > 1 or (product and coding.name == "Intercept"):
            raise ColumnError(
                f"two parts of a term are named {coding.name!r}; rename the column of that name"
            )
        if coding.width > MAX_COLUMNS:
            raise DataError(
                f"{coding.name} would take {coding.width:,} columns, more than {MAX_COLUMNS:,}; "
                "for a factor with many levels use group effects such as (1 | g)"
            )
    return ModelMatrix(tuple(codings), learned)


def levels_of(expression: Expression, seen: LevelsSeen) -> tuple[str, ...]:
    """The levels of a factor in their order: those that training rows have.

    Raises:
        DataError: where C() has another reference, or other levels, than the column.
    """
    found = seen.ordered()
    if not isinstance(expression, Function):
        return found
    column, (ref, given) = expression.columns()[0], coding_of(expression)
    listed = ", ".join(map(repr, found[:8])) + (", ..." if len(found) > 8 else "")
    if given:
        left = [level for level in found if level not in given]
        if left:
            raise DataError(
                f"C({column}, levels=...) leaves out {', '.join(map(repr, left[:8]))}, and the "
                f"column {column!r} has the levels {listed}; name each of them, or leave rows out"
            )
        found = tuple(level for level in given if level in seen.names)
    if ref is not None:
        if ref not in found:
            raise DataError(
                f"C({column}, ref={ref!r}) names no level of the column {column!r}, which has "
                f"{listed}; name one of these"
            )
        found = (ref, *(level for level in found if level != ref))
    return found


def _subproducts(
    product: Product,
    levels: Mapping[str, tuple[str, ...]],
    spanned: dict[frozenset[str], set[frozenset[str]]],
) -> list[dict[str, bool]]:
    """What of a product those before it do not span, as products that have full rank together.

    With f- for the contrasts of a factor f and 1 for the constant, f:h stands for
    1 + f- + h- + f-:h-. Those that are `spanned` are left out, and 1 + f- is f in full.

    Returns:
        For each the factors in it, and whether these have a column for each level.

    Raises:
        DataError: for more factors in a product than can be written out.
    """
    factors = [str(e) for e in product if str(e) in levels]
    if len(factors) > _MAX_FACTORS:
        raise DataError(
            f"{':'.join(map(str, product))} joins {len(factors)} factors, more than "
            f"{_MAX_FACTORS}; use fewer, or group effects"
        )
    numbers = frozenset(str(e) for e in product if str(e) not in levels)
    known = spanned.setdefault(numbers, set())
    found: list[dict[str, bool]] = []
    for size in range(len(factors) + 1):
        for chosen in combinations(factors, size):
            if frozenset(chosen) not in known:
                known.add(frozenset(chosen))
                found.append(dict.fromkeys(chosen, False))
    while _merge(found):
        pass
    return found


def _merge(found: list[dict[str, bool]]) -> bool:
    """Make one of the first product and one that has one factor more, in contrasts."""
    for i, small in enumerate(found):
        for j, large in enumerate(found[i + 1 :], start=i + 1):
            more = [f for f in large if f not in small]
            if len(more) == 1 and all(large.get(f) == full for f, full in small.items()):
                found[j] = {**large, more[0]: True}
                del found[i]
                return True
    return False


def _part(expression: Expression, levels: tuple[str, ...] | None, full: bool) -> CodedExpression:
    if levels is None:
        if isinstance(expression, Function) and is_poly(expression):
            return CodedExpression(expression, transforms.degree(expression))
        return CodedExpression(expression)
    if len(levels) == 1:
        raise DataError(
            f"the factor {expression} has one level, {levels[0]!r}, and so no effect to estimate; "
            "leave it out"
        )
    return CodedExpression(expression, len(levels) - int(not full), levels, not full)
