"""Posterior draws of the model's named variables, with their moments and variances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.errors import OptionError
from ranef.inference.base import Draws
from ranef.lazy import ArrayLike, arviz_base, xr
from ranef.numerics.shapes import Float
from ranef.program import learning, posterior_variables
from ranef.program.problem import Problem
from ranef.program.problem_builder import build_problem
from ranef.program.program import Program
from ranef.program.training import Training, TrainingState
from ranef.terms.base import CENTRED, Variable
from ranef.terms.capabilities import HasVariances

# Draws of a number, and of a site or variable.
Vector = Float[NDArray[np.float64], "draws"]
VariableDraws = Float[NDArray[np.float64], "chains draws ..."]


@dataclass(frozen=True)
class Posterior:
    """The posterior of the variables of a model, from the draws of its sites.

    A site is a named random variable of the NumPyro program. A variable is what users see: a site,
    or a quantity computed from sites, with a role, dimensions and labels.

    Attributes:
        program: the model.
        training: the training rows, and what the model learned from them before the fit.
        draws: posterior draws of the sites, as returned by the method.
    """

    program: Program
    training: Training
    draws: Draws

    @cached_property
    def variables(self) -> dict[str, Variable]:
        """Every variable of the model, in the order of the formula."""
        return posterior_variables.variables(self.program, self.training.state)

    @cached_property
    def written(self) -> Training:
        """The training rows with every parameter in the coordinates of the formula as written."""
        return learning.as_written(self.program, self.training)

    @cached_property
    def problem(self) -> Problem:
        """The model on its training rows, as the method took it."""
        return build_problem(self.program, self.training)

    @cached_property
    def written_problem(self) -> Problem:
        """The problem in the coordinates of the formula as written."""
        return build_problem(self.program, self.written)

    @cached_property
    def values(self) -> dict[str, VariableDraws]:
        """Draws of every variable that has a posterior."""
        return variable_values(self.program, self.training.state, self.draws.sites)

    @cached_property
    def ready(self) -> dict[str, VariableDraws]:
        """The draws that are available without those sites whose draws are made on demand."""
        later = set(self.draws.lazy_sites)
        if not later:
            return self.values
        sites = {name: self.draws.sites[name] for name in self.draws.sites if name not in later}
        return variable_values(self.program, self.training.state, sites)

    @cached_property
    def moments(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Mean and sd of the variables whose posterior moments the method has in closed form."""
        known = self.draws.known_moments
        state = self.training.state
        # A coefficient is a site, or an element of one, so its sd can be taken out of the site's
        # sds in the same way as its mean.
        mean, sd = (
            variable_values(self.program, state, {name: both[i] for name, both in known.items()})
            for i in (0, 1)
        )
        # For sums of coefficients this would be wrong (sds do not add), so the sd that the method
        # gives for the sum itself takes precedence.
        return {name: known.get(name, (mean[name], sd[name])) for name in mean}

    @cached_property
    def constants(self) -> dict[str, tuple[float | NDArray[np.float64], str]]:
        """Parameters without a posterior: name to (value, "point estimate" or "fixed")."""
        out = {}
        for name, prior in self.training.state.priors.items():
            if isinstance(prior, priors.Fixed):
                out[name] = (prior.value, "fixed")
            elif isinstance(prior, priors.PointEstimate):
                out[name] = (np.asarray(self.draws.points[name], np.float64), "point estimate")
        return out

    def site_labels(self, name: str, size: int) -> list[str]:
        """Labels of the `size` elements of a site; the site's name for each if it has none."""
        variable = self.variables.get(name)
        if variable is not None:
            labels = [label for label, _ in variable.elements(name)]
        else:
            labels = list(
                posterior_variables.site_labels(self.program, self.training.state).get(name, ())
            )
        return labels if len(labels) == size else [name] * size

    def sd_draws(self, name: str) -> VariableDraws:
        """Draws of an sd of group effects in the coordinates of its default prior.

        For terms that are parametrized with centred columns, this is the sd of the effect when
        the term's other columns are at their means. For all other terms it is the variable itself.
        """
        site = f"{name}{CENTRED}"
        return np.asarray(self.draws.sites[site]) if site in self.draws.sites else self.ready[name]

    def dataset(self, values: Mapping[str, VariableDraws], **attributes: object) -> xr.Dataset:
        """An xarray Dataset of variables with their dimensions and labels."""
        dims = {name: list(self.variables[name].dims) for name in values}
        coords = {
            dim: list(coord)
            for name in values
            for dim, coord in zip(
                self.variables[name].dims, self.variables[name].coords, strict=True
            )
        }
        tree = arviz_base.from_dict(
            {"values": dict(values)}, dims=dims, coords=coords, attrs={"values": attributes}
        )
        return tree["values"].to_dataset()

    def by_level(
        self, factor: str, levels: Sequence[str], columns: Mapping[str, NDArray | list[str]]
    ) -> Any:
        """A table with one row for each level, of the kind of the training table.

        The levels are converted to the type of their column.
        """
        typed = self.training.sample.typed(str(factor), levels)
        return self.training.rows.labels.by_level(str(factor), typed, columns)

    def mean_and_sd(self, name: str, place: int) -> tuple[float, float]:
        """Mean and sd of one element of a variable, in closed form if available."""
        if name in self.moments:
            mean, sd = (np.ravel(each)[place] for each in self.moments[name])
            return float(mean), float(sd)
        flat = self.flat(name)[:, place]
        return float(flat.mean()), float(flat.std(ddof=1))

    def flat(self, name: str) -> Float[NDArray[np.float64], "draws elements"]:
        """Draws of a variable from all chains."""
        values = self.ready[name] if name in self.ready else self.values[name]
        return values.reshape(values.shape[0] * values.shape[1], -1)

    @cached_property
    def group_variances(self) -> dict[str, Vector]:
        """Variance that each grouping contributes to the location's predictor, by draw.

        That of the common effects is under "". Each is a mean or a variance over training rows.
        """
        known = self._parameters
        variances: dict[str, NDArray[np.float64]] = {}
        for term in self.program.terms.get(self.program.location, ()):
            state = self.training.state.terms[term.label]
            design = self.training.designs[term.label]
            if not isinstance(term, HasVariances):
                continue
            for factor, variance in term.variances(state, design, known).items():
                variances[factor] = variances.get(factor, 0.0) + variance
        return variances

    @property
    def residual_variance(self) -> NDArray[np.float64] | None:
        """Residual variance on the scale of the location's predictor, mean over training rows.

        One number, or one for each draw; None for a family without one.
        """
        residual = self.program.family.residual(self.training.state.family, self._parameters)
        response = self.training.response
        if residual is not None and response.form == "weights":
            # The residual variance of row i is sigma^2 / w_i.
            residual = residual * np.mean(1.0 / np.asarray(response.companion, np.float64))
        return residual

    @cached_property
    def _parameters(self) -> dict[str, NDArray[np.float64]]:
        """Draws of all variables but effects of levels that are drawn later; constants repeated."""
        known: dict[str, NDArray[np.float64]] = {
            name: values.reshape(-1, *values.shape[2:]) for name, values in self.ready.items()
        }
        size = max((len(v) for v in known.values()), default=1)
        for name, (value, _) in self.constants.items():
            known[name] = np.broadcast_to(np.asarray(value, float), (size, *np.shape(value)))
        return known

    def shares(self) -> dict[str, Vector]:
        """Share of variance of each grouping, for every draw:

            share(g) = V_g / (V_common + sum_h V_h + V_residual),

        where V_g is the variance that grouping g contributes to the linear predictor, V_common
        that of the common effects, and V_residual the mean residual variance over rows. Empty for
        a family without a residual variance, and for a model without groupings.
        """
        variances, residual = self.group_variances, self.residual_variance
        if residual is None or not any(variances):
            return {}
        total = residual + sum(variances.values())
        return {factor: variance / total for factor, variance in variances.items() if factor}


def variable_values(
    program: Program, state: TrainingState, sites: Mapping[str, ArrayLike]
) -> dict[str, NDArray[np.float64]]:
    """The variables computed from draws of sites, in the order of the formula."""
    known = {name: np.asarray(value, dtype=np.float64) for name, value in sites.items()}
    known |= posterior_variables.derived(program, state, known)
    return {
        name: known[name] for name in posterior_variables.variables(program, state) if name in known
    }


def tails_of(interval: float) -> tuple[float, float]:
    """Lower and upper tail probabilities of a central interval.

    Raises:
        OptionError: if `interval` is not a number between 0 and 1.
    """
    if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < 1:
        raise OptionError(f"interval must be a probability between 0 and 1, not {interval!r}")
    return (1 - interval) / 2, (1 + interval) / 2
