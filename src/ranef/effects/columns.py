"""The predictors of a fit as effects take them: numbers, factors, logicals, typical values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.tables import from_arrays
from ranef.errors import ColumnError, DataError, OptionError, suggestion
from ranef.fit.base import FittedModel
from ranef.posterior.posterior import Posterior
from ranef.posterior.reference_grid import ReferenceGrid, common_levels, in_order

# A column as a `Frame` holds it, an Arrow or NumPy array.
Held: TypeAlias = Any
Numbers: TypeAlias = NDArray[np.float64]


def posterior_of(fit: object) -> Posterior:
    """The posterior of a fit.

    Raises:
        OptionError: for anything else than a fit.
    """
    if not isinstance(fit, FittedModel):
        raise OptionError(
            f"the functions of rf.effects take a fit of rf.Model, not {type(fit).__name__}"
        )
    return fit._known


@dataclass(frozen=True)
class Predictors:
    """The columns behind the predictors of a fit, with what the training rows say of them.

    Attributes:
        posterior: the posterior of the fit.
    """

    posterior: Posterior

    @cached_property
    def sample(self) -> Frame:
        """The training rows, or evenly spaced ones of them where there are many."""
        return self.posterior.training.sample

    @cached_property
    def uses(self) -> dict[str, set[str]]:
        """Columns that predictions need, each with the ways in which it is used."""
        return self.posterior.program.needs(response=False, companion=False)

    @cached_property
    def common(self) -> list[str]:
        """Columns that predictions need without group effects, in the order of the formula."""
        return list(self.needed_by(()))

    def needed_by(self, groupings: tuple[str, ...]) -> dict[str, set[str]]:
        """Columns that predictions with the effects of these groupings alone need."""
        program = self.posterior.program.limited_to(groupings)
        return program.needs(response=False, companion=False)

    def columns_of(self, grouping: str) -> set[str]:
        """Columns that only the effects of this grouping need."""
        return set(self.needed_by((grouping,))) - set(self.common)

    def kind(self, name: str) -> str:
        """Whether the model takes a column as a "number", a "level" or as "array" of numbers.

        Raises:
            ColumnError: for a column that is not behind a predictor.
        """
        if name not in self.uses:
            raise ColumnError(f"the model has no predictor {name!r}; {suggestion(name, self.uses)}")
        if name not in self.common:
            return "level"
        kind = ReferenceGrid(self.posterior).kind(name, self.needed_by(())[name])
        return "array" if kind == "number" and self.sample.numbers(name).ndim > 1 else kind

    def is_boolean(self, name: str) -> bool:
        """Whether the column held Booleans in training."""
        return self.sample.is_boolean(name)

    def numbers(self, name: str) -> Numbers:
        """The values of a numeric column in training, without missing ones.

        Raises:
            DataError: if there are none.
        """
        values = self.sample.numbers(name)
        values = values[~np.isnan(values)]
        if not len(values):
            raise DataError(f"column {name!r} has no value in the training rows")
        return values

    def levels(self, name: str) -> list[str]:
        """The levels of a factor in training, in declared order or else sorted."""
        return in_order(self.sample, name, common_levels(self.sample, name)).tolist()

    def typical(self, name: str, average: str = "mean") -> Held:
        """The mean or median of a numeric column, or the most common level of a factor.

        Args:
            name: the column.
            average: "mean" or "median".

        Returns:
            An array of one row.
        """
        if self.kind(name) == "level":
            return self.held(name, common_levels(self.sample, name)[:1].tolist())
        values = self.sample.numbers(name)
        found = np.nanmean(values, axis=0) if average == "mean" else np.nanmedian(values, axis=0)
        return np.asarray(found)[None]

    def held(self, name: str, levels: list[str]) -> Held:
        """Levels of a factor as an array of the type of its column."""
        return self.sample.typed(name, levels)


def with_columns(frame: Frame, columns: Mapping[str, Held]) -> Frame:
    """The rows of `frame` with some of their columns replaced or added."""
    made = {
        name: from_arrays({name: values}).columns[name]
        if isinstance(values, np.ndarray)
        else values
        for name, values in columns.items()
    }
    return replace(frame, columns={**frame.columns, **made}, _cache={})


def repeated(values: Held, places: NDArray[np.int64]) -> Held:
    """The elements of a column at `places`, which may repeat."""
    return values[places] if isinstance(values, np.ndarray) else values.take(places)


def listed(values: Held) -> list[object]:
    """The elements of a column as Python's own values."""
    return values.tolist() if isinstance(values, np.ndarray) else values.to_pylist()
