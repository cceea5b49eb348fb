"""Reads the rows to predict, and refuses those that the model cannot predict.

These are rows with a missing predictor, with a level that did not occur in training, or too far
from the training rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.data.complete_cases import gaps
from ranef.data.frame import Frame
from ranef.data.tables import read
from ranef.errors import ColumnError, DataError, OptionError, suggestion
from ranef.posterior.posterior import Posterior
from ranef.posterior.program_replay import OutOfReachError
from ranef.program.program import Program
from ranef.program.training import Designs
from ranef.terms.base import Design, clean_name

# Which group effects a prediction includes.
Groups: TypeAlias = str | Sequence[str] | None

_NEW_LEVELS = ("error", "sample", "zero")
_MISSING = ("error", "keep")


def limited_program(posterior: Posterior, groups: Groups) -> Program:
    """The program of a fit with the group effects of some groupings alone.

    Args:
        posterior: the posterior of the fit.
        groups: "all", None for no group effects, one grouping or a list of them.

    Raises:
        OptionError: for another type.
        ColumnError: for a grouping that the model does not have.
    """
    program = posterior.program
    if isinstance(groups, str) and groups == "all":
        return program
    asked = [groups] if isinstance(groups, str) else groups
    if asked is not None and not isinstance(asked, (list, tuple)):
        raise OptionError(
            f"groups must be 'all', None or a list of groupings such as ['g'], not {groups!r}"
        )
    known = {clean_name(name): name for name in program.groupings()}
    for name in asked or ():
        if clean_name(str(name)) not in known:
            hint = suggestion(str(name), known.values()) if known else "it has none"
            raise ColumnError(f"the model has no grouping {name!r}; {hint}")
    return program.limited_to([known[clean_name(str(name))] for name in asked or ()])


def refuse_unknown_treatment(new_levels: object) -> None:
    """Refuse a treatment of new levels that does not exist.

    Raises:
        OptionError: naming the treatments.
    """
    if new_levels not in _NEW_LEVELS:
        raise OptionError(
            f"new_levels must be one of {', '.join(map(repr, _NEW_LEVELS))}, not {new_levels!r}"
        )


def read_new_rows(
    posterior: Posterior,
    data: object,
    new_levels: str,
    *,
    response: bool,
    companion: bool,
    program: Program | None = None,
) -> tuple[Frame, Designs]:
    """Read the rows of `data` and make their designs.

    Args:
        posterior: the posterior of the fit.
        data: a table or path.
        new_levels: as for `Fit.predict`.
        response: whether the response is needed.
        companion: whether what stands beside the response (trials, weights, standard errors)
            is needed.
        program: the program that predicts the rows, if not that of the fit (`limited_program`).

    Raises:
        OptionError: for an unknown value of `new_levels`.
        DataError: for no rows, a missing value, or a new level with new_levels="error".
    """
    refuse_unknown_treatment(new_levels)
    program = program or posterior.program
    needs = program.needs(response=response, companion=companion)
    frame = read(data, list(needs), program.missing)
    if frame.n == 0:
        raise DataError(f"{frame.source} has no rows to predict")
    _refuse_gaps(frame, needs)
    # A program of no terms has a design too, which says how many rows there are.
    rows = {"": Design({"row": np.zeros(frame.n)})}
    designs = program.designs(posterior.training.state, frame) or rows
    if new_levels == "error":
        _refuse_new(designs)
    return frame, designs


@dataclass(frozen=True)
class RowsWithGaps:
    """Rows to predict, of which some have a missing value in a column that the model needs.

    Attributes:
        frame: the rows; a row with a gap has the values of another row in all columns.
        gaps: whether each row has a gap.
    """

    frame: Frame
    gaps: NDArray[np.bool_]

    def without(self, columns: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Results by row, with NaN in the rows with a gap."""
        if not self.gaps.any():
            return dict(columns)
        return {name: np.where(self.gaps, np.nan, values) for name, values in columns.items()}


def read_with_gaps(
    posterior: Posterior,
    data: object,
    missing: str,
    *,
    response: bool,
    companion: bool,
    program: Program | None = None,
) -> RowsWithGaps:
    """Read the rows of `data`, and fill in those with a gap where they are to be kept.

    Args:
        posterior: the posterior of the fit.
        data: a table or path.
        missing: "error" to refuse a row with a gap, "keep" to fill it in.
        response: as for `read_new_rows`.
        companion: as for `read_new_rows`.
        program: as for `read_new_rows`.

    Raises:
        OptionError: for another value of `missing`.
        DataError: as `read_new_rows`.
    """
    if missing not in _MISSING:
        raise OptionError(f"missing must be 'error' or 'keep', not {missing!r}")
    program = program or posterior.program
    needs = program.needs(response=response, companion=companion)
    frame = read(data, list(needs), program.missing)
    needs = {name: uses for name, uses in needs.items() if uses != {"gaps"}}
    if missing == "error" or frame.n == 0:
        return RowsWithGaps(frame, np.zeros(frame.n, bool))
    whole, _ = gaps(frame, needs)
    if whole.all():
        return RowsWithGaps(frame, ~whole)
    places = np.where(whole, np.arange(frame.n), int(np.argmax(whole)))
    # If no row is complete, a training row stands for all of them.
    filled = frame if whole.any() else posterior.training.sample
    filled = filled.take(places if whole.any() else np.zeros(frame.n, int))
    return RowsWithGaps(replace(filled, labels=frame.labels), ~whole)


def _refuse_gaps(frame: Frame, needs: Mapping[str, set[str]]) -> None:
    """Refuse rows with a missing value.

    Raises:
        DataError: naming the column and the first row.
    """
    for name, uses in needs.items():
        if uses == {"gaps"}:
            continue
        missing = ~gaps(frame, {name: uses - {"gaps"}})[0]
        if missing.any():
            raise DataError(
                f"column {name!r} is missing in {int(missing.sum()):,} of {frame.n:,} rows, the "
                f"first of them row {int(np.argmax(missing)) + 1}; fill or drop them to predict, "
                "or use predict(..., missing='keep')"
            )


@contextmanager
def naming_column(posterior: Posterior, frame: Frame) -> Iterator[None]:
    """Add to an `OutOfReachError` the numeric column with the largest value in that row.

    Raises:
        DataError: naming the row of the table, the column and the size of its value.
    """
    try:
        yield
    except OutOfReachError as error:
        needs = posterior.program.needs(response=False, companion=False)
        uses = ((name, use) for name, each in needs.items() for use in each)
        sizes = {
            name: float(np.abs(frame.numbers(name)[error.place]).max())
            for name, use in uses
            if use in ("number", "any") and not frame.is_text(name)
        }
        if not sizes:
            raise
        name = max(sizes, key=lambda each: sizes[each])
        raise DataError(
            f"the prediction of row {frame.row_number(error.place)} is not a finite number or "
            f"too large to be squared; its column {name!r} is of the size {sizes[name]:.3g}, "
            "too far from the training rows, so check it or leave the row out"
        ) from None


def _refuse_new(designs: Designs) -> None:
    """Refuse levels that did not occur in training."""
    for label, design in designs.items():
        for new in filter(None, design.new):
            shown = ", ".join(map(repr, new[:3]))
            more = f" and {len(new) - 3} more" if len(new) > 3 else ""
            raise DataError(
                f"({label}) has no effect for the level {shown}{more}, not seen in training; "
                "use new_levels='sample' or new_levels='zero'"
            )
