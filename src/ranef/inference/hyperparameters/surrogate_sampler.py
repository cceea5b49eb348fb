"""Draws from a surrogate of a log density that is dear to evaluate, and checks of it.

The surrogate goes through what finding the mode took and, where evaluations can be spared, through
values on the axes of the curvature there, in the tails too. It is evaluated at some of its own
draws, and at points further out, where mass that it misses could be. Where it fails, what the
checks have told improves it; then so does a deterministic design around the mode.
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

Array = NDArray[np.float64]

# Where the design looks, in posterior sds, and how many points it and the mode may have.
_NEAR, _FAR, _DESIGN = 1.2, 2.4, 40
# Where on each axis values are taken before the first check, in posterior sds: a heavy tail, such
# as that of the degrees of freedom of t noise, is else seen by a few of the checks at most.
_ON_AXES = (2.0, 3.5)
# Where the density is fewer than `_HEAVY` nats below the mode at the last of these, of which a
# normal one has 6, values are taken further out, each so many times as far as the one before, until
# it is `_TAIL` nats below or so many are taken: the logarithm of a shape under a half-Cauchy prior
# has a tail exp(-t), which a surrogate that was not told of it cuts off.
_HEAVY, _TAIL, _FURTHER, _TAIL_STEPS = 5.0, 7.0, 1.5, 5
# Points at which the surrogate is checked each time, draws and further out; how often at
# most, and before which check the design is evaluated.
_INNER, _OUTER, _CHECKS, _DESIGNED = 10, 15, 5, 3
# The power of the surrogate's density from which the points further out are drawn, and nats below
# its maximum from which on none are.
_OUTWARD, _NOWHERE = 0.35, 100.0
# The root mean square error in nats that passes at either, and that may be relied on.
_ERRORS, _RELIABLE = (0.12, 0.15), (0.3, 1.0)
# The power of a surrogate that fails from which draws are proposed, and how many of these the
# weighted ones must be worth.
_FLATTER, _FEW = 0.7, 50
# Weighted draws from which the places of a check are taken, and for each draw that is wanted.
_WEIGHTED, _POOL = 16_000, 4
# Nats by which it may be off at all of its draws alike, and rise above the mode.
_CONSTANT, _ABOVE = 2.0, 1.0
# Nats below the mode, and one more for each dimension, from which on a place is next to without
# mass. Beyond, the surrogate is told of the logarithm of further nats in units of so many, and of
# no more than so many: a thousand or a million would bend it everywhere else, and from a floor it
# would rise again further out.
_DEEP, _UNIT, _FLOOR = 10.0, 5.0, 25.0


@dataclass(frozen=True)
class SurrogateDraws:
    """Draws from the surrogate.

    Attributes:
        x: (draws, d), equally weighted.
        error: of the surrogate at the checks among its draws, root mean square in nats.
        evaluations: of the density.
        reliable: whether the surrogate is close to the density where it was checked, or k-hat
            below its threshold.
        k_hat: of draws that were weighted by the density itself; None for the surrogate's.
    """

    x: Array
    error: float
    evaluations: int
    reliable: bool
    k_hat: float | None = None


@dataclass(frozen=True)
class SurrogateCheck:
    """Log density less surrogate at draws and further out.

    Attributes:
        inner, outer: the differences.
        mass: shares of the outer ones in the posterior's mass, or in what the surrogate takes for
            it: an error counts as far as there is any.
    """

    inner: Array
    outer: Array
    mass: Array

    @property
    def errors(self) -> tuple[float, float]:
        """Root mean squares, less what it is off by at all draws alike."""
        middle = np.median(self.inner)
        return _rms(self.inner - middle), float(np.sqrt(self.mass @ (self.outer - middle) ** 2))

    def within(self, limits: tuple[float, float]) -> bool:
        # A constant off does not matter, unless it is one peak that the density does not have.
        if abs(float(np.median(self.inner))) > _CONSTANT:
            return False
        return all(error < limit for error, limit in zip(self.errors, limits, strict=True))


@dataclass
class Observations:
    """What is known of the density, at whitened points; nan for a gradient that is not."""

    top: Mode
    points: Array
    values: Array
    gradients: Array

    @classmethod
    def of(cls, top: Mode) -> "Observations":
        empty = np.zeros((0, len(top.x)))
        out = cls(top, empty, np.zeros(0), empty)
        out.add(top.points, top.values, top.gradients)
        return out

    def whitened(self, x: Array) -> Array:
        away = np.linalg.solve(self.top.root, (x - self.top.x).T).T
        return np.asarray(away, dtype=np.float64)

    def add(self, x: Array, values: Array, gradients: Array) -> None:
        away = values - self.top.value
        slopes = np.where((away > -self._knee)[:, None], gradients @ self.top.root, np.nan)
        self.points = np.vstack([self.points, self.whitened(x)])
        self.values = np.append(self.values, self.bent(away))
        self.gradients = np.vstack([self.gradients, slopes])

    @property
    def _knee(self) -> float:
        return _DEEP + len(self.top.x)

    def bent(self, away: Array) -> Array:
        """Nats from the mode as the surrogate is told of them."""
        beyond = np.maximum(-away - self._knee, 0.0)
        bent = -self._knee - np.minimum(_UNIT * np.log1p(beyond / _UNIT), _FLOOR)
        return np.where(beyond > 0, bent, away)

    def is_mode(self) -> bool:
        """Whether nothing that was evaluated is far above what the search took for the top."""
        return float(self.values.max()) < _CONSTANT

    def surrogate(self) -> Callable[[Array], Array]:
        """A log density of x (B, d), less that at the mode."""
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
    """Draws of x from the surrogate, behind which are a design and five checks at most.

    Where it fails, it is what draws are proposed from that the density itself weights.

    Args:
        target: the log density.
        top: its mode.
        rng: of the draws.
        draws: how many.
        tick: called at each evaluation.
        spare: evaluations that may be spent where the surrogate fails.
    """
    told = Observations.of(top)
    on_axes = _told_on_axes(told, target, tick) if spare else 0
    # How many draws are wanted does not change where the surrogate is checked.
    check, evaluations = _checked(told, target, rng, _WEIGHTED, tick)
    evaluations += on_axes
    for trial in range(1, _CHECKS):
        if check.within(_ERRORS):
            break
        if trial == _DESIGNED:
            for z in _design(len(top.x)):
                tick()
                place = top.x + top.root @ z
                value, gradient = target.value_and_gradient(place)
                told.add(place[None], np.array([value]), gradient[None])
                evaluations += 1
        check, used = _checked(told, target, rng, _WEIGHTED, tick)
        evaluations += used
    # From what the last check has told too, which it could not judge.
    guess = told.surrogate()
    x, weights, *_ = importance(guess, target, top, rng, max(_POOL * draws, _WEIGHTED))
    if check.within(_RELIABLE) or not spare:
        chosen = x[resampled(rng, weights, draws)]
        reliable = check.within(_RELIABLE) and told.is_mode()
        return SurrogateDraws(chosen, check.errors[0], evaluations, reliable)
    # Proposed from a flatter surrogate, which has mass where it is a little too low.
    places = x[resampled(rng, _flatter(guess(x), weights, _FLATTER), spare)]
    values = target.log_density(places)
    for _ in places:
        tick()
    ratios = values - _FLATTER * guess(places)
    weights, k = smoothed(np.where(np.isfinite(ratios), ratios, -1e300))
    chosen = places[resampled(rng, weights, draws)]
    top_found = told.is_mode() and bool(np.max(values) < top.value + _CONSTANT)
    reliable = bool(k < threshold(spare)) and _worth(places, weights) > _FEW and top_found
    return SurrogateDraws(chosen, check.errors[0], evaluations + spare, reliable, k)


def _checked(
    told: Observations,
    target: Target,
    rng: np.random.Generator,
    size: int,
    tick: Callable[[], object],
) -> tuple[SurrogateCheck, int]:
    """The surrogate against the density, which is told what it was there; evaluations."""
    top, guess = told.top, told.surrogate()
    x, weights, *_ = importance(guess, target, top, rng, size)
    inner = x[resampled(rng, weights, _INNER)]
    # Of a flatter density, so that mass which the surrogate misses can be seen.
    outer = x[resampled(rng, _flatter(guess(x), weights, _OUTWARD), _OUTER)]
    places = np.vstack([inner, outer])
    values = target.log_density(places)
    for _ in places:
        tick()
    true, guessed = told.bent(values - top.value), told.bent(guess(places))
    told.add(places, values, np.full_like(places, np.nan))
    missed, larger = true - guessed, np.maximum(true, guessed)[_INNER:]
    mass = np.exp((1 - _OUTWARD) * (larger - larger.max()))
    return SurrogateCheck(missed[:_INNER], missed[_INNER:], mass / mass.sum()), len(places)


def _flatter(log_density: Array, weights: Array, power: float) -> Array:
    """Of draws that are weighted for a density, the weights for a power of it.

    Where there is no mass to speak of none is looked for: powers of exp(-2000) overflow.
    """
    depth = log_density - log_density.max()
    ratios = np.exp((power - 1) * np.maximum(depth, -_NOWHERE))
    flat = np.where(depth > -_NOWHERE, ratios, 0.0) * weights
    return np.asarray(flat / flat.sum(), np.float64)


def _told_on_axes(told: Observations, target: Target, tick: Callable[[], object]) -> int:
    """Values on the axes of the curvature at the mode, and slopes in long tails; evaluations."""
    top = told.top
    axes = np.concatenate([top.root.T, -top.root.T])
    at = _ON_AXES[-1]
    places = target.canonical(top.x + np.concatenate([away * axes for away in _ON_AXES]))
    values = target.log_density(places)
    told.add(places, values, np.full_like(places, np.nan))
    evaluations = len(places)
    axes = axes[values[-len(axes) :] > top.value - _HEAVY]
    for _ in range(_TAIL_STEPS):
        if not len(axes):
            break
        at *= _FURTHER
        places = target.canonical(top.x + at * axes)
        found = [target.value_and_gradient(place) for place in places]
        values = np.array([value for value, _ in found])
        told.add(places, values, np.array([gradient for _, gradient in found]))
        evaluations += len(places)
        axes = axes[values > top.value - _TAIL]
    for _ in range(evaluations):
        tick()
    return evaluations


def _worth(places: Array, weights: Array) -> float:
    """How many equally weighted draws weighted places are worth, each place counted once."""
    _, same = np.unique(places, axis=0, return_inverse=True)
    return 1 / float((np.bincount(same.ravel(), weights) ** 2).sum())


def _rms(x: Array) -> float:
    return float(np.sqrt((x**2).mean()))


def _design(d: int) -> list[Array]:
    """Along each axis near and far, then along each pair of axes."""
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
