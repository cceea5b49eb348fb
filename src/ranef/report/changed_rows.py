"""Predictions on rows in which one column has been changed, for every posterior draw.

Everything that a page says about an effect is a difference between such predictions, so that it
holds for every family, term and method alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.levels import LevelsSeen
from ranef.data.tables import from_arrays
from ranef.numerics.shapes import Float

if TYPE_CHECKING:
    from ranef.fit import Fit
    from ranef.lazy import xr

# Largest number of posterior draws behind a sentence, and of rows over which it averages.
_DRAWS = 1000
_ROWS = 500
# A level that no table has, whose effects are zero.
_NO_LEVEL = "\x00"

Draws = Float[NDArray[np.float64], "draws"]
Matrix = Float[NDArray[np.float64], "draws rows"]


def date_text(days: float) -> str:
    """The date so many days after 1970-01-01."""
    return str(np.datetime64("1970-01-01", "D") + round(days))


@dataclass(frozen=True)
class Predicted:
    """Predictions of the response on some rows.

    Attributes:
        shares: the probability of each category, by its name; empty for other responses.
        mean: the response's mean; None for a response of categories.
    """

    shares: Mapping[str, Matrix]
    mean: Matrix | None


@dataclass(frozen=True)
class ChangedRows:
    """The training rows of a fit, or typical rows, with some columns changed.

    Attributes:
        fit: the fit.
    """

    fit: Fit

    @cached_property
    def rows(self) -> Frame:
        """The training rows, or evenly spaced ones of many, without gaps that mi() would fill."""
        sample = self.fit.training.sample
        whole = np.ones(sample.n, bool)
        for name in self.fit.program.columns:
            whole &= ~sample.is_missing(name)
        places = np.flatnonzero(whole)
        chosen = np.unique(np.linspace(0, len(places) - 1, min(_ROWS, len(places))).astype(int))
        return sample.take(places[chosen])

    def is_level(self, name: str) -> bool:
        """Whether the model takes a column as levels rather than as numbers."""
        sample, uses = self.fit.training.sample, self.fit.program.needs().get(name, set())
        factor = sample.is_text(name) or sample.is_boolean(name)
        return "level" in uses or ("any" in uses and factor)

    def is_array(self, name: str) -> bool:
        """Whether a column holds an array in each row."""
        return isinstance(self.fit.training.sample.column(name), np.ndarray)

    def is_date(self, name: str) -> bool:
        """Whether the model takes a column as dates."""
        return self.fit.program.needs().get(name) == {"date"}

    def numbers(self, name: str) -> NDArray[np.float64]:
        """The values of a column of numbers, without gaps; dates as days since 1970-01-01."""
        values = self._numbers(self.fit.training.sample, name)
        return values[~np.isnan(values)]

    def _numbers(self, frame: Frame, name: str) -> NDArray[np.float64]:
        return frame.days(name) if self.is_date(name) else frame.numbers(name)

    def levels(self, name: str) -> list[str]:
        """The levels of a column that occur, the reference of the formula's coding first."""
        sample = self.fit.training.sample
        found = sample.levels(name)
        present = set(found.names[np.unique(found.codes[found.codes >= 0])])
        for state in self.fit.training.state.terms.values():
            for coding in getattr(getattr(state, "matrix", None), "codings", ()):
                for part in coding.parts:
                    if part.levels and part.expression.columns() == (name,):
                        return list(part.levels)
        return [level for level in LevelsSeen().add(found).ordered() if level in present]

    def common_levels(self, name: str) -> list[str]:
        """The levels of a column, the most common first."""
        found = self.fit.training.sample.levels(name)
        counts = np.bincount(found.codes[found.codes >= 0], minlength=len(found.names))
        return [str(found.names[i]) for i in np.argsort(-counts, kind="stable") if counts[i]]

    def typical(self, changes: Sequence[Mapping[str, object]]) -> Frame:
        """A typical row for each mapping of columns to values.

        All other predictors are at their mean or most common level, groupings at a level without
        effects.
        """
        frame = self.rows.take(np.zeros(len(changes), np.int64))
        columns = {}
        for name in self.fit.program.needs(response=False, companion=False):
            if self.is_array(name):
                middle = self.fit.training.sample.numbers(name).mean(axis=0)
                columns[name] = np.stack([middle] * len(changes))
                continue
            held = self._typical_value(name)
            columns[name] = np.array([own.get(name, held) for own in changes])
        return self._changed(frame, columns)

    def _typical_value(self, name: str) -> object:
        predictors = {
            column
            for _, term in self.fit.program.all_terms()
            for expression in term.call.expressions()
            for column in expression.columns()
        }
        if name not in predictors:
            return _NO_LEVEL
        if self.is_level(name):
            return self.common_levels(name)[0]
        return float(self.numbers(name).mean())

    def with_value(self, name: str, value: object) -> Frame:
        """The training rows with one value in a column."""
        return self._changed(self.rows, {name: np.array([value] * self.rows.n)})

    def moved(self, name: str, move: Callable[[Any], Any]) -> Frame:
        """The training rows with each value of a column of numbers moved."""
        return self._changed(self.rows, {name: move(self._numbers(self.rows, name))})

    def only(self, names: Sequence[str]) -> Frame:
        """Typical rows with some columns as they are in the training rows."""
        frame = self.typical([{}] * self.rows.n)
        own = {name: self.rows.columns[name] for name in names}
        return replace(frame, columns={**frame.columns, **own}, _cache={})

    def _changed(self, frame: Frame, columns: Mapping[str, NDArray]) -> Frame:
        own = {name: self._as_column(name, values) for name, values in columns.items()}
        made = from_arrays(own).columns if own else {}
        return replace(frame, columns={**frame.columns, **made}, _cache={})

    def _as_column(self, name: str, values: NDArray) -> NDArray:
        """Values as the column of the table holds them: levels as texts, days as dates."""
        if values.dtype.kind == "U":
            boolean = self.fit.training.sample.is_boolean(name)
            return values == "True" if boolean else values.astype(object)
        if self.is_date(name):
            return np.array([date_text(days) for days in values], dtype=object)
        return values

    def predictor(self, frame: Frame, parameter: str) -> Matrix:
        """A parameter's predictor on the rows of `frame`, without group effects."""
        return self._flat(
            self.fit.linpred(frame, parameter, groups=None, new_levels="zero", draws=self._draws)
        )

    def parameter(self, frame: Frame, parameter: str) -> Matrix:
        """A parameter on its own scale, with the group effects of known levels."""
        return self._flat(
            self.fit.linpred(frame, parameter, transform=True, new_levels="zero", draws=self._draws)
        )

    def predicted(self, frame: Frame) -> Predicted:
        """The response's mean or probabilities, with the group effects of known levels."""
        found = self.fit.epred(frame, new_levels="zero", draws=self._draws)
        values = self._flat(found)
        if "category" not in found.dims:
            return Predicted({}, values)
        names = map(str, found["category"].to_numpy())
        return Predicted({name: values[..., k] for k, name in enumerate(names)}, None)

    @staticmethod
    def _flat(found: xr.DataArray) -> NDArray[np.float64]:
        """Draws of all chains, (draws, rows) or (draws, rows, categories)."""
        values = found.to_numpy()
        return values.reshape(-1, *values.shape[2:])

    @cached_property
    def _draws(self) -> int:
        chains, each = self.fit.draws.shape
        return min(_DRAWS, chains * each)
