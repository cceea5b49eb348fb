"""The posterior of a few hyperparameters, whose density can be evaluated at a point.

First the mode. Then, where an evaluation is cheap, importance-weighted draws from t
distributions that adapt to the target. Where it is dear, a surrogate of the log density through
what the mode took, draws from it, and evaluations at some of the draws, which check it; where
it is not good enough, a deterministic design around the mode, and then some of these draws,
improve it.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pareto import smoothed, threshold
from ranef.inference.proposal import Mixture, adapted, resampled
from ranef.inference.search import minimise
from ranef.inference.surrogate import Surrogate

Array = NDArray[np.float64]

# Evaluations for each draw that is wanted, and how often the proposal may adapt.
_POOL, _ROUNDS = 4, 6
# Below this share of effective draws the proposal adapts.
_EFFECTIVE = 0.3
# Where the design looks, in posterior sds, and how many points it may have.
_NEAR, _FAR, _DESIGN = 1.2, 2.4, 40
# Points at which the surrogate is checked each time, draws and further out, and how often.
_INNER, _OUTER, _ROUNDS_OF_CHECKS = 25, 8, 3
# The root mean square error in nats that passes at either.
_ERROR, _OUTER_ERROR = 0.1, 0.3
# An even density whose mode is further from zero than this many sds is folded in one place.
_FOLD = 6.0
# Folds at once.
_MOST_FOLDS = 5


@runtime_checkable
class Target(Protocol):
    """A log density of x (d,) up to a constant."""

    def log_density(self, x: Array) -> Array:
        """(B,) at x (B, d)."""
        ...

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """At x (d,)."""
        ...

    def canonical(self, x: Array) -> Array:
        """Of the points (n, d) at which the density is the same, the one that stands for all."""
        ...

    def folds(self) -> list[tuple[int, Array]]:
        """Coordinates whose sign may change, each with the signs that it changes (d,)."""
        ...


@dataclass(frozen=True)
class Explored:
    """What was found.

    Attributes:
        x: (draws, d), equally weighted.
        mode: (d,).
        k_hat: of the importance weights, or of what the surrogate missed.
        effective: share of the pool, or of the checks, that the weights leave.
        evaluations: of the density.
        reliable: whether k-hat is below its threshold.
        found: whether the search for the mode ended at one.
    """

    x: Array
    mode: Array
    k_hat: float
    effective: float
    evaluations: int
    reliable: bool
    found: bool


@dataclass(frozen=True)
class Peak:
    """The mode and the curvature there.

    Attributes:
        x: (d,).
        value: of the log density.
        root: (d, d) lower triangular, root root' the inverse curvature.
        points, values, gradients: where the density was evaluated for it.
        evaluations: in all.
        found: whether the gradient vanishes.
    """

    x: Array
    value: float
    root: Array
    points: Array
    values: Array
    gradients: Array
    evaluations: int
    found: bool


def peak(target: Target, start: Array, width: Array, tick: Callable[[], object]) -> Peak:
    """The mode, and the curvature from gradients on either side of it along each coordinate."""

    def negative(x: Array) -> tuple[float, Array]:
        tick()
        value, gradient = target.value_and_gradient(x)
        return -value, -gradient

    found = minimise(negative, start, gain=1e-4, width=width)
    d, mode = len(start), found.x
    points, values, gradients = [mode], [-found.value], [-found.gradient]
    step = np.clip(np.sqrt(np.diagonal(found.inverse)), width / 3, np.minimum(3 * width, 1.0))
    evaluations = found.evaluations
    curvature = np.zeros((d, d))
    for _ in range(2):
        sides = []
        for i in range(d):
            for side in (1.0, -1.0):
                x = mode.copy()
                x[i] += side * step[i]
                value, gradient = negative(x)
                sides.append(gradient)
                points.append(x)
                values.append(-value)
                gradients.append(-gradient)
        evaluations += 2 * d
        for i in range(d):
            curvature[i] = (sides[2 * i] - sides[2 * i + 1]) / (2 * step[i])
        curvature = (curvature + curvature.T) / 2
        diagonal = np.maximum(np.diagonal(curvature), 1e-8)
        # About a posterior sd; a step far from it says nothing of the curvature there.
        ideal = np.minimum(1 / np.sqrt(diagonal), 2.0)
        if (np.abs(np.log(ideal / step)) < math.log(4.0)).all():
            break
        step = ideal
    root = _inverse_root(curvature, step)
    finite = np.isfinite(values)
    return Peak(
        mode,
        -found.value,
        root,
        np.array(points)[finite],
        np.array(values)[finite],
        np.array(gradients)[finite],
        evaluations,
        found.converged,
    )


def _inverse_root(curvature: Array, step: Array) -> Array:
    """A root of the inverse; directions without curvature get a width of a few steps."""
    values, vectors = np.linalg.eigh(np.nan_to_num(curvature) * step * step[:, None])
    values = np.maximum(values, 0.05)
    inverse = (vectors / values) @ vectors.T * step * step[:, None]
    return np.asarray(np.linalg.cholesky(inverse), dtype=np.float64)


def explore(
    target: Target,
    start: Array,
    width: Array,
    rng: np.random.Generator,
    draws: int,
    *,
    cheap: bool,
    patient: bool = False,
    tick: Callable[[], object] = lambda: None,
) -> Explored:
    """Draws of x from its posterior.

    Args:
        target: the log density.
        start: (d,) where the search for the mode begins.
        width: (d,) about one posterior sd of each coordinate.
        rng: of all that is drawn.
        draws: how many.
        cheap: whether thousands of evaluations can be afforded.
        patient: whether they can where nothing less serves.
        tick: called at each evaluation.
    """
    if len(start) == 0:
        return Explored(np.zeros((draws, 0)), start, -np.inf, 1.0, 1, True, True)
    top = peak(target, start, width, tick)
    if cheap:
        return _weighted(target, top, rng, draws)
    found = _designed(target, top, rng, draws, tick)
    if found.reliable or not patient:
        return found
    return _weighted(target, top, rng, draws)


def _signs(target: Target, top: Peak) -> Array:
    """Sign changes under which the density is the same and its parts overlap, (s, d)."""
    sd = np.sqrt((top.root**2).sum(axis=1))
    folds = target.folds()
    near = sorted((f for f in folds if abs(top.x[f[0]]) < _FOLD * sd[f[0]]),
                  key=lambda f: abs(top.x[f[0]]) / sd[f[0]])[:_MOST_FOLDS]  # fmt: skip
    out = []
    for chosen in itertools.product((False, True), repeat=len(near)):
        sign = np.ones(len(top.x))
        for use, (_, change) in zip(chosen, near, strict=True):
            sign = sign * change if use else sign
        out.append(sign)
    return np.array(out)


def _importance(
    log_density: Callable[[Array], Array],
    target: Target,
    proposal: Mixture,
    rng: np.random.Generator,
    size: int,
    accept: Callable[[float, float], bool],
) -> tuple[Array, Array, float, float, int]:
    """Weighted draws: x, smoothed weights, k-hat, effective share, evaluations.

    The proposal adapts until `accept` of k-hat and the effective share, or too often.
    """
    best: tuple[Array, Array, float, float] | None = None
    evaluations = 0
    for trial in range(_ROUNDS):
        last = trial + 1 == _ROUNDS
        x = target.canonical(proposal.sample(rng, size))
        log_ratios = log_density(x) - proposal.log_density(x)
        evaluations += size
        if not np.isfinite(log_ratios).any():
            break
        weights, k = smoothed(np.where(np.isfinite(log_ratios), log_ratios, -1e300))
        effective = 1 / float((weights**2).sum()) / size
        if best is None or effective > best[3]:
            best = (x, weights, k, effective)
        if accept(k, effective) or last:
            break
        proposal = adapted(rng, best[0], best[1], proposal.signs)
    if best is None:
        raise FloatingPointError("the density is zero everywhere around its mode")
    return *best, evaluations


def _good(k: float, effective: float) -> bool:
    return k < 0.5 and effective > _EFFECTIVE


def _weighted(target: Target, top: Peak, rng: np.random.Generator, draws: int) -> Explored:
    signs = _signs(target, top)
    proposal = Mixture(top.x[None], 1.1 * top.root, 6.0, signs)
    size = max(_POOL * draws, 1_000)
    x, weights, k, effective, evaluations = _importance(
        target.log_density, target, proposal, rng, size, _good
    )
    chosen = x[resampled(rng, weights, draws)]
    reliable = bool(k < threshold(size))
    evaluations += top.evaluations
    return Explored(chosen, top.x, k, effective, evaluations, reliable, top.found)


def _designed(
    target: Target, top: Peak, rng: np.random.Generator, draws: int, tick: Callable[[], object]
) -> Explored:
    signs = _signs(target, top)
    d, evaluations = len(top.x), top.evaluations
    inverse = np.linalg.inv(top.root)

    def whitened(x: Array) -> Array:
        return (x - top.x) @ inverse.T

    points, values, gradients = whitened(top.points), top.values, top.gradients @ top.root
    tried: list[Array] = []
    for trial in range(_ROUNDS_OF_CHECKS):
        for x in tried:
            tick()
            value, gradient = target.value_and_gradient(x)
            evaluations += 1
            if np.isfinite(value):
                points = np.vstack([points, whitened(x)])
                values = np.append(values, value)
                gradients = np.vstack([gradients, gradient @ top.root])
        surrogate = Surrogate.of(points, values - top.value, gradients)

        def guess(x: Array, surrogate: Surrogate = surrogate) -> Array:
            return surrogate.log_density(whitened(x))

        proposal = Mixture(top.x[None], 1.1 * top.root, 6.0, signs)
        x, weights, *_ = _importance(guess, target, proposal, rng, max(_POOL * draws, 4_000), _good)
        chosen = x[resampled(rng, weights, draws)]
        log_guess = guess(x)
        # Of a flatter density, so that mass which the surrogate misses can be seen.
        flat = (
            np.exp(0.5 * (log_guess - log_guess.max()))
            * weights
            / np.exp(log_guess - log_guess.max())
        )
        outer = x[resampled(rng, flat / flat.sum(), _OUTER)]
        inner = chosen[:_INNER]
        checks = np.vstack([inner, outer])
        missed = np.empty(len(checks))
        for i, place in enumerate(checks):
            tick()
            missed[i] = target.log_density(place[None])[0] - top.value - guess(place[None])[0]
        evaluations += len(checks)
        middle = float(np.median(missed[: len(inner)]))
        error = _rms(missed[: len(inner)] - middle)
        outer_error = _rms(missed[len(inner) :] - middle)
        shares, k = smoothed(missed[: len(inner)])
        effective = 1 / float((shares**2).sum()) / len(inner)
        good = error < _ERROR and outer_error < _OUTER_ERROR
        if good or not np.isfinite(missed).all():
            break
        # What the checks have told is known from now on, and the next are new ones.
        points = np.vstack([points, whitened(checks)])
        values = np.append(values, top.value + guess(checks) + missed)
        gradients = np.vstack([gradients, np.full_like(checks, np.nan)])
        tried = []
        if trial + 2 == _ROUNDS_OF_CHECKS:
            tried = [top.x + top.root @ z for z in _design(d)[: _DESIGN - 2 * d]]
    reliable = bool(np.isfinite(missed).all()) and error < 3 * _ERROR and outer_error < 1.0
    return Explored(chosen, top.x, k, effective, evaluations, reliable, top.found)


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
    return out
