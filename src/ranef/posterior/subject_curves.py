"""Computes the response's mean of single levels along a predictor, by three kinds of pooling.

These are the level's own line, fitted to its rows alone (no pooling), the curve with the level's
group effects (partial pooling), and the curve without group effects (complete pooling), as in the
panels of mixed models since Bates (lme4: Mixed-Effects Modeling with R, 2010, chapter 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.inference.base import Draws
from ranef.lazy import xr
from ranef.numerics.shapes import Float, Int
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.posterior.reference_grid import Grid, ReferenceGrid, between
from ranef.program import posterior_variables
from ranef.terms.base import RunOptions, clean_name
from ranef.terms.capabilities import VariesByLevel

# Largest number of levels of a grouping. Of more levels so many are taken, evenly over their order.
MOST_LEVELS = 24
# Points along a curve.
_POINTS = 25
# Largest number of rows of a level that are kept.
_MOST_ROWS = 200
# Smallest share of a predictor's variance within levels for which curves along it say anything.
_LEAST_WITHIN = 1e-6

Codes = Int[NDArray, "rows"]
Points = Float[NDArray[np.float64], "points"]


@dataclass(frozen=True)
class SubjectCurves:
    """The curves of the levels of every grouping.

    Attributes:
        posterior: the posterior of the fit.
        draws: the draws to use, usually few of those of the fit.
        seed: seed for whatever is sampled.
    """

    posterior: Posterior
    draws: Draws
    seed: int

    def dataset(self) -> xr.Dataset:
        """The curves and rows of at most 24 levels of each grouping.

        For each grouping g the variables are ``x|g`` (g_point), ``partial|g`` (draw, g_level,
        g_point), ``pooled|g`` (draw, g_point), ``own|g`` (g_level, g_point; NaN for a level with
        fewer than two values of x, or a response whose mean has a link), and the rows ``row_x|g``,
        ``row_y|g`` and ``row_level|g`` (g_row). The attribute ``predictor|g`` names the predictor:
        a slope of g, or else the first numeric predictor that varies within its levels.

        Raises:
            OptionError: for a fit that has read its rows in batches, and for a model without a
                grouping or without a numeric predictor that varies within levels.
        """
        posterior = self.posterior
        if posterior.training.stream is not None:
            raise OptionError(
                "curves of levels need all rows of a level, and this fit has read its rows in "
                "batches and kept a sample; fit a table of fewer rows to see them"
            )
        codes = posterior_variables.codes(
            posterior.program, posterior.training.designs, posterior.training.state
        )
        of: dict[str, Codes] = {}
        for name, own in codes.items():
            of.setdefault(posterior.variables[name].factor, np.asarray(own))
        out, attributes = xr.Dataset(), {"response": str(posterior.program.formula.response)}
        for _, term in posterior.program.terms_with(VariesByLevel):
            for grouping in term.groupings:
                factor = clean_name(grouping)
                predictor = self._predictor(of[factor], factor) if factor in of else None
                if predictor is not None and f"x|{factor}" not in out:
                    out = out.merge(self._grouping(grouping, of[factor], predictor))
                    attributes[f"predictor|{factor}"] = predictor
        if not out:
            raise OptionError(
                f"{posterior.program.formula.text!r} has no grouping with a numeric predictor that "
                "varies within its levels, along which curves could be drawn"
            )
        return out.assign_attrs(attributes)

    def _predictor(self, codes: Codes, factor: str) -> str | None:
        """The numeric predictor along which the curves of a grouping are drawn, if it has one."""
        sample = self.posterior.training.sample
        kinds = ReferenceGrid(self.posterior).predictors()
        slopes = {
            name.removesuffix(f"|{factor}")
            for name, variable in self.posterior.variables.items()
            if variable.role == "group" and variable.factor == factor
        }
        numeric = [name for name, kind in kinds.items() if kind == "number"]
        for name in sorted(numeric, key=lambda name: clean_name(name) not in slopes):
            values = sample.numbers(name)
            known = ~np.isnan(values)
            size = np.maximum(np.bincount(codes[known]), 1)
            mean = np.bincount(codes[known], values[known]) / size
            within = np.var(values[known] - mean[codes[known]])
            if within > _LEAST_WITHIN * np.var(values[known]):
                return name
        return None

    def _grouping(self, grouping: str, codes: Codes, predictor: str) -> xr.Dataset:
        training, factor = self.posterior.training, clean_name(grouping)
        levels = next(
            v.coords[0]
            for v in self.posterior.variables.values()
            if v.role == "group" and v.factor == factor
        )
        present = np.unique(codes)
        if len(present) > MOST_LEVELS:
            present = present[np.linspace(0, len(present) - 1, MOST_LEVELS).astype(int)]
        x = training.sample.numbers(predictor)
        y = self.posterior.program.family.shown(training.response)
        grid = between(x, _POINTS)
        rows = [np.flatnonzero((codes == code) & ~np.isnan(x))[:_MOST_ROWS] for code in present]
        found = {name: training.sample.levels(name) for name in self._columns(grouping)}
        columns = {name: levels_.names[levels_.codes] for name, levels_ in found.items()}
        each: list[dict[str, Grid]] = [
            {predictor: grid, **{n: np.repeat(v[own[:1]], len(grid)) for n, v in columns.items()}}
            for own in rows
        ]
        # A level of a:b has the effects of its level of a as well.
        within = [
            name
            for name in self.posterior.program.groupings()
            if set(self._columns(name)) <= set(columns)
        ]
        partial = self._locations(each, within).reshape(-1, len(present), len(grid))
        pooled = self._locations([{predictor: grid}], [])
        place = np.concatenate(rows)
        names = np.array([levels[code] for code in present], dtype=object)
        level, point, row = (f"{factor}_{end}" for end in ("level", "point", "row"))
        return xr.Dataset(
            {
                f"x|{factor}": (point, grid),
                f"partial|{factor}": (("draw", level, point), partial),
                f"pooled|{factor}": (("draw", point), pooled),
                f"own|{factor}": (
                    (level, point),
                    np.stack([self._own(x[own], y[own], grid) for own in rows]),
                ),
                f"row_x|{factor}": (row, x[place]),
                f"row_y|{factor}": (row, y[place]),
                f"row_level|{factor}": (row, np.repeat(names, [len(own) for own in rows])),
            },
            {level: names},
        )

    def _own(self, x: Points, y: Points, grid: Points) -> Points:
        """The least-squares line of a level's rows; NaN where there is none."""
        identity = self.posterior.program.family.parameters[0].link == "identity"
        if not identity or len(np.unique(x)) < 2:
            return np.full(len(grid), np.nan)
        slope = np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2)
        return y.mean() + slope * (grid - x.mean())

    def _locations(
        self, varying: list[dict[str, Grid]], groupings: list[str]
    ) -> Float[NDArray[np.float64], "draws rows"]:
        """Draws of the response's mean with the effects of some groupings alone."""
        posterior = self.posterior
        frame = ReferenceGrid(posterior).rows(varying)
        program, state = posterior.program.limited_to(groupings), posterior.training.state
        options = RunOptions(training=False, new_levels="zero")
        predictive = Predictive(program, state, self.draws, options, self.seed)
        response = program.family.design(state.family, frame, known=False, beside=False)
        return predictive.locations(program.designs(state, frame), response, frame.n)

    def _columns(self, grouping: str) -> list[str]:
        """The table's columns behind a grouping such as "g" or "a:b"."""
        known = self.posterior.training.sample.columns
        return [grouping] if grouping in known else [n for n in grouping.split(":") if n in known]
