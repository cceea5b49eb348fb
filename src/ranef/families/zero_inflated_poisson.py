"""Zero-inflated Poisson counts: y_i ~ Poisson(mu_i) with probability psi, else 0."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family, FamilyParameter, FamilyState, ResponseDesign
from ranef.families.count_densities import ZeroInflatedPoissonDensity
from ranef.families.row_density import RowDensity
from ranef.formula.equation import Line
from ranef.lazy import Array, dist, jax, jnp


class ZeroInflatedPoisson(Family):
    """Zero-inflated Poisson counts: y_i ~ Poisson(mu_i) with probability psi, else 0.

    Support: y = 0, 1, 2, ...
    Links: log for mu, logit for psi.
    Default prior: psi ~ Beta(2, 2).

    The mean is psi mu. psi is the probability that a row is a count, as in bambi; the zi of brms
    is 1 - psi. Source: Lambert (1992).
    """

    name = "zero_inflated_poisson"
    parameters = (
        FamilyParameter("mu", "log", "positive"),
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
        """Sd of the working response, 1 / sqrt(mu), at the mean of the response."""
        return responses.log_noise(1.0 / max(state.scale.location, 1e-6))

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        known = {"log_mean": predictors["mu"], "logit": predictors["psi"]}
        return densities.RowDistribution(distribution, densities.zero_inflated_poisson, known)

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Any) -> Array:
        """Expected information of the complete data, as in EM.

        The complete data say in addition whether each row is a count. The weights are
        P(count | y) mu for mu, and psi (1 - psi) for psi. Source: Lambert (1992), section 3.
        """
        shape = jnp.shape(response.value)
        if name == "psi":
            psi = jax.nn.sigmoid(predictors["psi"])
            return jnp.broadcast_to(psi * (1 - psi), shape)
        mean, value = jnp.exp(predictors["mu"]), jnp.asarray(response.value)
        return densities.from_count(value, -mean, predictors["psi"]) * mean

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu has a predictor, and psi either has one or is one number."""
        if list(predictors) not in (["mu"], ["mu", "psi"]):
            return None
        return ZeroInflatedPoissonDensity.of(response.value, "psi" in predictors)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        # NumPyro does not accept a mean of zero, to which small means may underflow.
        mean = jnp.maximum(parameters["mu"], jnp.finfo(float).tiny)
        return dist.ZeroInflatedPoisson(1 - parameters["psi"], mean)

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        counts = responses.poisson_variates(rng, np.asarray(parameters["mu"]))
        return np.where(rng.random(counts.shape) < np.asarray(parameters["psi"]), counts, 0.0)

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["psi"] * parameters["mu"]

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """The variance psi (mu + (1 - psi) mu^2)."""
        mu, psi = parameters["mu"], parameters["psi"]
        return psi * (mu + (1 - psi) * mu**2)

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("ZeroInflatedPoisson(", *symbols["psi"], ", ", *symbols["mu"], ")")

    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """None: the excess zeros have no variance on the scale of the predictor."""
        return None
