"""Zero-inflated counts: y_i ~ NegativeBinomial(mu_i, alpha) with probability psi, else 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family, FamilyParameter, FamilyState, ResponseDesign
from ranef.families.count_densities import ZeroInflatedNegativeBinomialDensity
from ranef.families.row_density import RowDensity
from ranef.formula.equation import Line
from ranef.lazy import Array, dist, jax, jnp


class ZeroInflatedNegativeBinomial(Family):
    """Zero-inflated counts: y_i ~ NegativeBinomial(mu_i, alpha) with probability psi, else 0.

    Support: y = 0, 1, 2, ...
    Links: log for mu and alpha, logit for psi.
    Default priors: alpha ~ HalfCauchy(1), psi ~ Beta(2, 2).

    The mean is psi mu, and the variance of the counts mu + mu^2 / alpha. psi is the probability
    that a row is a count, as in bambi; the zi of brms is 1 - psi.
    """

    name = "zero_inflated_negative_binomial"
    parameters = (
        FamilyParameter("mu", "log", "positive"),
        FamilyParameter("alpha", "log", "positive", lambda scale: priors.HalfCauchy(1.0)),
        FamilyParameter("psi", "logit", "unit", lambda scale: priors.Beta(2.0, 2.0)),
    )
    curvature = "em"
    discrete = True

    def refuse(
        self, value: NDArray[np.float64], companion: NDArray[np.float64] | None, frame: Frame
    ) -> None:
        responses.refuse_outside(
            value, responses.whole(value), frame, self.response.value, self.name, responses.COUNTS
        )

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        if parameter.name != "mu":
            return super().predictor_scale(state, parameter)
        return responses.log_scale(state.scale.location)

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the working response, sqrt(1 / mu + 1 / alpha), at the mean and alpha = 1."""
        return responses.log_noise(1.0 / max(state.scale.location, 1e-6) + 1.0)

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        known = {
            "log_mean": predictors["mu"],
            "log_shape": predictors["alpha"],
            "logit": predictors["psi"],
        }
        return densities.RowDistribution(
            distribution, densities.zero_inflated_negative_binomial, known
        )

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Any) -> Array:
        """Expected information of the complete data, as in EM.

        The complete data say in addition whether each row is a count. The weights are
        P(count | y) mu / (1 + mu / alpha) for mu, and psi (1 - psi) for psi.
        """
        if name == "psi":
            psi = jax.nn.sigmoid(predictors["psi"])
            return jnp.broadcast_to(psi * (1 - psi), jnp.shape(response.value))
        if name != "mu":
            return super().working_weights(response, name, **predictors)
        log_mean, log_shape = predictors["mu"], predictors["alpha"]
        log_zero = -jnp.exp(log_shape) * jax.nn.softplus(log_mean - log_shape)
        count = densities.from_count(jnp.asarray(response.value), log_zero, predictors["psi"])
        return count * responses.count_information(log_mean, log_shape)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu has a predictor, and psi either has one or is one number."""
        if list(predictors) not in (["mu"], ["mu", "psi"]):
            return None
        return ZeroInflatedNegativeBinomialDensity.of(response.value, "psi" in predictors)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        counts = dist.NegativeBinomial2(parameters["mu"], parameters["alpha"])
        return dist.ZeroInflatedDistribution(counts, gate=1 - parameters["psi"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        mean = responses.gamma_variates(rng, parameters["mu"], parameters["alpha"])
        counts = responses.poisson_variates(rng, mean)
        return np.where(rng.random(counts.shape) < np.asarray(parameters["psi"]), counts, 0.0)

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["psi"] * parameters["mu"]

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """The variance psi (mu + mu^2 / alpha + (1 - psi) mu^2)."""
        mu, psi = parameters["mu"], parameters["psi"]
        return psi * (mu + mu**2 / parameters["alpha"] + (1 - psi) * mu**2)

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        inside = (*symbols["psi"], ", ", *symbols["mu"], ", ", *symbols["alpha"])
        return ("ZeroInflatedNegativeBinomial(", *inside, ")")

    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """None: the excess zeros have no variance on the scale of the predictor."""
        return None
