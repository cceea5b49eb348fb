"""Where the numbers that a smooth term is called on lie, learned from batches of rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.errors import DataError, FormulaError
from ranef.formula import transforms
from ranef.formula.expression import Expression
from ranef.formula.formula import TermCall

Array = NDArray[np.float64]

# Distinct values of a column beyond which how many there are plays no part.
_MOST = 1_000


@dataclass(frozen=True)
class ColumnRanges:
    """The least and the largest value of each column so far, and its values while they are few."""

    low: Array
    high: Array
    values: tuple[frozenset[float], ...]

    def distinct(self) -> tuple[int, ...]:
        """Distinct values of each column; those beyond a thousand are not counted."""
        return tuple(len(values) for values in self.values)


def check(call: TermCall) -> None:
    """Refuse arguments that are not numbers whose range one pass over the rows can learn.

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


def values_of(arguments: Sequence[Expression], frame: Frame) -> Array:
    """(n, D) numbers."""
    each = [transforms.evaluate_single(argument, frame, {}) for argument in arguments]
    return np.stack(each, axis=1)


def scan(
    before: ColumnRanges | None, arguments: Sequence[Expression], frame: Frame
) -> ColumnRanges:
    """Take in one batch of rows."""
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
    """A function of a column is not to be learned from one or two of its values.

    Raises:
        DataError: naming the column.
    """
    for argument, count in zip(call.arguments, seen.distinct(), strict=True):
        if count < 3:
            raise DataError(
                f"{call.label}: the column {argument} has {count} distinct values, and a curve "
                "takes three at least; leave the term out"
            )
