"""Base class of the families of counts, which `ZeroInflated` can wrap."""

from abc import abstractmethod
from typing import ClassVar

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import responses
from ranef.families.base import Family
from ranef.families.count_densities import CountDensity
from ranef.families.densities import CountDistribution
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState
from ranef.lazy import Array, ArrayLike

# Smallest mean of the training responses that scales are computed from.
_LEAST_MEAN = 1e-6


class Counts(Family):
    """Counts y = 0, 1, 2, ... of mean mu, the location, whose link is the logarithm.

    Attributes:
        inverse_shape: 1 / alpha in the variance mu + mu^2 / alpha, as `row_scale` takes it.
    """

    discrete = True
    inverse_shape: ClassVar[float] = 0.0

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        responses.refuse_other_than_counts(value, frame, self.response.value, self.name)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        if parameter.name != "mu":
            return super().predictor_scale(state, parameter)
        return responses.log_scale(state.scale.location)

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the working response, sqrt(1 / mu + 1 / alpha), at the mean of the response."""
        return responses.log_noise(inverse_mean(state) + self.inverse_shape)

    @abstractmethod
    def given(self, response: ResponseDesign, **predictors: Array) -> CountDistribution:
        """As the base class, with the log probability of zero."""

    @classmethod
    @abstractmethod
    def count_density(cls, value: ArrayLike) -> CountDensity:
        """The log density of the counts `value` (n,), with derivatives in closed form."""


def inverse_mean(state: FamilyState) -> float:
    """1 / the mean of the training responses, at most 1e6."""
    return 1.0 / max(state.scale.location, _LEAST_MEAN)
