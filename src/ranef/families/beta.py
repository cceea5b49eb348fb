"""Beta responses, such as proportions: y_i ~ Beta(mu_i kappa, (1 - mu_i) kappa)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family
from ranef.families.parameters import FamilyParameter
from ranef.families.positive_densities import BetaDensity
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow, RowDensity
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jax, jnp, jsp


class Beta(Family):
    """Beta responses: y_i ~ Beta(mu_i kappa, (1 - mu_i) kappa), for 0 < y < 1.

    Links: logit for mu, log for kappa.
    Default prior: kappa ~ HalfCauchy(1).

    The mean is mu and the variance mu (1 - mu) / (1 + kappa); kappa is a precision.
    Source: Ferrari and Cribari-Neto (2004).
    """

    name = "beta"
    dispersion = "kappa"
    parameters = (
        FamilyParameter("mu", "logit", "unit"),
        FamilyParameter("kappa", "log", "positive", lambda scale: priors.HalfCauchy(1.0)),
    )
    curvature = "expected"

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        inside = (value >= responses.LEAST_POSITIVE) & (value < 1)
        expected = "numbers above zero and below one"
        responses.refuse_outside(value, inside, frame, self.response.value, self.name, expected)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        if parameter.name != "mu":
            return super().predictor_scale(state, parameter)
        return responses.logit_scale(state.scale.location)

    def start(self, state: FamilyState, parameter: FamilyParameter) -> float | None:
        """The kappa at which the variance is that of the response, between 0.1 and 1e4."""
        mean, sd = state.scale.location, state.scale.sd
        return float(np.clip(mean * (1 - mean) / sd**2 - 1, 0.1, 1e4))

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the response on the logit scale by the delta method, between 0.01 and 10."""
        mean = state.scale.location
        return float(np.clip(state.scale.sd / (mean * (1 - mean)), 0.01, 10.0))

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        kappa = jnp.exp(predictors["kappa"])
        mu, rest = jax.nn.sigmoid(predictors["mu"]), jax.nn.sigmoid(-predictors["mu"])
        distribution = dist.Beta(mu * kappa, rest * kappa)
        known = {"logit_mean": predictors["mu"], "log_precision": predictors["kappa"]}
        return densities.RowDistribution(distribution, densities.beta, known)

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """For mu the Fisher information, (a b / kappa)^2 (psi'(a) + psi'(b)).

        Here a = mu kappa, b = (1 - mu) kappa, and psi' is the trigamma function.
        """
        if name != "mu":
            return super().working_weights(response, name, **predictors)
        kappa = jnp.exp(predictors["kappa"])
        mu, rest = jax.nn.sigmoid(predictors["mu"]), jax.nn.sigmoid(-predictors["mu"])
        a, b = mu * kappa, rest * kappa
        # psi'(a) = psi'(1 + a) + 1 / a^2, whose second summand would overflow near a = 0.
        within = (mu * rest * kappa) ** 2 * (jsp.polygamma(1, 1.0 + a) + jsp.polygamma(1, 1.0 + b))
        return within + rest**2 + mu**2

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu alone has a predictor."""
        return BetaDensity.of(response.value) if list(predictors) == ["mu"] else None

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        mu, kappa = parameters["mu"], parameters["kappa"]
        return dist.Beta(mu * kappa, (1 - mu) * kappa)

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        mu, kappa = np.asarray(parameters["mu"]), np.asarray(parameters["kappa"])
        tiny = np.finfo(float).tiny
        return rng.beta(np.maximum(mu * kappa, tiny), np.maximum((1 - mu) * kappa, tiny))

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["mu"] * (1 - parameters["mu"]) / (1 + parameters["kappa"])

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        mu, kappa = symbols["mu"], symbols["kappa"]
        return ("Beta(", *mu, " ", *kappa, ", (1 - ", *mu, ") ", *kappa, ")")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """None: the variance of a row depends on its mean."""
        return None
