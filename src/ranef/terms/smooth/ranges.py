"""Ranges and distinct values of the columns of a smooth term, learned from batches of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.errors import DataError, FormulaError
from ranef.formula import transforms
from ranef.formula.expression import Expression
from ranef.formula.term_call import TermCall
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]
Vector = Float[Array, "d"]

# Distinct values of a column are counted up to about this number.
_MOST = 1_000


@dataclass(frozen=True)
class ColumnRanges:
    """Ranges of the d columns of a term over the rows so far.

    Attributes:
        low: smallest value of each column.
        high: largest value of each column.
        values: distinct values of each column, while there are at most a thousand.
    """

    low: Vector
    high: Vector
    values: tuple[frozenset[float], ...]

    def distinct(self) -> tuple[int, ...]:
        """Number of distinct values of each column; counting stops beyond a thousand."""
        return tuple(len(values) for values in self.values)


def check(call: TermCall) -> None:
    """Refuse arguments without a column, and functions that learn from the rows, as scale(x).

    Raises:
        FormulaError: naming the argument.
    """
    for argument in call.arguments:
        if not argument.columns():
            raise FormulaError(f"{call.label}: {argument} names no column")
        if transforms.stateful_calls([argument]):
            raise FormulaError(
                f"{call.label}: {call.kind}() scales its columns by itself; write the column "
                f"where {argument} stands"
            )


def values_of(arguments: Sequence[Expression], frame: Frame) -> Float[Array, "n d"]:
    """Values of the arguments on the rows of a table."""
    each = [transforms.evaluate_single(argument, frame, {}) for argument in arguments]
    return np.stack(each, axis=1)


def scan(
    before: ColumnRanges | None, arguments: Sequence[Expression], frame: Frame
) -> ColumnRanges:
    """Accumulate one batch of rows; `before` is None for the first."""
    x = values_of(arguments, frame)
    d = x.shape[1]
    if before is None:
        before = ColumnRanges(np.full(d, np.inf), np.full(d, -np.inf), (frozenset(),) * d)
    if not len(x):
        return before
    values = tuple(
        seen if len(seen) > _MOST else seen | frozenset(np.unique(x[:, i])[: _MOST + 1].tolist())
        for i, seen in enumerate(before.values)
    )
    return ColumnRanges(
        np.minimum(before.low, x.min(axis=0)), np.maximum(before.high, x.max(axis=0)), values
    )


def refuse_constant(seen: ColumnRanges, call: TermCall) -> None:
    """Refuse columns with fewer than three distinct values, on which no curve can be learned.

    Raises:
        DataError: naming the column.
    """
    for argument, count in zip(call.arguments, seen.distinct(), strict=True):
        if count < 3:
            raise DataError(
                f"{call.label}: the column {argument} has {count} distinct values, and a curve "
                "takes three at least; leave the term out"
            )
