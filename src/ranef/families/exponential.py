"""Exponential responses, such as waiting times: y_i ~ Exponential(rate 1 / mu_i)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist


class Exponential(Family):
    """Exponential responses: y_i ~ Exponential(rate 1 / mu_i), for y >= 0.

    Link: log for mu. There are no other parameters.

    The mean is mu and the variance mu^2.
    """

    name = "exponential"
    unbounded_at = 0.0
    parameters = (FamilyParameter("mu", "log", "positive"),)

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        responses.refuse_outside(
            value, value >= 0, frame, self.response.value, self.name, "numbers from zero on"
        )

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        return Scale(float(np.log(state.scale.location or 1.0)), 1.0)

    def row_scale(self, state: FamilyState) -> float:
        """The coefficient of variation, which is 1."""
        return 1.0

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        return densities.RowDistribution(
            distribution, densities.exponential, {"log_mean": predictors["mu"]}
        )

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.Exponential(1.0 / parameters["mu"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        mean = np.asarray(parameters["mu"])
        return mean * rng.standard_exponential(mean.shape)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["mu"] ** 2

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Exponential(1 / ", *symbols["mu"], ")")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """Log 2: the variance of log y for a lognormal y of equal mean and variance.

        Source: Nakagawa, Johnson and Schielzeth (2017), table 1.
        """
        return np.asarray(np.log(2.0))
