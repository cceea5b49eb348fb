"""The rows at which effects are evaluated: `newdata`, the cells of `by`, weights and groupings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.levels import LevelsSeen
from ranef.data.row_labels import Labels
from ranef.data.tables import read
from ranef.effects.columns import Held, Predictors, repeated, with_columns
from ranef.effects.grids import grid, without_labels
from ranef.errors import ColumnError, DataError, OptionError, suggestion
from ranef.posterior.new_rows import Groups, limited_program
from ranef.posterior.posterior import Posterior
from ranef.program.program import Program

_WORDS = ("mean", "median", "balanced")
# Name of a level that no table has; its effects are those of a new level.
_NO_LEVEL = "\x00"


@dataclass(frozen=True)
class Rows:
    """The rows at which a fit is evaluated.

    Attributes:
        frame: the rows.
        program: the program that predicts them, without the groupings that are left out.
        new_levels: how new levels of groupings are treated, as for `Fit.predict`.
        labels: labels of the rows, and the kind of table that results are.
        what: the rows in words, for the line below a table.
        shown: the columns that identify a row in unit-level results.
        notes: what a reader has to know about the rows.
    """

    frame: Frame
    program: Program
    new_levels: str
    labels: Labels
    what: str
    shown: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.frame.n


@dataclass(frozen=True)
class Cells:
    """The cells over which rows are averaged.

    Attributes:
        codes: the cell of each row, (n,).
        columns: the values of the `by` columns in each cell, by name.
        weights: the weight of each row, (n,); those of a cell sum to one.
        count: number of cells.
    """

    codes: NDArray[np.int64]
    columns: Mapping[str, Held]
    weights: NDArray[np.float64] = field(repr=False)
    count: int = 1


def rows_of(
    posterior: Posterior,
    newdata: object,
    groups: Groups,
    new_levels: str,
    extra: Sequence[str] = (),
) -> Rows:
    """Read the rows of `newdata`.

    Args:
        posterior: the posterior of the fit.
        newdata: None for the training rows, a table or path, or "mean", "median" or "balanced"
            for a grid of typical values.
        groups: the groupings whose effects are included, as for `Fit.predict`.
        new_levels: as for `Fit.predict`.
        extra: names of further columns that are needed.

    Raises:
        ColumnError: for a column that does not exist, or a grouping that the model does not have.
        OptionError: for another word.
    """
    predictors = Predictors(posterior)
    program = limited_program(posterior, groups)
    form = predictors.sample.labels.form
    if newdata is None:
        return _training(predictors, program, new_levels, extra)
    if isinstance(newdata, str) and newdata in _WORDS:
        frame = without_labels(grid(predictors, {}, newdata), form)
        return _typical(predictors, program, new_levels, frame, f"a grid ({newdata})", extra)
    needs = list(program.needs(response=False, companion=False))
    if getattr(newdata, "is_grid", False):
        names = [str(name) for name in newdata.columns]  # pyright: ignore
        frame = read(newdata, names, program.missing)
        return _typical(predictors, program, new_levels, frame, "a grid", extra)
    if isinstance(newdata, Frame):
        return _typical(predictors, program, new_levels, newdata, "a grid", extra)
    frame = read(newdata, list(dict.fromkeys([*needs, *extra])), program.missing)
    if frame.n == 0:
        raise DataError(f"{frame.source} has no rows to average over")
    shown = tuple(name for name in needs if np.ndim(frame.columns[name]) < 2)
    what = f"{frame.n:,} rows of newdata"
    return Rows(frame, program, new_levels, frame.labels, what, shown)


def _training(
    predictors: Predictors, program: Program, new_levels: str, extra: Sequence[str]
) -> Rows:
    frame, used = predictors.sample, predictors.posterior.training.rows.used
    _refuse_absent(frame, extra, "the training rows that the fit has kept; pass newdata=table")
    notes = ()
    if used > frame.n:
        notes = (
            f"of {used:,} training rows the fit has kept {frame.n:,}, evenly spaced; pass "
            "newdata=table for all",
        )
    places = predictors.posterior.training.rows.places
    labels = predictors.posterior.training.rows.labels
    if used > frame.n or (places is None and frame.rows is not None):
        labels = Labels(frame.labels.form)
    shown = tuple(
        name
        for name in program.needs(response=False, companion=False)
        if np.ndim(frame.columns[name]) < 2
    )
    return Rows(frame, program, new_levels, labels, f"{frame.n:,} training rows", shown, notes)


def _typical(
    predictors: Predictors,
    program: Program,
    new_levels: str,
    frame: Frame,
    what: str,
    extra: Sequence[str],
) -> Rows:
    """A grid, which has the effects of the groupings that it names alone.

    With new_levels="sample" it is a row of a new level of every other grouping.
    """
    _refuse_absent(frame, extra, "the grid; name it in datagrid()")
    kept, columns, notes = [], {}, ()
    for name in program.groupings():
        absent = predictors.columns_of(name) - set(frame.columns)
        if not absent:
            kept.append(name)
        elif new_levels == "sample":
            columns |= {column: np.full(frame.n, _NO_LEVEL, object) for column in absent}
    shown = tuple(name for name in frame.columns if name and np.ndim(frame.columns[name]) < 2)
    if new_levels == "sample":
        frame = with_columns(frame, columns)
    elif len(kept) < len(program.groupings()):
        out = ", ".join(name for name in program.groupings() if name not in kept)
        program, notes = program.limited_to(kept), (f"without the group effects of {out}",)
    return Rows(
        frame,
        program,
        new_levels,
        Labels(frame.labels.form),
        f"{frame.n:,} rows of {what}",
        shown,
        notes,
    )


def _refuse_absent(frame: Frame, names: Sequence[str], where: str) -> None:
    for name in names:
        if name not in frame.columns:
            raise ColumnError(
                f"column {name!r} is not in {where}; {suggestion(name, frame.columns)}"
            )


def cells_of(
    rows: Rows, by: Sequence[str], weights: str | None, predictors: Predictors | None = None
) -> Cells:
    """The cells of the columns `by`, all rows for none, with the weights of their rows.

    Args:
        rows: the rows.
        by: the columns.
        weights: the column of weights, or None.
        predictors: cells are in the order of these predictors' levels, or in that of the values,
            of the first column, then of the next. None for the order in which they occur.

    Raises:
        DataError: for a missing value in a column of `by`, and for weights that are negative or
            missing, or that are all zero in a cell.
    """
    frame = rows.frame
    places = np.zeros(frame.n, np.int64)
    for name in by:
        codes, count = _codes(frame, name, predictors)
        places = places * count + codes
    distinct, first, codes = np.unique(places, return_index=True, return_inverse=True)
    if predictors is None:
        order = np.argsort(first)
        first, codes = first[order], np.argsort(order)[codes]
    columns = {name: repeated(frame.columns[name], first) for name in by}
    values = np.ones(frame.n) if weights is None else frame.numbers(weights)
    if weights is not None:
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                f"the weights in column {weights!r} must be zero or more, and are "
                f"{values[row]:g} in row {frame.row_number(row)}"
            )
    total = np.bincount(codes, values, len(distinct))
    if (total <= 0).any():
        raise DataError(f"the weights in column {weights!r} are all zero in one of the averages")
    return Cells(codes, columns, values / total[codes], len(distinct))


def _codes(frame: Frame, name: str, predictors: Predictors | None) -> tuple[NDArray[np.int64], int]:
    """The place of each row's value among the values of a column, and their number."""
    gaps = frame.is_missing(name)
    if gaps.any():
        raise DataError(
            f"column {name!r} of by= is missing in {int(gaps.sum()):,} rows; fill or drop them"
        )
    known = predictors if predictors is not None and name in predictors.uses else None
    if known is not None and known.kind(name) == "level":
        order = known.levels(name)
        seen = set(order)
        order += [level for level in frame.levels(name).names.tolist() if level not in seen]
    elif frame.is_text(name) or frame.is_boolean(name):
        order = list(LevelsSeen().add(frame.levels(name)).ordered())
    else:
        distinct, codes = np.unique(frame.numbers(name), return_inverse=True)
        return codes.astype(np.int64), len(distinct)
    found = frame.levels(name)
    place = {level: i for i, level in enumerate(order)}
    table = np.array([place.get(level, -1) for level in found.names.tolist()], np.int64)
    return table[found.codes], max(len(order), 1)


def by_names(by: object) -> tuple[str, ...]:
    """The columns of `by`: none for None, True and False.

    Raises:
        OptionError: for another type.
    """
    if by is None or isinstance(by, bool):
        return ()
    if isinstance(by, str):
        return (by,)
    if isinstance(by, (list, tuple)) and all(isinstance(name, str) for name in by):
        return tuple(dict.fromkeys(by))
    raise OptionError(f"by must be a column, a list of columns or True, not {by!r}")
