"""Makes rows in which one or two predictors vary and the others are typical."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.levels import LevelsSeen
from ranef.data.tables import from_arrays
from ranef.formula.expression import Function
from ranef.formula.factor_coding import FactorCoding, coding_of
from ranef.numerics.shapes import Float, Shaped
from ranef.posterior.posterior import Posterior
from ranef.terms.capabilities import KnownSummand

# Share of the values of a column that lies beyond each end of its grid.
_TAIL = 0.01
# Name of a level that no table has. Its effects are new, and set to zero.
_NO_LEVEL = "\x00"

# The values of a column at the points of a grid.
Grid = Shaped[NDArray[np.generic], "_ ..."]
Curve = Float[NDArray[np.float64], "points"]


@dataclass(frozen=True)
class ReferenceGrid:
    """The predictors of a fitted model, and rows in which some of them vary.

    Attributes:
        posterior: the posterior of the fit.
    """

    posterior: Posterior

    def predictors(self) -> dict[str, str]:
        """Columns in the first parameter's predictor: "number", "level" or "date".

        Groupings and columns of arrays are left out.
        """
        program, sample = self.posterior.program, self.posterior.training.sample
        out = {}
        for term in program.terms.get(program.location, ()):
            if isinstance(term, KnownSummand):
                continue
            for name in (n for e in term.call.expressions() for n in e.columns()):
                kind = self.kind(name, program.needs()[name])
                if kind != "number" or np.ndim(sample.numbers(name)) == 1:
                    out[name] = kind
        return out

    def kind(self, name: str, uses: set[str]) -> str:
        """Whether a column is taken as numbers ("number"), as a factor ("level") or as "date"."""
        if uses == {"date"}:
            return "date"
        sample = self.posterior.training.sample
        # True and false are two levels in arithmetic and conditions too: nothing lies between them.
        if "level" in uses or sample.is_boolean(name):
            return "level"
        if "any" in uses and sample.is_text(name):
            return "level"
        return "number"

    def in_order(self, name: str, levels: NDArray[np.object_]) -> NDArray[np.object_]:
        """The given levels in the order of the formula's C(), else of the column.

        The reference that C() names is the first.
        """
        program, sample = self.posterior.program, self.posterior.training.sample
        calls = (e for _, term in program.all_terms() for e in term.call.expressions())
        coded = (e for e in calls if isinstance(e, Function) and e.name == "C")
        call = next((e for e in coded if e.columns() == (name,)), None)
        coding = FactorCoding() if call is None else coding_of(call)
        own = in_order(sample, name, levels).tolist()
        first = [coding.ref] if coding.ref is not None and coding.contrast == "treatment" else []
        whole = dict.fromkeys([*first, *coding.levels, *own])
        return np.array([level for level in whole if level in own], dtype=object)

    def rows(self, varying: Sequence[Mapping[str, Grid]]) -> Frame:
        """The rows of several grids, one below the other.

        Each element of `varying` maps the columns of one grid to their values. All other
        predictors are at their mean or most common level, and groupings at a new level.
        """
        program, sample = self.posterior.program, self.posterior.training.sample
        needs = program.needs(response=False, companion=False)
        predictors = {
            name
            for _, term in program.all_terms()
            for e in term.call.expressions()
            for name in e.columns()
        }
        sizes = [len(next(iter(grid.values()))) for grid in varying]
        columns = {}
        for name, uses in needs.items():
            if name not in predictors:
                typical = _NO_LEVEL
            elif self.kind(name, uses) == "level":
                typical = common_levels(sample, name)[0]
            elif self.kind(name, uses) == "date":
                typical = dates_of(np.nanmedian(sample.days(name)))
            else:
                typical = np.nanmean(sample.numbers(name), axis=0)
            columns[name] = np.concatenate(
                [
                    grid.get(name, np.stack([np.asarray(typical)] * size))
                    for grid, size in zip(varying, sizes, strict=True)
                ]
            )
            if sample.is_boolean(name) and columns[name].dtype.kind in "OU":
                columns[name] = columns[name] == "True"
        return from_arrays(columns)


def between(values: NDArray[np.float64], points: int) -> Curve:
    """Evenly spaced values between the outer quantiles of a column, missing values ignored."""
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    if low == high:
        low, high = values.min(), values.max()
    return np.linspace(low, high, points)


def dates_of(days: float | Curve) -> NDArray[np.datetime64]:
    """Points in time, from days since 1970-01-01."""
    microseconds = np.rint(np.asarray(days) * 86_400e6).astype(np.int64)
    return microseconds.astype("datetime64[us]")


def common_levels(sample: Frame, name: str) -> NDArray[np.object_]:
    """The levels that occur in the sample, the most common first."""
    found = sample.levels(name)
    counts = np.bincount(found.codes[found.codes >= 0], minlength=len(found.names))
    order = np.argsort(-counts, kind="stable")
    return found.names[order][: int((counts > 0).sum())]


def in_order(sample: Frame, name: str, levels: NDArray[np.object_]) -> NDArray[np.object_]:
    """The given levels in the order that the column declares, or sorted if it declares none."""
    order = LevelsSeen().add(sample.levels(name)).ordered()
    kept = set(levels)
    return np.array([level for level in order if level in kept], dtype=object)
