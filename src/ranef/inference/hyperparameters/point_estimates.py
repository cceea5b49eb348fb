"""The posterior density of the hyperparameters, given those that are estimated as points."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.coordinates import Coordinates
from ranef.inference.hyperparameters.mode import find_mode

Array = NDArray[np.float64]

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
    def start(self) -> Array:
        """(d,) where a search for the mode begins."""
        ...

    @property
    def width(self) -> Array:
        """(d,) about one posterior sd of each coordinate."""
        ...

    @property
    def lengths(self) -> list[int]:
        """Places of the length scales, in which the density may have several modes."""
        ...

    def log_density(self, x: Array) -> Array:
        """Log density (B,) at x (B, d)."""
        ...

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Log density and gradient (d,) at x (d,)."""
        ...


@dataclass(frozen=True)
class RestrictedDensity:
    """The log density of some coordinates, with the others fixed: a `Target` of sampling.

    Attributes:
        marginal: the density of all coordinates.
        free: places of those that have a posterior.
        base: values of all, of which those that are not free are used.
    """

    marginal: HyperDensity
    free: NDArray[np.int64]
    base: Array

    @property
    def start(self) -> Array:
        return self.base[self.free]

    @property
    def starts(self) -> list[Array]:
        """Where searches for modes begin: `start`, and with shorter and longer length scales."""
        out = [self.start]
        for place in np.flatnonzero(np.isin(self.free, self.marginal.lengths)):
            for away in (-_OTHER_LENGTH, _OTHER_LENGTH):
                out.append(self.start.copy())
                out[-1][place] += away
        return out[:_MOST_STARTS]

    @property
    def width(self) -> Array:
        return self.marginal.width[self.free]

    def whole(self, x: Array) -> Array:
        """All coordinates (n, D) at free ones (n, d)."""
        out = np.repeat(self.base[None], len(x), axis=0)
        out[:, self.free] = x
        return out

    def log_density(self, x: Array) -> Array:
        return self.marginal.log_density(self.whole(x))

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        value, gradient = self.marginal.value_and_gradient(self.whole(x[None])[0])
        return value, gradient[self.free]

    def canonical(self, x: Array) -> Array:
        return self.marginal.coordinates.canonical(self.whole(x))[:, self.free]

    def folds(self) -> list[tuple[int, Array]]:
        coordinates = self.marginal.coordinates
        place = {int(whole): i for i, whole in enumerate(self.free)}
        return [
            (place[i], coordinates.signs([i])[self.free]) for i in coordinates.folded if i in place
        ]


@runtime_checkable
class DensityWithBound(HyperDensity, Protocol):
    """A log density with a lower bound whose gradient is much cheaper."""

    def bound_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The bound and its gradient (d,) at x (d,)."""
        ...


@dataclass(frozen=True)
class RestrictedBound(RestrictedDensity):
    """The bound in place of the density."""

    marginal: DensityWithBound

    def log_density(self, x: Array) -> Array:
        return np.array([self.value_and_gradient(each)[0] for each in x])

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        value, gradient = self.marginal.bound_and_gradient(self.whole(x[None])[0])
        return value, gradient[self.free]


def fix_point_estimates(
    marginal: HyperDensity, tick: Callable[[], object]
) -> tuple[RestrictedDensity, dict[str, Any]]:
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
