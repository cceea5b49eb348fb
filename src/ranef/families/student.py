"""Heavy-tailed responses: y ~ mu + sigma t_nu."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

from ranef import priors
from ranef.families.base import Family, FamilyParameter, ResponseDesign, State
from ranef.moments import Scale

# Responses that the scale is learned from.
_MOST = 2_000_000


class Student(Family):
    """y_i ~ StudentT(nu, mu_i, sigma); with weights(y, w) the scale is sigma / sqrt(w_i).

    mu is the location and, for nu > 1, the mean; the variance sigma^2 nu / (nu - 2) is
    infinite for nu <= 2. The default prior of nu is Gamma(2, 0.1) (Juarez and Steel, 2010).
    """

    name = "student"
    parameters = (
        FamilyParameter("mu", "identity", "real"),
        FamilyParameter(
            "sigma", "log", "positive", lambda scale: priors.HalfStudentT(4.0, scale.spread)
        ),
        FamilyParameter("nu", "log", "positive", lambda scale: priors.Gamma(2.0, 0.1)),
    )
    forms = ("plain", "weights")

    def measure(self, accumulator: Any, design: ResponseDesign) -> Any:
        """Every response, or an even thinning of them where there are very many."""
        seen, stride = accumulator or (np.zeros(0), 1)
        seen = np.concatenate([seen, np.asarray(design.value)[::stride]])
        while len(seen) > _MOST:
            seen, stride = seen[::2], 2 * stride
        return seen, stride

    def location_and_spread(self, accumulator: Any) -> tuple[float, float]:
        """Median and scaled median absolute deviation: an sd may not exist."""
        values, _ = accumulator
        location = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - location)))
        return location, spread or float(values.std())

    def predictor_scale(self, state: State, parameter: FamilyParameter) -> Scale:
        if parameter.name == "nu":
            return Scale(math.log(5.0), 1.0)
        return super().predictor_scale(state, parameter)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        scale = self._scale(response, parameters)
        return dist.StudentT(parameters["nu"], parameters["mu"], scale)

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        """Drawn with NumPy: JAX's gamma sampler takes thirty times as long on a CPU."""
        nu = np.asarray(parameters["nu"], dtype=np.float64)
        scale = np.asarray(self._scale(response, parameters))
        noise = rng.standard_t(nu, size=np.broadcast_shapes(nu.shape, scale.shape))
        return np.asarray(parameters["mu"]) + scale * noise

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        nu = parameters["nu"]
        finite = jnp.where(nu > 2, nu, 3.0)
        inflation = jnp.where(nu > 2, finite / (finite - 2), jnp.inf)
        return self._scale(response, parameters) ** 2 * inflation

    def _scale(self, response: ResponseDesign, parameters: Mapping[str, Array]) -> Array:
        if response.form == "weights":
            return parameters["sigma"] / jnp.sqrt(jnp.asarray(response.companion))
        return parameters["sigma"]

    def residual(self, values: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """sigma^2: the squared scale, since the variance may not exist."""
        return np.asarray(values["sigma"]) ** 2 if "sigma" in values else None
