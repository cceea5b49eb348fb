"""Rows without a gap in any column that the model needs, and what became of the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.row_labels import Labels
from ranef.errors import DataError


@dataclass(frozen=True)
class CompleteCases:
    """What became of the rows of a table.

    Attributes:
        read: rows in the table.
        used: rows the fit is based on.
        dropped: column to the number of rows in which it is missing; a row with several
            gaps counts once for each of them.
        places: where each used row stands in the table, from 0; None where all are used, and
            where rows are read in batches.
        labels: what the used rows are called in the table.
    """

    read: int
    used: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    places: NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    labels: Labels = field(default_factory=Labels, repr=False, compare=False)

    def __str__(self) -> str:
        text = f"{self.read:,} rows read, {self.used:,} used"
        if self.read > self.used:
            why = ", ".join(f"{name} missing in {count:,}" for name, count in self.dropped.items())
            text += f"; {self.read - self.used:,} dropped: {why}"
        return text


def complete(frame: Frame, needs: Mapping[str, set[str]]) -> tuple[Frame, CompleteCases]:
    """The rows without a gap in any needed column, and what became of the others.

    A gap in a predictor or grouping drops the row, NaN included, but for a column whose missing
    values the model has for parameters ("gaps"). So does a gap in the response and in what stands
    beside it; what is infinite is no gap, and is left for the family to refuse.

    Args:
        frame: the table.
        needs: column to how it is used: "number", "level", "any", "response", "category"
            (a response that may be texts) or "gaps".

    Raises:
        DataError: where no row is left.
    """
    refuse_none(CompleteCases(frame.n, frame.n), frame.source)
    whole, dropped = gaps(frame, needs)
    kept = frame.keep(whole)
    labels = frame.labels if kept.rows is None else frame.labels.at(kept.rows)
    rows = CompleteCases(frame.n, kept.n, dropped, kept.rows, labels)
    refuse_none(rows, frame.source)
    return kept, rows


def gaps(frame: Frame, needs: Mapping[str, set[str]]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """(n,) True for rows without a gap, and by column how many gaps it has."""
    whole = np.ones(frame.n, dtype=bool)
    dropped: dict[str, int] = {}
    for name, uses in needs.items():
        gap = np.zeros(frame.n, dtype=bool)
        if uses & {"number", "response"}:
            gap |= np.isnan(frame.numbers(name)).reshape(frame.n, -1).any(axis=1)
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
        DataError: naming the column with most gaps.
    """
    if rows.read == 0:
        raise DataError(f"{source} has no rows; there is nothing to fit")
    if rows.used == 0:
        worst = max(rows.dropped, key=lambda name: rows.dropped[name])
        raise DataError(
            f"no row of {source} is complete: {worst!r} is missing in {rows.dropped[worst]:,} of "
            f"{rows.read:,} rows; leave it out or fill it"
        )
