"""Heavy-tailed responses: y ~ mu + sigma t_nu."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.moments import Scale
from ranef.families import densities
from ranef.families.base import Family, FamilyParameter, FamilyState, ResponseDesign, weighted_means
from ranef.families.row_density import RowDensity
from ranef.families.student_density import StudentDensity
from ranef.formula.equation import Line
from ranef.lazy import Array, dist, jnp

# EM gains a factor in the error with each step, the smaller the tails the larger.
_EM_STEPS = 500

# Responses that the scale is learned from.
_MOST = 2_000_000


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """The middle of the values at which half of the weight lies on either side."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    low = int(np.searchsorted(share, 0.5 - 1e-12))
    high = int(np.searchsorted(share, 0.5 + 1e-12))
    return float(values[order[[low, min(high, len(values) - 1)]]].mean())


class Student(Family):
    """y_i ~ StudentT(nu, mu_i, sigma); with weights(y, w) the scale is sigma / sqrt(w_i).

    mu is the location and, for nu > 1, the mean; the variance sigma^2 nu / (nu - 2) is
    infinite for nu <= 2. The default prior of nu is Gamma(2, 0.1) (Juarez and Steel, 2010).
    """

    name = "student"
    dispersion = "sigma"
    parameters = (
        FamilyParameter("mu", "identity", "real"),
        FamilyParameter(
            "sigma", "log", "positive", lambda scale: priors.HalfStudentT(4.0, scale.sd)
        ),
        FamilyParameter("nu", "log", "positive", lambda scale: priors.Gamma(2.0, 0.1)),
    )
    forms = ("plain", "weights")
    curvature = "em"
    on_scale = True

    def measure(self, accumulator: Any, design: ResponseDesign) -> Any:
        """Every response with its weight, or an even thinning where there are very many."""
        weights = np.ones(len(design.value)) if design.weights is None else design.weights
        both = np.stack([np.asarray(design.value), weights], axis=1)
        seen, stride = accumulator or (np.zeros((0, 2)), 1)
        seen = np.concatenate([seen, both[::stride]])
        while len(seen) > _MOST:
            seen, stride = seen[::2], 2 * stride
        return seen, stride

    def location_and_sd(self, accumulator: Any) -> tuple[float, float]:
        """Median and scaled median absolute deviation: an sd may not exist."""
        values, weights = accumulator[0].T
        location = _weighted_median(values, weights)
        spread = 1.4826 * _weighted_median(np.abs(values - location), weights)
        return location, spread or float(values.std())

    def mean_weight(self, accumulator: Any) -> float:
        return float(accumulator[0][:, 1].mean())

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        if parameter.name == "nu":
            return Scale(math.log(5.0), 1.0)
        return super().predictor_scale(state, parameter)

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        log_scale = predictors["sigma"]
        if response.form == "weights":
            log_scale = log_scale - 0.5 * jnp.log(jnp.asarray(response.companion))
        known = {"location": predictors["mu"], "log_scale": log_scale, "log_nu": predictors["nu"]}
        law = self.distribution(response, **self.on_own_scale(**predictors))
        return densities.RowDistribution(law, densities.student, known)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Where mu alone has a predictor."""
        if list(predictors) != ["mu"]:
            return None
        return StudentDensity.of(response.value, response.weights)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        scale = self._scale(response, parameters)
        return dist.StudentT(parameters["nu"], parameters["mu"], scale)

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Any) -> Array:
        """Of mu the precision of each row once its own scale is known to EM.

        (nu + 1) / (nu + r^2) / sigma^2, r the scaled residual. Source: Lange, Little and Taylor
        (1989), section 3.
        """
        if name != "mu":
            return super().working_weights(response, name, **predictors)
        parameters = self.on_own_scale(**predictors)
        scale = self._scale(response, parameters)
        scaled = (jnp.asarray(response.value) - parameters["mu"]) / scale
        return (parameters["nu"] + 1.0) / (parameters["nu"] + scaled**2) / scale**2

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

    def _scale(self, response: ResponseDesign, parameters: Mapping[str, Any]) -> Any:
        if response.form == "weights":
            return parameters["sigma"] / jnp.sqrt(jnp.asarray(response.companion))
        return parameters["sigma"]

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        scale: Line = symbols["sigma"]
        if self.response.form == "weights":
            scale = (*scale, " / √", *self.companion())
        return ("StudentT(", *symbols["nu"], ", ", *symbols["mu"], ", ", *scale, ")")

    def shifts(
        self,
        response: ResponseDesign,
        codes: NDArray[np.int32],
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """By EM: a weighted mean with weights (nu + 1) / (nu + r_i^2), r the scaled residual.

        Started at the medians, since the likelihood of few rows may have several maxima.
        Source: Lange, Little and Taylor (1989), section 3.
        """
        own = self.on_own_scale(**predictors)
        parameters = {name: np.asarray(value, np.float64) for name, value in own.items()}
        away = np.asarray(response.value) - parameters["mu"]
        scale = np.broadcast_to(self._scale(response, parameters), away.shape)
        shift = _medians(away, codes, levels)
        for _ in range(_EM_STEPS):
            scaled = (away - shift[codes]) / scale
            weight = (parameters["nu"] + 1.0) / (parameters["nu"] + scaled**2) / scale**2
            before, shift = shift, weighted_means(away, weight, codes, levels)
            if np.nanmax(np.abs(shift - before)) < 1e-6 * float(scale.min()):
                break
        return shift

    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """sigma^2: the squared scale, since the variance may not exist."""
        return np.asarray(values["sigma"]) ** 2 if "sigma" in values else None


def _medians(
    values: NDArray[np.float64], codes: NDArray[np.int32], levels: int
) -> NDArray[np.float64]:
    """(levels,) the lower median of each level's rows, NaN for a level without any."""
    order = np.lexsort((values, codes))
    counts = np.bincount(codes, minlength=levels)
    first = np.r_[0, np.cumsum(counts)[:-1]]
    place = np.where(counts > 0, first + np.maximum(counts - 1, 0) // 2, 0)
    return np.where(counts > 0, values[order][place], np.nan)
