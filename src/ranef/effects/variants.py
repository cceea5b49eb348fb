"""Rows with some columns changed, and quantities computed from predictions of several such rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.effects.columns import Held, repeated, with_columns
from ranef.errors import DataError

# Draws of a prediction, (groups, draws, rows); one group unless the response has categories.
Values: TypeAlias = NDArray[np.float64]
Combine: TypeAlias = Callable[[list[Values], Frame], Values]


@dataclass(frozen=True)
class Variant:
    """Rows as they are, or with some columns changed.

    Attributes:
        key: names the change; variants with the same key are the same rows.
        change: maps a frame to the new columns; None for rows as they are.
    """

    key: tuple[object, ...] = ()
    change: Callable[[Frame], Mapping[str, Held]] | None = field(default=None, compare=False)

    def of(self, frame: Frame) -> Frame:
        """The rows of `frame`, changed."""
        return frame if self.change is None else with_columns(frame, self.change(frame))


OWN = Variant()


def constant(values: Mapping[str, Held]) -> Variant:
    """All rows with one value, an array of one element, in each of some columns."""
    key = tuple((name, str(value[0])) for name, value in values.items())

    def change(frame: Frame) -> dict[str, Held]:
        first_ = np.zeros(frame.n, np.int64)
        return {name: repeated(value, first_) for name, value in values.items()}

    return Variant(("constant", *key), change)


def shifted(column: str, by: float) -> Variant:
    """All rows with a number added to a column."""
    return Variant(("shift", column, by), lambda frame: {column: present(frame, column) + by})


def present(frame: Frame, column: str) -> NDArray[np.float64]:
    """The numbers of a column of which none is missing.

    Raises:
        DataError: for a missing one, since it cannot be changed.
    """
    values = frame.numbers(column)
    gaps = np.isnan(values)
    if gaps.any():
        raise DataError(
            f"column {column!r} is missing in row {frame.row_number(int(np.argmax(gaps)))} and "
            "cannot be changed there; pass newdata= without such rows"
        )
    return values


def first(values: list[Values], frame: Frame) -> Values:
    """The prediction itself."""
    return values[0]


@dataclass(frozen=True)
class Quantity:
    """A number for each row and draw, computed from predictions of variants of the row.

    Attributes:
        variants: the variants.
        combine: maps their predictions to the quantity.
    """

    variants: tuple[Variant, ...] = (OWN,)
    combine: Combine = first


@dataclass(frozen=True)
class Estimand:
    """What one row of a table, or one for each unit, estimates: a quantity or a comparison of two.

    Attributes:
        names: what identifies it, by column, such as term and contrast.
        high: the quantity, or the larger side of the comparison.
        low: the other side; None for no comparison.
    """

    names: Mapping[str, object]
    high: Quantity
    low: Quantity | None = None
