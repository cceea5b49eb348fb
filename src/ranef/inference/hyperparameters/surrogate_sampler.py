"""Draws from a surrogate of a log density that is expensive to evaluate, and checks of it.

The surrogate interpolates the evaluations made in finding the mode and, where further evaluations
can be afforded, values on the principal axes of the curvature there, out into the tails. It is
checked at some of its own draws, and at points further out, where it could miss mass. If a check
fails, the values at its points are added to the surrogate; if checks keep failing, so are values at
a deterministic design around the mode.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.importance import importance, resampled
from ranef.inference.hyperparameters.mode import Mode, Target
from ranef.inference.hyperparameters.surrogate import Surrogate
from ranef.numerics.psis import smoothed, threshold
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Distances of the design's points from the mode, in posterior sds.
_NEAR = 1.2
_FAR = 2.4
# Largest number of points of the design and of the mode's finite differences together.
_DESIGN = 40
# Distances on each axis at which values are taken before the first check, in posterior sds. Without
# them a heavy tail, such as that of the degrees of freedom of t noise, would be seen by few checks
# or none.
_ON_AXES = (2.0, 3.5)
# A tail is heavy if the density at the last of these distances is less than this many nats below
# the mode; a normal density is 6 nats below. Then values are taken further out. The logarithm of a
# shape under a half-Cauchy prior has a tail exp(-t), which a surrogate without values there would
# cut off.
_HEAVY = 4.0
# Values are taken further out until the density is this many nats below the mode.
_TAIL = 7.0
# Ratio of each distance to the one before.
_FURTHER = 1.5
# Largest number of distances beyond `_ON_AXES`.
_TAIL_STEPS = 5
# Points of a check among the surrogate's own draws.
_INNER = 10
# Points of a check further out.
_OUTER = 15
# Largest number of checks.
_CHECKS = 5
# The design is evaluated once this many checks have failed.
_DESIGNED = 3
# The points further out are drawn from this power of the surrogate's density.
_OUTWARD = 0.35
# No point is drawn from a power of a density where that is this many nats below its maximum.
_NOWHERE = 100.0
# Root mean square errors, in nats, with which a check passes: at the draws and further out.
_ERRORS = (0.12, 0.15)
# Larger errors with which the surrogate's draws still count as reliable after the last check.
_RELIABLE = (0.3, 1.0)
# If the surrogate fails, draws to be weighted are proposed from this power of it.
_FLATTER = 0.7
# Number of equally weighted draws that these must be worth.
_FEW = 50
# Weighted draws of the surrogate from which the points of a check are taken.
_WEIGHTED = 16_000
# Weighted draws of the surrogate per draw that is asked for.
_POOL = 4
# Largest median error at the draws, in nats, and largest value above that of the mode.
_CONSTANT = 2.0
# The surrogate is cut off this many nats above the mode.
_ABOVE = 1.0
# Points this many nats plus one per dimension below the mode have next to no mass. Beyond this
# depth, values are compressed before the surrogate is fitted: a thousand nats or a million would
# bend it everywhere else.
_DEEP = 10.0
# Unit in nats of the logarithm that compresses them. A logarithm keeps falling: from a constant
# floor the surrogate would rise again further out.
_UNIT = 5.0
# Largest compressed depth, in nats, beyond `_DEEP`.
_FLOOR = 25.0


@dataclass(frozen=True)
class SurrogateDraws:
    """Draws from the surrogate, or weighted by the density where the surrogate fails.

    Attributes:
        x: the draws, equally weighted.
        error: of the surrogate at the last check's points among its draws, root mean square in
            nats.
        evaluations: of the density.
        reliable: whether the errors of the surrogate, or k-hat, are below their thresholds, and
            nothing was found far above the mode.
        k_hat: of draws that the density itself weights; None for the surrogate's own draws.
    """

    x: Float[Array, "draws d"]
    error: float
    evaluations: int
    reliable: bool
    k_hat: float | None = None


@dataclass(frozen=True)
class SurrogateCheck:
    """Differences of the log density and its surrogate, at draws and further out.

    Attributes:
        inner, outer: the differences, in nats.
        mass: shares of the outer points in the posterior's mass, or in the surrogate's where that
            is larger. They weight the outer errors.
    """

    inner: Float[Array, "inner"]
    outer: Float[Array, "outer"]
    mass: Float[Array, "outer"]

    @property
    def errors(self) -> tuple[float, float]:
        """Root mean square errors at draws and further out, less the draws' median error."""
        middle = np.median(self.inner)
        return _rms(self.inner - middle), float(np.sqrt(self.mass @ (self.outer - middle) ** 2))

    def within(self, limits: tuple[float, float]) -> bool:
        """Whether both errors are within these limits, and the median error is not too large."""
        # A constant error does not matter, unless it comes from a peak that the density does not
        # have.
        if abs(float(np.median(self.inner))) > _CONSTANT:
            return False
        return all(error < limit for error, limit in zip(self.errors, limits, strict=True))


@dataclass
class Observations:
    """Evaluations of the density, in coordinates whitened at the mode.

    Attributes:
        top: the mode.
        points: whitened coordinates.
        values: log densities less that of the mode, compressed far below it.
        gradients: in the whitened coordinates; nan where they are not known.
    """

    top: Mode
    points: Float[Array, "points d"]
    values: Float[Array, "points"]
    gradients: Float[Array, "points d"]

    @classmethod
    def of(cls, top: Mode) -> "Observations":
        """The evaluations made in finding the mode."""
        empty = np.zeros((0, len(top.x)))
        out = cls(top, empty, np.zeros(0), empty)
        out.add(top.points, top.values, top.gradients)
        return out

    def whitened(self, x: Float[Array, "points d"]) -> Float[Array, "points d"]:
        """Whitened coordinates of x."""
        away = np.linalg.solve(self.top.root, (x - self.top.x).T).T
        return np.asarray(away, dtype=np.float64)

    def add(
        self,
        x: Float[Array, "points d"],
        values: Float[Array, "points"],
        gradients: Float[Array, "points d"],
    ) -> None:
        """Adds values and gradients at x."""
        away = values - self.top.value
        slopes = np.where((away > -self._knee)[:, None], gradients @ self.top.root, np.nan)
        self.points = np.vstack([self.points, self.whitened(x)])
        self.values = np.append(self.values, self.bent(away))
        self.gradients = np.vstack([self.gradients, slopes])

    @property
    def _knee(self) -> float:
        """The depth in nats below the mode from which values are compressed."""
        return _DEEP + len(self.top.x)

    def bent(self, away: Float[Array, "points"]) -> Float[Array, "points"]:
        """Log densities less that of the mode, with those far below it compressed."""
        beyond = np.maximum(-away - self._knee, 0.0)
        bent = -self._knee - np.minimum(_UNIT * np.log1p(beyond / _UNIT), _FLOOR)
        return np.where(beyond > 0, bent, away)

    def is_mode(self) -> bool:
        """Whether no evaluation is far above the end of the search for the mode."""
        return float(self.values.max()) < _CONSTANT

    def surrogate(self) -> Callable[[Float[Array, "B d"]], Float[Array, "B"]]:
        """A surrogate log density of x, less that of the mode."""
        fitted = Surrogate.of(self.points, self.values, self.gradients)
        return lambda x: np.minimum(fitted.log_density(self.whitened(x)), _ABOVE)


def sample_surrogate(
    target: Target,
    top: Mode,
    rng: np.random.Generator,
    draws: int,
    tick: Callable[[], object],
    spare: int = 0,
) -> SurrogateDraws:
    """Draws of x from the surrogate, after five checks at most.

    If the surrogate fails, draws proposed from a power of it are weighted by the density itself.

    Args:
        target: the log density.
        top: its mode.
        rng: of the draws.
        draws: number of draws.
        tick: called at each evaluation.
        spare: number of evaluations that may be spent on weighted draws if the surrogate fails.
    """
    seen = Observations.of(top)
    on_axes = _observe_axes(seen, target, tick) if spare else 0
    # The number of weighted draws is fixed, so that the number of draws asked for does not change
    # the points of the checks.
    check, evaluations = _checked(seen, target, rng, _WEIGHTED, tick)
    evaluations += on_axes
    for trial in range(1, _CHECKS):
        if check.within(_ERRORS):
            break
        if trial == _DESIGNED:
            for z in _design(len(top.x)):
                tick()
                place = top.x + top.root @ z
                value, gradient = target.value_and_gradient(place)
                seen.add(place[None], np.array([value]), gradient[None])
                evaluations += 1
        check, used = _checked(seen, target, rng, _WEIGHTED, tick)
        evaluations += used
    # Includes the values at the points of the last check, which that check could not assess.
    guess = seen.surrogate()
    x, weights, *_ = importance(guess, target, top, rng, max(_POOL * draws, _WEIGHTED))
    if check.within(_RELIABLE) or not spare:
        chosen = x[resampled(rng, weights, draws)]
        reliable = check.within(_RELIABLE) and seen.is_mode()
        return SurrogateDraws(chosen, check.errors[0], evaluations, reliable)
    # A flatter surrogate also has mass where the surrogate is a little too low.
    places = x[resampled(rng, _flatter(guess(x), weights, _FLATTER), spare)]
    values = target.log_density(places)
    for _ in places:
        tick()
    ratios = values - _FLATTER * guess(places)
    weights, k = smoothed(np.where(np.isfinite(ratios), ratios, -1e300))
    chosen = places[resampled(rng, weights, draws)]
    top_found = seen.is_mode() and bool(np.max(values) < top.value + _CONSTANT)
    reliable = bool(k < threshold(spare)) and _worth(places, weights) > _FEW and top_found
    return SurrogateDraws(chosen, check.errors[0], evaluations + spare, reliable, k)


def _checked(
    seen: Observations,
    target: Target,
    rng: np.random.Generator,
    size: int,
    tick: Callable[[], object],
) -> tuple[SurrogateCheck, int]:
    """Compares the surrogate with the density, and adds the values.

    Returns:
        The comparison, and the number of evaluations.
    """
    top, guess = seen.top, seen.surrogate()
    x, weights, *_ = importance(guess, target, top, rng, size)
    inner = x[resampled(rng, weights, _INNER)]
    # From a flatter density, to see mass that the surrogate misses.
    outer = x[resampled(rng, _flatter(guess(x), weights, _OUTWARD), _OUTER)]
    places = np.vstack([inner, outer])
    values = target.log_density(places)
    for _ in places:
        tick()
    true, guessed = seen.bent(values - top.value), seen.bent(guess(places))
    seen.add(places, values, np.full_like(places, np.nan))
    missed, larger = true - guessed, np.maximum(true, guessed)[_INNER:]
    mass = np.exp((1 - _OUTWARD) * (larger - larger.max()))
    return SurrogateCheck(missed[:_INNER], missed[_INNER:], mass / mass.sum()), len(places)


def _flatter(
    log_density: Float[Array, "points"], weights: Float[Array, "points"], power: float
) -> Float[Array, "points"]:
    """Weights for a power of a density, from the weights of draws for the density itself.

    Points far below the maximum get weight zero: powers of exp(-2000) overflow.
    """
    depth = log_density - log_density.max()
    ratios = np.exp((power - 1) * np.maximum(depth, -_NOWHERE))
    flat = np.where(depth > -_NOWHERE, ratios, 0.0) * weights
    return np.asarray(flat / flat.sum(), np.float64)


def _observe_axes(seen: Observations, target: Target, tick: Callable[[], object]) -> int:
    """Adds values on the axes of the curvature, and gradients in long tails.

    A direction is left as soon as its points are reflected, as those of a negative sd are: what is
    there is known from the other side.

    Returns:
        The number of evaluations.
    """
    top = seen.top
    axes = np.concatenate([top.root.T, -top.root.T])
    at = _ON_AXES[-1]
    whole = top.x + np.concatenate([away * axes for away in _ON_AXES])
    places = target.canonical(whole)
    values = target.log_density(places)
    seen.add(places, values, np.full_like(places, np.nan))
    evaluations = len(places)
    heavy = (values > top.value - _HEAVY) & (places == whole).all(axis=1)
    axes = axes[heavy[-len(axes) :]]
    for _ in range(_TAIL_STEPS):
        if not len(axes):
            break
        at *= _FURTHER
        whole = top.x + at * axes
        places = target.canonical(whole)
        found = [target.value_and_gradient(place) for place in places]
        values = np.array([value for value, _ in found])
        seen.add(places, values, np.array([gradient for _, gradient in found]))
        evaluations += len(places)
        axes = axes[(values > top.value - _TAIL) & (places == whole).all(axis=1)]
    for _ in range(evaluations):
        tick()
    return evaluations


def _worth(places: Float[Array, "points d"], weights: Float[Array, "points"]) -> float:
    """Effective number of draws, with the weights of equal points added up first."""
    _, same = np.unique(places, axis=0, return_inverse=True)
    return 1 / float((np.bincount(same.ravel(), weights) ** 2).sum())


def _rms(x: Array) -> float:
    """Root mean square."""
    return float(np.sqrt((x**2).mean()))


def _design(d: int) -> list[Float[Array, "{d}"]]:
    """Whitened points on each axis, near and far, and then near on each pair of axes."""
    out = []
    for distance in (_NEAR, _FAR):
        for i in range(d):
            for side in (1.0, -1.0):
                z = np.zeros(d)
                z[i] = side * distance
                out.append(z)
    for i, j in itertools.combinations(range(d), 2):
        for a, b in itertools.product((1.0, -1.0), repeat=2):
            z = np.zeros(d)
            z[i], z[j] = a * _NEAR, b * _NEAR
            out.append(z)
    return out[: _DESIGN - 2 * d - 1]
