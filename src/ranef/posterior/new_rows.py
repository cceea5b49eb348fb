"""Reads the rows to predict, and refuses those that the model cannot predict.

These are rows with a missing predictor, with a level that did not occur in training, or too far
from the training rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from ranef.data.frame import Frame
from ranef.data.tables import read
from ranef.errors import DataError, OptionError
from ranef.posterior.posterior import Posterior
from ranef.posterior.program_replay import OutOfReachError
from ranef.program.training import Designs

_NEW_LEVELS = ("error", "sample", "zero")


def read_new_rows(
    posterior: Posterior, data: object, new_levels: str, *, response: bool, companion: bool
) -> tuple[Frame, Designs]:
    """Read the rows of `data` and make their designs.

    Args:
        posterior: the posterior of the fit.
        data: a table or path.
        new_levels: as for `Fit.predict`.
        response: whether the response is needed.
        companion: whether what stands beside the response (trials, weights, standard errors)
            is needed.

    Raises:
        OptionError: for an unknown value of `new_levels`.
        DataError: for no rows, a missing value, or a new level with new_levels="error".
    """
    if new_levels not in _NEW_LEVELS:
        raise OptionError(
            f"new_levels must be one of {', '.join(map(repr, _NEW_LEVELS))}, not {new_levels!r}"
        )
    program = posterior.program
    needs = program.needs(response=response, companion=companion)
    frame = read(data, list(needs), program.missing)
    if frame.n == 0:
        raise DataError(f"{frame.source} has no rows to predict")
    for name, uses in needs.items():
        if uses == {"gaps"}:
            continue
        gaps = frame.is_missing(name)
        if gaps.any():
            raise DataError(
                f"column {name!r} is missing in {int(gaps.sum()):,} of {frame.n:,} rows, the "
                f"first of them row {int(np.argmax(gaps)) + 1}; fill or drop them to predict"
            )
    designs = program.designs(posterior.training.state, frame)
    if new_levels == "error":
        _refuse_new(designs)
    return frame, designs


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
