"""Model matrix of common and group effects: products of expressions to columns.

A factor is coded by contrasts (`contrasts`), by default treatment contrasts with its first level as
reference, or by one indicator column per level where no earlier product spans the missing column.
The choice is made for each product in turn by the algorithm of patsy (Nathaniel Smith): a product
of factors stands for the products of all subsets of them, and gets columns for those that earlier
products do not span. Factors thus add no redundant columns, and the columns span the space of all
products together. The coding is learned from training rows and replayed on new rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.level_codes import NameIndex
from ranef.data.levels import LevelsSeen
from ranef.errors import ColumnError, DataError, OptionError
from ranef.formula import contrasts, transforms
from ranef.formula.expression import Column, Expression, Function
from ranef.formula.factor_coding import coding_of
from ranef.formula.term_call import Product
from ranef.numerics.shapes import Float

# Largest number of columns of one product in a dense matrix.
MAX_COLUMNS = 5_000

# Largest number of factors in one product, which stands for 2^12 products of subsets.
_MAX_FACTORS = 12


@dataclass
class MatrixScan:
    """Statistics of the batches of rows scanned so far.

    Attributes:
        factors: levels of each factor, by the factor's text.
        triangles: statistics of the stateful transforms (`transforms.accumulate`).
    """

    factors: dict[str, LevelsSeen] = field(default_factory=dict)
    triangles: dict[str, NDArray] = field(default_factory=dict)


@dataclass(frozen=True)
class CodedExpression:
    """An expression of a product with its coding.

    Attributes:
        expression: the expression.
        width: number of its columns.
        levels: all levels of a factor in order; None for numbers.
        reduced: whether the factor has contrasts rather than a column for every level.
    """

    expression: Expression
    width: int = 1
    levels: tuple[str, ...] | None = None
    reduced: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its columns; "" for a single column of numbers."""
        if self.levels is not None:
            return contrasts.names_of(self.contrast, self.levels) if self.reduced else self.levels
        return ("",) if self.width == 1 else tuple(str(i + 1) for i in range(self.width))

    @property
    def contrast(self) -> contrasts.Contrast:
        """The contrasts of a factor that has them."""
        call = self.expression
        return coding_of(call).contrast if isinstance(call, Function) else "treatment"

    @property
    def has_indicators(self) -> bool:
        """Whether each column is 1 for one level of a factor, and 0 for all others."""
        return self.levels is not None and (not self.reduced or self.contrast == "treatment")

    @property
    def by_level(self) -> Float[NDArray, "levels width"]:
        """The values of a factor's columns for each level."""
        levels = self.levels or ()
        if not self.reduced:
            return np.eye(len(levels))
        return contrasts.matrix_of(self.contrast, levels, str(self.expression))

    def columns(self, frame: Frame, learned: transforms.Learned) -> Float[NDArray, "n width"]:
        """The columns on the rows of `frame`.

        Args:
            frame: the rows.
            learned: numbers of the stateful transforms.

        Raises:
            DataError: for a level that is not in the training rows, naming it and its row.
        """
        if self.levels is None:
            several = transforms.width(self.expression) is not None
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
        return self.by_level[codes]


@dataclass(frozen=True)
class Coding:
    """The columns of one product, which are one named variable of the posterior.

    Attributes:
        name: name of the variable.
        parts: the expressions of the product; () is the intercept.
    """

    name: str
    parts: tuple[CodedExpression, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the coefficients; () for a single coefficient that needs none."""
        combined = [""]
        for part in self.parts:
            combined = [f"{a}, {b}".strip(", ") for a in combined for b in part.names]
        return () if combined == [""] else tuple(combined)

    def columns(self, frame: Frame, learned: transforms.Learned) -> Float[NDArray, "n width"]:
        """The products of the columns of all parts on the rows of `frame`."""
        out = np.ones((frame.n, 1))
        for part in self.parts:
            values = part.columns(frame, learned)
            # Callers refuse products that overflow and name their rows.
            with np.errstate(over="ignore"):
                out = (out[:, :, None] * values[:, None, :]).reshape(frame.n, -1)
        return out

    @property
    def width(self) -> int:
        """Number of columns."""
        return int(np.prod([part.width for part in self.parts], dtype=int))


@dataclass(frozen=True)
class ModelMatrix:
    """The learned coding of all products.

    Attributes:
        codings: coding of each product, in the order of the columns.
        learned: numbers of the stateful transforms.
    """

    codings: tuple[Coding, ...]
    learned: transforms.Learned

    def build(self, frame: Frame) -> Float[NDArray, "n p"]:
        """The columns on the rows of `frame`."""
        blocks = [coding.columns(frame, self.learned) for coding in self.codings]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((frame.n, 0))


def is_factor(expression: Expression, frame: Frame, booleans: bool = True) -> bool:
    """Whether an expression is a factor: C(column), or a column of texts, categories or booleans.

    Args:
        expression: an expression of a product.
        frame: the rows.
        booleans: whether true and false are two levels, rather than 1 and 0.

    Raises:
        OptionError: for C() of anything but one column.
        DataError: for a column of numbers with a few stray texts, and for numbers and dates
            written as texts, such as "12.5%".
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
    frame.refuse_spelled_dates(expression.name)
    return True


def needs(products: Sequence[Product]) -> dict[str, str]:
    """The columns that products read, and the use of each.

    Returns:
        column to "level", "number", "date", or "any" if the type of the column in the table
        decides.
    """
    out: dict[str, str] = {}
    for expression in (e for product in products for e in product):
        coded = isinstance(expression, Function) and expression.name == "C"
        bare = isinstance(expression, Column)
        for name, use in expression.needs().items():
            # "any" takes precedence over the other uses of the same column.
            if out.get(name) != "any":
                out[name] = "level" if coded else "any" if bare else use
    return out


def scan(
    seen: MatrixScan | None, products: Sequence[Product], frame: Frame, booleans: bool = True
) -> MatrixScan:
    """The statistics with one more batch of rows.

    Args:
        seen: statistics so far; None at first.
        products: the products.
        frame: the rows.
        booleans: whether true and false are two levels of a factor, rather than 1 and 0.
    """
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
    """The coding of every product, after `scan` of all batches.

    Raises:
        DataError: for a factor with one level, and a product of more than 5,000 columns.
        ColumnError: for two variables of the same name.
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
    """The levels of a factor that occur in the training rows, in order.

    Args:
        expression: the factor, a column or C(column, ...).
        seen: levels of the column in the training rows.

    Raises:
        DataError: if C() names a reference that is not a level, or leaves out a level.
    """
    found = seen.ordered()
    if not isinstance(expression, Function):
        return found
    column, coding = expression.columns()[0], coding_of(expression)
    ref, given = coding.ref, coding.levels
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
        others = tuple(level for level in found if level != ref)
        found = (*others, ref) if coding.contrast == "sum" else (ref, *others)
    return found


def _subproducts(
    product: Product,
    levels: Mapping[str, tuple[str, ...]],
    spanned: dict[frozenset[str], set[frozenset[str]]],
) -> list[dict[str, bool]]:
    """The part of a product that earlier products do not span, as products of full joint rank.

    Write f- for the contrasts of a factor f, and 1 for the constant. The space of f:h is spanned by
    1 + f- + h- + f-:h-. Summands that earlier products span are left out; the others are merged by
    1 + f- = f, the factor with a column for each level.

    Args:
        product: the product.
        levels: levels of each factor, by its text; other expressions are numbers.
        spanned: for each set of numbers, the sets of factors that earlier products span with them.
            It is updated.

    Returns:
        for each resulting product, its factors, and whether each has a column for every level.

    Raises:
        DataError: for more than 12 factors in a product.
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
    """Merge the first pair p + p:f- to p:f, in place; False if there is no such pair."""
    for i, small in enumerate(found):
        for j, large in enumerate(found[i + 1 :], start=i + 1):
            more = [f for f in large if f not in small]
            if len(more) == 1 and all(large.get(f) == full for f, full in small.items()):
                found[j] = {**large, more[0]: True}
                del found[i]
                return True
    return False


def _part(expression: Expression, levels: tuple[str, ...] | None, full: bool) -> CodedExpression:
    """The coding of an expression; `levels` is None for numbers."""
    if levels is None:
        return CodedExpression(expression, transforms.width(expression) or 1)
    if len(levels) == 1:
        raise DataError(
            f"the factor {expression} has one level, {levels[0]!r}, and so no effect to estimate; "
            "leave it out"
        )
    own = CodedExpression(expression, len(levels) - int(not full), levels, not full)
    contrasts.matrix_of(own.contrast, levels, str(expression))  # refuses one of another shape
    return own
