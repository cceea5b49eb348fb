"""Heavy-tailed responses: y_i = mu_i + sigma t_i, where t_i has Student's t distribution."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.moments import Moments, Scale
from ranef.families import densities
from ranef.families.base import Family
from ranef.families.level_shifts import Codes, Levels, weighted_means
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow, RowDensity
from ranef.families.state import FamilyState, Measures
from ranef.families.student_density import StudentDensity
from ranef.families.thinned_rows import ThinnedRows
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jnp

# Largest number of EM steps. EM converges linearly, more slowly the heavier the tails.
_EM_STEPS = 500

# Largest number of responses kept for location and scale; more are thinned evenly.
_MOST = 2_000_000


def _weighted_median(values: PerRow, weights: PerRow) -> float:
    """Weighted median: the mean of the two values at which the weights reach one half."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    low = int(np.searchsorted(share, 0.5 - 1e-12))
    high = int(np.searchsorted(share, 0.5 + 1e-12))
    return float(values[order[[low, min(high, len(values) - 1)]]].mean())


class Student(Family):
    """Heavy-tailed responses: y_i ~ StudentT(nu, mu_i, sigma), for any real y.

    Links: identity for mu, log for sigma and nu.
    Default priors: sigma ~ HalfStudentT(4, s), with s = 1.4826 times the median absolute deviation
    of the response, and nu ~ Gamma(2, 0.1) (Juarez and Steel, 2010).

    mu is the location and, for nu > 1, the mean. The variance is sigma^2 nu / (nu - 2), infinite
    for nu <= 2. With weights(y, w) the scale of row i is sigma / sqrt(w_i), and s is multiplied by
    the root of the mean weight.
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

    def measure(self, accumulator: Measures | None, design: ResponseDesign) -> Measures:
        """The responses so far with their weights, thinned above `_MOST`."""
        assert not isinstance(accumulator, Moments)
        weights = np.ones(len(design.value)) if design.weights is None else design.weights
        both = np.stack([np.asarray(design.value), weights], axis=1)
        return (accumulator or ThinnedRows()).add(both, _MOST)

    def location_and_sd(self, accumulator: Measures) -> tuple[float, float]:
        """Median and 1.4826 times the median absolute deviation, since an sd may not exist.

        The deviation is replaced by the sd where it is zero.
        """
        assert isinstance(accumulator, ThinnedRows)
        values, weights = accumulator.rows.T
        location = _weighted_median(values, weights)
        scale = 1.4826 * _weighted_median(np.abs(values - location), weights)
        return location, scale or float(values.std())

    def mean_weight(self, accumulator: Measures) -> float:
        assert isinstance(accumulator, ThinnedRows)
        return float(accumulator.rows[:, 1].mean())

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        """As the base class; a predictor of log nu has location log 5 and sd 1."""
        if parameter.name == "nu":
            return Scale(math.log(5.0), 1.0)
        return super().predictor_scale(state, parameter)

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        log_scale = predictors["sigma"]
        if response.form == "weights":
            log_scale = log_scale - 0.5 * jnp.log(jnp.asarray(response.companion))
        known = {"location": predictors["mu"], "log_scale": log_scale, "log_nu": predictors["nu"]}
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        return densities.RowDistribution(distribution, densities.student, known)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu alone has a predictor."""
        if list(predictors) != ["mu"]:
            return None
        return StudentDensity.of(response.value, response.weights)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        scale = self._scale(response, parameters)
        return dist.StudentT(parameters["nu"], parameters["mu"], scale)

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """For mu the weights of EM: (nu + 1) / (nu + r^2) / s^2, r = (y - mu) / s.

        These are the expected precisions of the rows in the representation of Student's t as a
        scale mixture of normals; s is the scale of the row. Source: Lange, Little and Taylor
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
        """Draws with NumPy, since JAX's gamma sampler takes thirty times as long on a CPU."""
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
        """Scale of each row, (n,) or ()."""
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
        codes: Codes,
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> Levels:
        """By EM: repeated weighted means of y - mu with the weights of `working_weights`.

        EM starts at the medians of the levels, since the likelihood of few rows may have several
        maxima. Source: Lange, Little and Taylor (1989), section 3.
        """
        etas = {name: jnp.asarray(eta) for name, eta in predictors.items()}
        parameters = self.on_own_scale(**etas)
        nu = np.asarray(parameters["nu"], np.float64)
        away = np.asarray(response.value) - np.asarray(parameters["mu"], np.float64)
        scale = np.broadcast_to(self._scale(response, parameters), away.shape)
        shift = _medians(away, codes, levels)
        for _ in range(_EM_STEPS):
            scaled = (away - shift[codes]) / scale
            weight = (nu + 1.0) / (nu + scaled**2) / scale**2
            before, shift = shift, weighted_means(away, weight, codes, levels)
            if np.nanmax(np.abs(shift - before)) < 1e-6 * float(scale.min()):
                break
        return shift

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """sigma^2, the squared scale, since the variance may be infinite."""
        return np.asarray(values["sigma"]) ** 2 if "sigma" in values else None


def _medians(values: PerRow, codes: Codes, levels: int) -> Levels:
    """Lower median of the rows of each level, NaN for a level without rows."""
    order = np.lexsort((values, codes))
    counts = np.bincount(codes, minlength=levels)
    first = np.r_[0, np.cumsum(counts)[:-1]]
    place = np.where(counts > 0, first + np.maximum(counts - 1, 0) // 2, 0)
    return np.where(counts > 0, values[order][place], np.nan)
