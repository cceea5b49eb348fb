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
from ranef.formula.expression import COMPARISONS as OPERATORS
from ranef.formula.expression import Function, Operation
from ranef.formula.factor_coding import FactorCoding, coding_of
from ranef.posterior.posterior import Posterior
from ranef.posterior.reference_grid import ReferenceGrid, common_levels, in_order
from ranef.terms.capabilities import KnownSummand

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

    @property
    def varied(self) -> list[str]:
        """The columns that are varied where the user names none: numbers and factors.

        Offsets are left out, and so are dates and arrays.
        """
        program = self.posterior.program
        free = {
            name
            for _, term in program.all_terms()
            if not isinstance(term, KnownSummand)
            for name in term.needs()
        }
        kinds = {name: self.kind(name) for name in self.common if name in free}
        return [name for name, kind in kinds.items() if kind in ("number", "level")]

    def needed_by(self, groupings: tuple[str, ...]) -> dict[str, set[str]]:
        """Columns that predictions with the effects of these groupings alone need."""
        program = self.posterior.program.limited_to(groupings)
        return program.needs(response=False, companion=False)

    def step_of(self, name: str) -> str:
        """An expression that compares a column, as in I(x > 4), and is a step in it; or ""."""
        program = self.posterior.program
        for _, term in program.all_terms():
            for expression in term.call.expressions():
                for node in expression.walk():
                    steps = isinstance(node, Operation) and node.operator in OPERATORS
                    if steps and name in node.columns():
                        return str(node)
        return ""

    def kind(self, name: str) -> str:
        """Whether the model takes a column as "number", "level", "date" or "array" of numbers.

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
        """The levels of a factor in training, in the order that C() or the column declares.

        Without a declared order they are sorted, as dates are.
        """
        found = in_order(self.sample, name, common_levels(self.sample, name)).tolist()
        declared = next((c.levels for c in self._codings(name) if c.levels), ())
        return [level for level in declared if level in found] or found

    def reference(self, name: str) -> str:
        """The level with which others are compared: that of C(f, ref=...), or the first."""
        levels = self.levels(name)
        named = (c.ref for c in self._codings(name) if c.contrast == "treatment")
        return next((ref for ref in named if ref in levels), levels[0])

    def _codings(self, name: str) -> list[FactorCoding]:
        """What the formula says of the coding of a factor, by C()."""
        return [
            coding_of(node)
            for _, term in self.posterior.program.all_terms()
            for expression in term.call.expressions()
            for node in expression.walk()
            if isinstance(node, Function) and node.name == "C" and name in node.columns()
        ]

    def typical(self, name: str, average: str = "mean") -> Held:
        """The mean or median of a numeric column, the most common level, or the middle date.

        Args:
            name: the column.
            average: "mean" or "median".

        Returns:
            An array of one row.
        """
        if self.kind(name) == "level":
            return self.held(name, common_levels(self.sample, name)[:1].tolist())
        if self.kind(name) == "date":
            dates = self.sample.levels(name)
            texts = np.sort(dates.names[dates.codes[dates.codes >= 0]].astype(str))
            return self.held(name, [str(texts[len(texts) // 2])])
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
