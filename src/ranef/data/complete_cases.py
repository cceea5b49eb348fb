"""Complete cases: drops rows with missing values in columns that the model uses, with counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.row_labels import Labels
from ranef.errors import DataError
from ranef.numerics.shapes import Bool, Int


@dataclass(frozen=True)
class CompleteCases:
    """Numbers of rows that were read and used, and the reasons why rows were dropped.

    Attributes:
        read: number of rows in the table.
        used: number of rows that the fit uses.
        dropped: column to the number of rows in which it is missing. A row with several missing
            values counts once for each of them.
        places: position of each used row in the table, from 0; None if all rows are used
            or rows are read in batches.
        labels: the row labels of the used rows.
    """

    read: int
    used: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    places: Int[NDArray, "used"] | None = field(default=None, repr=False, compare=False)
    labels: Labels = field(default_factory=Labels, repr=False, compare=False)

    def __str__(self) -> str:
        text = f"{self.read:,} rows read, {self.used:,} used"
        if self.read > self.used:
            why = ", ".join(f"{name} missing in {count:,}" for name, count in self.dropped.items())
            text += f"; {self.read - self.used:,} dropped: {why}"
        return text


def complete(frame: Frame, needs: Mapping[str, set[str]]) -> tuple[Frame, CompleteCases]:
    """Drop the rows with a missing value in a column that the model uses.

    A missing value, NaN included, in a predictor, a grouping, the response or its companion
    (trials, weights, standard errors) drops the row. The exceptions are columns whose missing
    values are parameters of the model ("gaps"). Infinite values are not missing; the family
    refuses them later.

    Args:
        frame: the table.
        needs: column to how it is used: "number", "level", "date", "any", "response", "category"
            (a response that may be texts) or "gaps".

    Returns:
        The complete rows, and the record of what was dropped.

    Raises:
        DataError: if no row is left.
    """
    refuse_none(CompleteCases(frame.n, frame.n), frame.source)
    whole, dropped = gaps(frame, needs)
    kept = frame.keep(whole)
    labels = frame.labels if kept.rows is None else frame.labels.at(kept.rows)
    rows = CompleteCases(frame.n, kept.n, dropped, kept.rows, labels)
    refuse_none(rows, frame.source)
    return kept, rows


def gaps(frame: Frame, needs: Mapping[str, set[str]]) -> tuple[Bool[NDArray, "n"], dict[str, int]]:
    """Find missing values.

    Args:
        frame: the table.
        needs: as for `complete`.

    Returns:
        Whether each row is complete, and column to its number of missing values.
    """
    whole = np.ones(frame.n, dtype=bool)
    dropped: dict[str, int] = {}
    for name, uses in needs.items():
        gap = np.zeros(frame.n, dtype=bool)
        if uses & {"number", "response"}:
            gap |= np.isnan(frame.numbers(name)).reshape(frame.n, -1).any(axis=1)
        if "date" in uses:
            gap |= np.isnan(frame.days(name))
        if "level" in uses:
            gap |= frame.is_no_level(name)
        if uses & {"any", "category"}:
            gap |= frame.is_missing(name)
        if gap.any():
            dropped[name] = int(gap.sum())
            whole &= ~gap
    return whole, dropped


def refuse_none(rows: CompleteCases, source: str) -> None:
    """Refuse a table without a complete row.

    Raises:
        DataError: naming the column with the most missing values.
    """
    if rows.read == 0:
        raise DataError(f"{source} has no rows; there is nothing to fit")
    if rows.used == 0:
        worst = max(rows.dropped, key=lambda name: rows.dropped[name])
        raise DataError(
            f"no row of {source} is complete: {worst!r} is missing in {rows.dropped[worst]:,} of "
            f"{rows.read:,} rows; leave it out or fill it"
        )
