"""Rows that are to be predicted, and draws on them as arrays with dims (chain, draw, row)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.row_labels import Labels
from ranef.errors import OptionError, whole_number
from ranef.families.response_design import ResponseDesign
from ranef.inference.base import Draws
from ranef.lazy import xr
from ranef.numerics.shapes import Int, Shaped
from ranef.posterior.new_rows import (
    Groups,
    limited_program,
    naming_column,
    read_new_rows,
    refuse_unknown_treatment,
)
from ranef.posterior.posterior import Posterior
from ranef.program.program import Program
from ranef.program.training import Designs
from ranef.terms.base import Design

# Largest array of draws that is made, in GiB. Tables of summaries have no such limit.
MOST_GIB = 4.0
# Bytes of a number in double precision.
_BYTES = 8
# Places of draws within a chain.
_Places = Int[NDArray[np.int64], "_"]

# Names of dimensions, which a level of a pandas index cannot have too.
_DIMENSIONS = ("chain", "draw", "row", "category")


@dataclass(frozen=True)
class PredictedRows:
    """Rows of a table, or the training rows, as the program that predicts them takes them.

    Attributes:
        posterior: the posterior of the fit.
        program: the program that predicts, which may be without the effects of some groupings.
        designs: the designs of its terms.
        response: the response design.
        n: number of rows.
        labels: the row labels.
        frame: the rows as read; None for the training rows.
    """

    posterior: Posterior
    program: Program
    designs: Designs
    response: ResponseDesign
    n: int
    labels: Labels
    frame: Frame | None

    @classmethod
    def of(
        cls,
        posterior: Posterior,
        data: object,
        *,
        groups: Groups,
        new_levels: str,
        response: bool,
        companion: bool,
    ) -> PredictedRows:
        """The rows of `data`, or the training rows if it is None.

        Args:
            posterior: the posterior of the fit.
            data: a table or path, or None.
            groups: as for `Fit.predict`.
            new_levels: as for `Fit.predict`.
            response: whether the response is needed.
            companion: whether what stands beside the response is needed.

        Raises:
            OptionError: for None if the fit has read its rows in batches, and otherwise as
                `read_new_rows` and `limited_program`.
            DataError, ColumnError: as `read_new_rows` and `limited_program`.
        """
        program = limited_program(posterior, groups)
        refuse_unknown_treatment(new_levels)
        if data is None:
            return cls._of_training(posterior, program, response=response, companion=companion)
        frame, designs = read_new_rows(
            posterior, data, new_levels, response=response, companion=companion, program=program
        )
        design = posterior.program.family.design(
            posterior.training.state.family, frame, known=response, beside=companion
        )
        return cls(posterior, program, designs, design, frame.n, frame.labels, frame)

    @classmethod
    def _of_training(
        cls, posterior: Posterior, program: Program, *, response: bool, companion: bool
    ) -> PredictedRows:
        training = posterior.training
        if training.stream is not None:
            raise OptionError(
                "the fit has read its rows in batches and does not hold them; pass the rows that "
                "you want as data="
            )
        own = {t.label: training.designs[t.label] for _, t in program.all_terms()}
        designs = own or {"": Design({"row": np.zeros(training.held)})}
        design = training.response
        if not response:
            design = replace(design, value=None)
        if not companion:
            design = replace(design, companion=None)
        labels = training.rows.labels
        return cls(posterior, program, designs, design, training.held, labels, None)

    @contextmanager
    def naming_column(self) -> Iterator[None]:
        """Name the column with the largest value in a row that is too far from the training rows.

        Raises:
            DataError: as `ranef.posterior.new_rows.naming_column`.
        """
        if self.frame is None:
            yield
            return
        with naming_column(self.posterior, self.frame):
            yield


def thinning(draws: Draws, count: int | None) -> _Places | None:
    """Places within each chain of `count` draws in all, evenly spaced and equally many by chain.

    A count that is no multiple of the number of chains is rounded up to one.

    Returns:
        the places, or None for all draws.

    Raises:
        OptionError: for a count that is not a whole number from 1 to the number of draws.
    """
    if count is None:
        return None
    count = whole_number("draws", count, least=1)
    chains, each = draws.shape
    if count > chains * each:
        raise OptionError(
            f"draws must be at most {chains * each:,}, the number of draws of the fit, not "
            f"{count:,}; refit with more draws, or leave draws= out for all of them"
        )
    return np.linspace(0, each - 1, -(-count // chains)).round().astype(np.int64)


def refuse_large(draws: int, rows: int, columns: int = 1) -> None:
    """Refuse an array of draws that is larger than `MOST_GIB`.

    Raises:
        OptionError: naming the size of the array.
    """
    size = draws * rows * columns * _BYTES / 2**30
    if size > MOST_GIB:
        beside = f" x {columns:,} categories" if columns > 1 else ""
        fits = max(1, int(MOST_GIB * 2**30 / (_BYTES * rows * columns)))
        few = f"at most draws={fits:,}" if fits < draws else "fewer draws="
        raise OptionError(
            f"{draws:,} draws x {rows:,} rows{beside} take {size:.1f} GiB, and arrays of draws are "
            f"limited to {MOST_GIB:g} GiB; ask for {few}, for a part of the rows at a time, or for "
            "a summary of each row by fit.predict(), which has no limit"
        )


def labelled(
    values: Shaped[NDArray, "draws rows ..."],
    draws: Draws,
    places: _Places | None,
    labels: Labels,
    name: str,
    categories: Sequence[str] = (),
) -> xr.DataArray:
    """Draws of all chains as an array with dims (chain, draw, row) and perhaps category.

    Args:
        values: the draws, chain after chain.
        draws: the draws of the fit.
        places: places of the draws within each chain, from `thinning`.
        labels: the row labels.
        name: name of the array.
        categories: names of the categories on the last axis of `values`, if it has one.

    Returns:
        The array. The coordinate draw has the numbers that the draws have in `Fit.posterior`, and
        the coordinate row the pandas index of the rows, or numbers from 0.
    """
    chains, each = draws.shape
    dims = ["chain", "draw", "row", *(["category"] if categories else [])]
    coords = xr.Coordinates(
        {"chain": np.arange(chains), "draw": np.arange(each) if places is None else places}
    )
    coords = coords.merge(_row_coordinate(labels, values.shape[1])).coords
    if categories:
        coords = coords.assign(category=np.array(categories))
    return xr.DataArray(values.reshape(chains, -1, *values.shape[1:]), coords, dims, name)


def _row_coordinate(labels: Labels, n: int) -> xr.Coordinates:
    """The coordinate row: the pandas index of the rows, or numbers from 0."""
    index = labels.index
    if index is None:
        return xr.Coordinates({"row": np.arange(n)})
    if isinstance(index, pd.MultiIndex):
        names = [
            f"row_level_{i}" if name is None or name in _DIMENSIONS else name
            for i, name in enumerate(index.names)
        ]
        return xr.Coordinates.from_pandas_multiindex(index.set_names(names), "row")
    return xr.Coordinates({"row": index.rename("row")})
