"""Poisson counts: y_i ~ Poisson(mu_i)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family, FamilyParameter, FamilyState, ResponseDesign
from ranef.families.exponential_family import CountRows, ExponentialFamilyRows
from ranef.formula.equation import Line
from ranef.lazy import Array, dist


class Poisson(Family):
    """Poisson counts: y_i ~ Poisson(mu_i), for y = 0, 1, 2, ...

    Link: log for mu. There are no other parameters.

    Mean and variance are mu. With a term offset(log(n)) the remaining predictor is the log rate
    per unit of the exposure n.
    """

    name = "poisson"
    parameters = (FamilyParameter("mu", "log", "positive"),)
    discrete = True

    def refuse(
        self, value: NDArray[np.float64], companion: NDArray[np.float64] | None, frame: Frame
    ) -> None:
        responses.refuse_outside(
            value, responses.whole(value), frame, self.response.value, self.name, responses.COUNTS
        )

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        return responses.log_scale(state.scale.location)

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the working response, 1 / sqrt(mu), at the mean of the response."""
        return responses.log_noise(1.0 / max(state.scale.location, 1e-6))

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        return densities.RowDistribution(
            distribution, densities.poisson, {"log_mean": predictors["mu"]}
        )

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.Poisson(parameters["mu"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        return responses.poisson_variates(rng, np.asarray(parameters["mu"]))

    def natural(self, response: ResponseDesign) -> ExponentialFamilyRows:
        return CountRows.of(np.asarray(response.value, np.float64))

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["mu"]

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Poisson(", *symbols["mu"], ")")

    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """log(1 + 1 / mean): the variance of log y for a lognormal y of equal mean and variance.

        Source: Nakagawa, Johnson and Schielzeth (2017), table 1.
        """
        return np.asarray(np.log1p(1.0 / max(state.scale.location, 1e-6)))
