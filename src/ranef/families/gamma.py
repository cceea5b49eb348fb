"""Gamma responses, whose sd is proportional to the mean: y_i ~ Gamma(alpha, alpha / mu_i)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family
from ranef.families.parameters import FamilyParameter
from ranef.families.positive_densities import GammaDensity
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow, RowDensity
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jnp


class Gamma(Family):
    """Gamma responses: y_i ~ Gamma(shape alpha, rate alpha / mu_i), for y > 0.

    Links: log for mu and alpha.
    Default prior: alpha ~ HalfCauchy(1).

    The mean is mu and the variance mu^2 / alpha. The link of mu is the logarithm, as in brms; the
    canonical inverse link would allow negative means.
    """

    name = "gamma"
    dispersion = "alpha"
    parameters = (
        FamilyParameter("mu", "log", "positive"),
        FamilyParameter("alpha", "log", "positive", lambda scale: priors.HalfCauchy(1.0)),
    )
    curvature = "expected"

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        responses.refuse_outside(
            value,
            value >= responses.LEAST_POSITIVE,
            frame,
            self.response.value,
            self.name,
            responses.POSITIVE,
        )

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        if parameter.name != "mu":
            return super().predictor_scale(state, parameter)
        return Scale(float(np.log(state.scale.location)), 1.0)

    def row_scale(self, state: FamilyState) -> float:
        """The coefficient of variation of the response, an estimate of 1 / sqrt(alpha)."""
        return responses.log_noise((state.scale.sd / state.scale.location) ** 2)

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        known = {"log_mean": predictors["mu"], "log_shape": predictors["alpha"]}
        return densities.RowDistribution(distribution, densities.gamma, known)

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """For mu the Fisher information, alpha."""
        if name != "mu":
            return super().working_weights(response, name, **predictors)
        shape = jnp.exp(predictors["alpha"])
        return jnp.broadcast_to(shape, jnp.shape(response.value))

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu alone has a predictor."""
        return GammaDensity.of(response.value) if list(predictors) == ["mu"] else None

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.Gamma(parameters["alpha"], parameters["alpha"] / parameters["mu"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        return responses.gamma_variates(rng, parameters["mu"], parameters["alpha"])

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["mu"] ** 2 / parameters["alpha"]

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        alpha, mu = symbols["alpha"], symbols["mu"]
        return ("Gamma(", *alpha, ", ", *alpha, " / ", *mu, ")")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """log(1 + 1 / alpha): the variance of log y for a lognormal y of equal mean and variance.

        Source: Nakagawa, Johnson and Schielzeth (2017), table 1.
        """
        if "alpha" not in values:
            return None
        return np.asarray(np.log1p(1.0 / np.asarray(values["alpha"])))
