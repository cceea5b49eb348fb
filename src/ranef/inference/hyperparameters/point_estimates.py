"""The posterior density of the hyperparameters conditional on those estimated as points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.coordinates import Coordinates
from ranef.inference.hyperparameters.mode import find_mode
from ranef.numerics.shapes import Float, Int, Numbers

Array = NDArray[np.float64]
Vector = Float[Array, "d"]

# Further searches begin with length scales longer and shorter by a factor of exp(1.5): from the
# middle of the plausible range to near its ends.
_OTHER_LENGTH = 1.5
# Largest number of searches.
_MOST_STARTS = 7


@runtime_checkable
class HyperDensity(Protocol):
    """A log density of the hyperparameters in their coordinates."""

    @property
    def coordinates(self) -> Coordinates: ...

    @property
    def start(self) -> Vector:
        """Where a search for the mode begins."""
        ...

    @property
    def width(self) -> Vector:
        """About one posterior sd of each coordinate."""
        ...

    @property
    def lengths(self) -> list[int]:
        """Places of the length scales, in which the density may have several modes."""
        ...

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, "B"]:
        """Log density at x."""
        ...

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """Log density and gradient at x."""
        ...


@dataclass(frozen=True)
class RestrictedDensity:
    """The log density of some coordinates, with the others fixed: a `Target` of sampling.

    Attributes:
        marginal: the density of all D coordinates.
        free: places of the d coordinates that have a posterior.
        base: values of all, of which those that are not free are used.
    """

    marginal: HyperDensity
    free: Int[NDArray[np.int64], "d"]
    base: Float[Array, "D"]

    @property
    def start(self) -> Vector:
        return self.base[self.free]

    @property
    def starts(self) -> list[Vector]:
        """Where searches for modes begin: `start`, and with shorter and longer length scales."""
        out = [self.start]
        for place in np.flatnonzero(np.isin(self.free, self.marginal.lengths)):
            for away in (-_OTHER_LENGTH, _OTHER_LENGTH):
                out.append(self.start.copy())
                out[-1][place] += away
        return out[:_MOST_STARTS]

    @property
    def width(self) -> Vector:
        return self.marginal.width[self.free]

    def whole(self, x: Float[Array, "points d"]) -> Float[Array, "points D"]:
        """All coordinates at the free ones x."""
        out = np.repeat(self.base[None], len(x), axis=0)
        out[:, self.free] = x
        return out

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, "B"]:
        return self.marginal.log_density(self.whole(x))

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        value, gradient = self.marginal.value_and_gradient(self.whole(x[None])[0])
        return value, gradient[self.free]

    def canonical(self, x: Float[Array, "points d"]) -> Float[Array, "points d"]:
        return self.marginal.coordinates.canonical(self.whole(x))[:, self.free]

    def folds(self) -> list[tuple[int, Vector]]:
        coordinates = self.marginal.coordinates
        place = {int(whole): i for i, whole in enumerate(self.free)}
        return [
            (place[i], coordinates.signs([i])[self.free]) for i in coordinates.folded if i in place
        ]


@runtime_checkable
class DensityWithBound(HyperDensity, Protocol):
    """A log density with a lower bound whose gradient is much cheaper."""

    def bound_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """The bound and its gradient at x."""
        ...


@dataclass(frozen=True)
class RestrictedBound(RestrictedDensity):
    """The bound in place of the density."""

    marginal: DensityWithBound

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, "B"]:
        return np.array([self.value_and_gradient(each)[0] for each in x])

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        value, gradient = self.marginal.bound_and_gradient(self.whole(x[None])[0])
        return value, gradient[self.free]


def fix_point_estimates(
    marginal: HyperDensity, tick: Callable[[], object]
) -> tuple[RestrictedDensity, dict[str, Numbers]]:
    """Estimates the parameters that have no posterior at the joint mode of all.

    Args:
        marginal: the density of all coordinates.
        tick: called at each evaluation.

    Returns:
        the density of the other coordinates, with these estimates fixed; and the estimates by site.
    """
    coordinates = marginal.coordinates
    points = [i for i, scale in enumerate(coordinates.scales) if scale.is_point]
    free = np.setdiff1d(np.arange(coordinates.size), points)
    if not points:
        return RestrictedDensity(marginal, free, marginal.start), {}
    whole = RestrictedDensity(marginal, np.arange(coordinates.size), marginal.start)
    top = find_mode(whole, whole.start, whole.width, tick)
    base = coordinates.canonical(top.x[None])[0]
    values = coordinates.values(base)
    names = [coordinates.scales[i].name for i in points]
    return RestrictedDensity(marginal, free, base), {name: values[name] for name in names}
