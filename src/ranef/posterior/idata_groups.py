"""The groups that `Fit.extend` adds to `Fit.idata`, such as posterior predictive draws.

The figures of `ranef.plots` are drawn from these groups alone: they take a DataTree and need no
access to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.errors import OptionError, suggestion
from ranef.inference.base import Draws
from ranef.lazy import Array, jax, xr
from ranef.numerics.shapes import Float, Int, Shaped
from ranef.posterior.group_predictive import by_group
from ranef.posterior.imputation import Imputation
from ranef.posterior.posterior import Posterior, variable_values
from ranef.posterior.predictive import Predictive
from ranef.posterior.prior_draws import Trace, prior_responses, prior_run
from ranef.posterior.prior_sensitivity import log_prior
from ranef.posterior.reference_grid import (
    ReferenceGrid,
    between,
    common_levels,
    dates_of,
)
from ranef.posterior.simulated_residuals import scaled_residuals
from ranef.posterior.subject_curves import SubjectCurves
from ranef.program import posterior_variables
from ranef.program.training import evenly
from ranef.terms.base import RunOptions, clean_name

# Posterior draws behind a band or a set of curves; a thousand would look the same.
_DRAWS = 200
# Draws from the prior in the group "prior".
_PRIOR_DRAWS = 1000
# Largest number of surfaces (one per draw) in the group "surface".
_PLANES = 20
# Grid points along each side of a surface.
_SIDE = 15
# Grid points along a curve of "partial_effects".
_POINTS = 60
# Largest number of levels of a factor in "partial_effects"; the most common ones are kept.
_MOST_LEVELS = 30


# Positions of the rows of the sample.
Places = Int[NDArray[np.int64], "sample"]
# What a Dataset is made of: the dimensions and the values of a variable.
Variables = dict[str, tuple[str | tuple[str, ...], NDArray]]


@dataclass(frozen=True)
class IdataGroups:
    """Computes the groups of `Fit.extend`. The method named as a group returns its Dataset.

    Attributes:
        posterior: the posterior of the fit.
    """

    posterior: Posterior

    def group(self, name: str, seed: int) -> xr.Dataset:
        """The group named `name`, with `seed` for whatever is sampled.

        Raises:
            OptionError: for an unknown name, or a group that is not defined for this model.
        """
        if not isinstance(name, str) or name not in GROUPS:
            raise OptionError(
                f"there is no group {name!r} to add; {suggestion(name, [*GROUPS, 'validation'])}"
            )
        return GROUPS[name](self, seed)

    @property
    def _response(self) -> str:
        return clean_name(str(self.posterior.program.formula.response))

    def observed(self) -> xr.Dataset:
        """The observed response, (row,).

        For a response of texts or categories the attribute `categories` has their names in order,
        and `first` the number of the first.
        """
        training = self.posterior.training
        value = np.asarray(training.response.value)
        attributes: dict[str, object] = {}
        if training.state.family.categories:
            attributes["categories"] = list(training.state.family.categories)
            attributes["first"] = 1 if self.posterior.program.family.categorised else 0
        return xr.Dataset(
            {self._response: ("row", value, attributes)}, {"row": np.arange(len(value))}
        )

    def sizes(self) -> xr.Dataset:
        """Number of training rows of each level, ``size|g`` for every grouping g.

        Empty for a fit that has read its rows in batches.
        """
        training = self.posterior.training
        if training.stream is not None:
            return xr.Dataset()
        levels = posterior_variables.codes(self.posterior.program, training.designs, training.state)
        variables, coords = {}, {}
        for name, codes in levels.items():
            variable = self.posterior.variables[name]
            counts = np.bincount(codes, minlength=len(variable.coords[0]))
            variables[f"size|{variable.factor}"] = (variable.dims[0], counts)
            coords[variable.dims[0]] = list(variable.coords[0])
        return xr.Dataset(variables, coords)

    def posterior_predictive(self, seed: int) -> xr.Dataset:
        """Draws of the response, (chain, draw, row), one for each draw of the posterior.

        They go with the draws of "log_likelihood", as ArviZ's loo_pit asks. The training rows are
        used, or evenly spaced ones of them if there are many.
        """
        training = self.posterior.training
        rows = evenly(training.held)
        some = jax.tree.map(lambda a: a[rows], training.in_memory)
        predictive = self._predictive(seed, "sample", whole=True)
        drawn = self._by_chain(predictive.responses(some.designs, some.response, len(rows)))
        return xr.Dataset(
            {self._response: (("chain", "draw", "row"), drawn)},
            {"chain": np.arange(len(drawn)), "draw": np.arange(drawn.shape[1]), "row": rows},
        )

    def log_likelihood(self, seed: int) -> xr.Dataset:
        """Log p(y_i | draw) of every draw and row, (chain, draw, row)."""
        training = self.posterior.training
        predictive = self._predictive(seed, "sample", whole=True)
        each = predictive.log_likelihood(training.designs, training.response, training.held)
        return xr.Dataset(
            {self._response: (("chain", "draw", "row"), self._by_chain(each))},
            {"row": np.arange(each.shape[1])},
        )

    def _by_chain(
        self, values: Shaped[NDArray, "draws rows"]
    ) -> Shaped[NDArray, "chains draws rows"]:
        """Values of all draws, chain by chain."""
        chains = next((v.shape[0] for v in self.posterior.draws.sites.values()), 1)
        return values.reshape(chains, -1, values.shape[1])

    def prior(self, seed: int) -> xr.Dataset:
        """Draws of every variable from its prior, (chain, draw, ...)."""

        def sites(trace: Trace, location: Array) -> dict[str, Array]:
            return {n: site["value"] for n, site in trace.items() if site["type"] == "sample"}

        training = self.posterior.training
        first = training.sample.take(np.zeros(1, np.int64))
        drawn = prior_run(self.posterior, first, seed, _PRIOR_DRAWS, sites)
        values = variable_values(
            self.posterior.program, training.state, {n: v[None] for n, v in drawn.items()}
        )
        return self.posterior.dataset(values)

    def prior_predictive(self, seed: int) -> xr.Dataset:
        """Draws of the response from the prior, (chain, draw, row), on the training rows."""
        drawn, rows = prior_responses(self.posterior, seed, _PRIOR_DRAWS)
        return xr.Dataset(
            {self._response: (("chain", "draw", "row"), drawn[None])},
            {"chain": [0], "draw": np.arange(len(drawn)), "row": rows},
        )

    def log_prior(self, seed: int) -> xr.Dataset:
        """Log prior density of each parameter at every draw, (chain, draw); see `log_prior`."""
        found = log_prior(self.posterior)
        return xr.Dataset({name: (("chain", "draw"), each) for name, each in found.items()})

    def surface(self, seed: int) -> xr.Dataset:
        """The response's mean as a function of the first two numeric predictors.

        Group effects are zero, and other predictors are held as in `partial_effects`.

        Returns:
            `posterior` and, if all priors are proper, `prior`, with one surface for each draw,
            (draw, first[, second]); the coordinates are the grid of the predictors. The
            variables `row_first`, `row_second` and `row_response` hold the training rows.

        Raises:
            OptionError: for a model without a numeric predictor.
        """
        names = [n for n, kind in self._reference.predictors().items() if kind == "number"][:2]
        if not names:
            raise OptionError(
                f"{self.posterior.program.formula.text!r} has no numeric predictor to show the fit "
                "over"
            )
        sides = [between(self.posterior.training.sample.numbers(n), _SIDE) for n in names]
        mesh = [m.ravel() for m in np.meshgrid(*sides, indexing="ij")]
        frame = self._reference.rows([dict(zip(names, mesh, strict=True))])
        shape = (-1, *(len(side) for side in sides))
        dims = ("draw", *("first", "second")[: len(names)])
        drawn = self._locations(frame, seed)[: _PLANES * 5 : 5]
        variables: Variables = {"posterior": (dims, drawn.reshape(shape))}
        if not any(
            isinstance(p, priors.Flat) for p in self.posterior.training.state.priors.values()
        ):
            prior = prior_run(self.posterior, frame, seed, len(drawn), lambda _, location: location)
            variables["prior"] = (dims, np.asarray(prior).reshape(shape))
        rows = self._sample_rows()
        for place, name in zip(("first", "second"), names, strict=False):
            variables[f"row_{place}"] = ("row", self.posterior.training.sample.numbers(name))
        variables["row_response"] = (
            "row",
            self.posterior.program.family.shown(self.posterior.training.response)[rows],
        )
        coords = dict(zip(("first", "second"), sides, strict=False))
        return xr.Dataset(variables, coords, {"predictors": names, "response": self._response})

    def partial_effects(self, seed: int) -> xr.Dataset:
        """The response's mean along each predictor x, one variable (draw, x_point) for each.

        The other predictors are held at their mean or most common level, and group effects are
        zero.

        Raises:
            OptionError: for a model without predictors.
        """
        kinds = self._reference.predictors()
        if not kinds:
            raise OptionError(
                f"{self.posterior.program.formula.text!r} has no predictor to show the effect of"
            )
        sample = self.posterior.training.sample
        grids = {}
        for name, kind in kinds.items():
            if kind == "number":
                values = sample.numbers(name)
                distinct = np.unique(values[~np.isnan(values)])
                grids[name] = distinct if len(distinct) <= 10 else between(values, _POINTS)
            elif kind == "date":
                grids[name] = dates_of(between(sample.days(name), _POINTS))
            else:
                chosen = common_levels(sample, name)[:_MOST_LEVELS]
                grids[name] = self._reference.in_order(name, chosen)
        frame = self._reference.rows([{name: grid} for name, grid in grids.items()])
        location = self._locations(frame, seed)
        ends = np.cumsum([len(grid) for grid in grids.values()])
        curves = np.split(location, ends[:-1], axis=1)
        return xr.Dataset(
            {
                clean_name(name): (("draw", f"{clean_name(name)}_point"), curve)
                for name, curve in zip(grids, curves, strict=True)
            },
            {f"{clean_name(name)}_point": grid for name, grid in grids.items()},
            {"response": self._response},
        )

    def shrinkage(self, seed: int) -> xr.Dataset:
        """The estimate of each level without pooling, for every grouping with an intercept.

        ``unpooled|g`` (level) is the maximum-likelihood shift of the linear predictor within a
        level, with all other parameters at their posterior means. Compared with the posterior
        mean of ``1|g`` it shows how far partial pooling shrinks the level. It is NaN where the
        likelihood has no maximum, as in a level with successes only. The attribute ``centre|g``
        is the mean over rows of the predictor without the effect of g.

        Raises:
            OptionError: for a fit that has read its rows in batches, for a model without a term
                (1 | g), and for a family without such an estimate.
        """
        program, training = self.posterior.program, self.posterior.training
        family, values = program.family, self.posterior.values
        intercepts = {
            v.factor: name
            for name, v in self.posterior.variables.items()
            if v.role == "group" and name == f"1|{v.factor}" and name in values
        }
        if training.stream is not None:
            raise OptionError(
                "shrinkage compares every row with its level, and this fit has read its rows in "
                "batches and kept a sample; fit a table of fewer rows to see it"
            )
        if not intercepts:
            raise OptionError(
                f"{program.formula.text!r} has no (1 | g), whose levels could be shrunk"
            )
        means = self._predictive(seed, "sample", whole=True).means(
            training.designs, training.response, training.held
        )
        levels = posterior_variables.codes(program, training.designs, training.state)
        variables, coords, attributes = {}, {}, {}
        for factor, name in intercepts.items():
            effect = values[name].mean(axis=(0, 1))
            codes = np.asarray(levels[name])
            dim = self.posterior.variables[name].dims[0]
            rest = {**means, program.location: means[program.location] - effect[codes]}
            with jax.enable_x64(True):
                shift = family.shifts(training.response, codes, len(effect), **rest)
            if shift is None:
                raise OptionError(f"the family {family.name} has no estimate without pooling")
            variables[f"unpooled|{factor}"] = (dim, shift)
            coords[dim] = list(self.posterior.variables[name].coords[0])
            attributes[f"centre|{factor}"] = float(rest[program.location].mean())
        parameter = family.parameters[0]
        shown = f"{parameter.link} {parameter.name}"
        shown = self._response if parameter.link == "identity" else shown
        return xr.Dataset(variables, coords, {"response": shown, **attributes})

    def predictive_by_group(self, seed: int) -> xr.Dataset:
        """Observed and predicted mean response of each level; see `by_group`."""
        found = by_group(self.posterior, self._predictive(seed, "sample"))
        return found.assign_attrs(response=self._response)

    def subjects(self, seed: int) -> xr.Dataset:
        """Rows and curves of single levels along a predictor; see `SubjectCurves`."""
        return SubjectCurves(self.posterior, self._thinned, seed).dataset()

    def imputed(self, seed: int) -> xr.Dataset:
        """Draws of the missing values of every column in mi(), and its observed values.

        For a column x these are ``x`` (draw, x_row), where x_row is the position among the
        training rows, and ``x_observed`` (x_observed_row).

        Raises:
            OptionError: for a model without mi().
        """
        names = list(self.posterior.program.columns)
        if not names:
            raise OptionError(
                f"{self.posterior.program.formula.text!r} has no mi(), whose missing values to show"
            )
        found, variables = Imputation(self.posterior, seed), {}
        coords: dict[str, NDArray[np.int64]] = {}
        for name in names:
            own, (places, values) = clean_name(name), found.draws(name)
            variables[own] = (("draw", f"{own}_row"), values)
            coords[f"{own}_row"] = places
            variables[f"{own}_observed"] = (f"{own}_observed_row", found.observed(name))
        return xr.Dataset(variables, coords)

    def scaled_residuals(self, seed: int) -> xr.Dataset:
        """Scaled residuals and fitted means, (row,), with p values of their tests as attributes."""
        return scaled_residuals(self.posterior, seed)

    @cached_property
    def _reference(self) -> ReferenceGrid:
        return ReferenceGrid(self.posterior)

    def _locations(self, frame: Frame, seed: int) -> Float[NDArray[np.float64], "draws rows"]:
        """Posterior draws of the response's mean on the rows of `frame`."""
        program, state = self.posterior.program, self.posterior.training.state
        designs = program.designs(state, frame)
        response = program.family.design(state.family, frame, known=False, beside=False)
        return self._predictive(seed, "zero").locations(designs, response, frame.n)

    def _sample_rows(self) -> Places:
        return evenly(self.posterior.training.held)

    def _predictive(self, seed: int, new_levels: str, whole: bool = False) -> Predictive:
        replay = RunOptions(training=False, new_levels=new_levels)
        draws = self.posterior.draws if whole else self._thinned
        return Predictive(
            self.posterior.program, self.posterior.training.state, draws, replay, seed
        )

    @cached_property
    def _thinned(self) -> Draws:
        return self.posterior.draws.thinned(_DRAWS)


GROUPS = {
    "posterior_predictive": IdataGroups.posterior_predictive,
    "log_likelihood": IdataGroups.log_likelihood,
    "log_prior": IdataGroups.log_prior,
    "prior": IdataGroups.prior,
    "prior_predictive": IdataGroups.prior_predictive,
    "surface": IdataGroups.surface,
    "partial_effects": IdataGroups.partial_effects,
    "shrinkage": IdataGroups.shrinkage,
    "predictive_by_group": IdataGroups.predictive_by_group,
    "subjects": IdataGroups.subjects,
    "imputed": IdataGroups.imputed,
    "scaled_residuals": IdataGroups.scaled_residuals,
}
