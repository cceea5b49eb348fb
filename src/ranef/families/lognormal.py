"""Lognormal responses: log y_i ~ N(mu_i, sigma^2)."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Moments
from ranef.families import responses
from ranef.families.base import Family
from ranef.families.level_shifts import Codes, Levels, weighted_means
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState, Measures
from ranef.families.thinned_rows import ThinnedRows
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jnp


class LogNormal(Family):
    """Lognormal responses: log y_i ~ N(mu_i, sigma^2), for y > 0.

    Links: identity for mu, log for sigma.
    Default prior: sigma ~ HalfStudentT(4, s), with s the sd of log y.

    The median of the response is exp(mu), its mean exp(mu + sigma^2 / 2).
    """

    name = "lognormal"
    dispersion = "sigma"
    parameters = (
        FamilyParameter("mu", "identity", "real"),
        FamilyParameter(
            "sigma", "log", "positive", lambda scale: priors.HalfStudentT(4.0, scale.sd)
        ),
    )

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        responses.refuse_outside(
            value,
            value >= responses.LEAST_POSITIVE,
            frame,
            self.response.value,
            self.name,
            responses.POSITIVE,
        )

    on_scale = True

    def measure(self, accumulator: Measures | None, design: ResponseDesign) -> Measures:
        """Moments of log y, which is on the scale of the predictor."""
        logs = np.log(np.asarray(design.value))[:, None]
        assert not isinstance(accumulator, ThinnedRows)
        return (accumulator or Moments()).add(logs, design.weights)

    def located(self, response: ResponseDesign) -> PerRow:
        """Log y."""
        return np.log(np.asarray(response.value, np.float64))

    def without(self, design: ResponseDesign, known: PerRow) -> ResponseDesign:
        """The response times exp(-known), so that log y is reduced by `known`."""
        return replace(design, value=np.asarray(design.value) * np.exp(-known))

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.LogNormal(parameters["mu"], parameters["sigma"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        mu, sigma = np.asarray(parameters["mu"]), np.asarray(parameters["sigma"])
        return np.exp(mu + sigma * rng.standard_normal(np.broadcast_shapes(mu.shape, sigma.shape)))

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        return jnp.exp(parameters["mu"] + 0.5 * parameters["sigma"] ** 2)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        mean = jnp.exp(parameters["mu"] + 0.5 * parameters["sigma"] ** 2)
        return mean**2 * jnp.expm1(parameters["sigma"] ** 2)

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("LogNormal(", *symbols["mu"], ", ", *symbols["sigma"], "²)")

    def shifts(
        self,
        response: ResponseDesign,
        codes: Codes,
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> Levels:
        """In closed form: weighted means of log y - mu with weights 1 / sigma^2."""
        away = np.log(np.asarray(response.value)) - np.asarray(predictors["mu"])
        precision = np.exp(-2 * np.broadcast_to(predictors["sigma"], away.shape))
        return weighted_means(away, precision, codes, levels)

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """sigma^2; None where sigma has a predictor."""
        return np.asarray(values["sigma"]) ** 2 if "sigma" in values else None
