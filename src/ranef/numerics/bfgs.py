"""Minimisation of a smooth function of a few coordinates with an exact gradient."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]

# Fractions of the expected decrease, and of the slope, that a step must bring (Nocedal and
# Wright, 2006, eq. 3.7).
_DECREASE, _SLOPE = 1e-4, 0.9
_STEPS, _TRIALS = 200, 30
# Steps in a row that lower the function by less than a tenth of what a search is to gain, after
# which its own errors are all that is left of it.
_IDLE, _NOTHING = 3, 0.1
# How far a step may go along a coordinate: of a logarithm, a factor of e.
_FAR = 1.0


@dataclass(frozen=True)
class Minimum:
    """Where the search ended.

    Attributes:
        x, value, gradient: of the function there.
        inverse: (d, d) about the inverse of its second derivatives.
        converged: whether the gradient says that nothing is left to gain.
        evaluations: of the function.
    """

    x: Array
    value: float
    gradient: Array
    inverse: Array
    converged: bool
    evaluations: int


def minimise(
    objective: Objective,
    start: Array,
    *,
    gain: float = 1e-12,
    width: Array | None = None,
    inverse: Array | None = None,
) -> Minimum:
    """BFGS with a line search (Nocedal and Wright, 2006, algorithms 6.1 and 3.5).

    Args:
        objective: value and gradient; a value that is not finite is a step too far.
        start: where its value is finite.
        gain: the search ends when a step would lower the function by less.
        width: (d,) about how far each coordinate may go before the function rises by one.
        inverse: (d, d) about the inverse of the second derivatives, where that is known.
    """
    x = np.array(start, dtype=np.float64)
    value, gradient = objective(x)
    evaluations, fresh = 1, inverse is None
    last: Array | None = None
    begin = _steepest(gradient) if width is None else np.diag(width**2)
    inverse = begin if inverse is None else inverse
    idle = 0
    for _ in range(_STEPS):
        step = -inverse @ gradient
        if width is not None:
            step = _shortened(step)
        slope = float(gradient @ step)
        if -slope < 2 * gain and not (fresh and float(gradient @ gradient) > 1e3 * gain):
            return Minimum(x, value, gradient, inverse, True, evaluations)
        length, new_value, new_gradient, used = _line(objective, x, step, value, slope, gain)
        evaluations += used
        idle = 0 if value - new_value > _NOTHING * gain else idle + 1
        if idle == _IDLE:
            break
        if length == 0.0:
            if fresh:
                break
            # Rounding, or a curvature long past: start the approximation again.
            last, fresh = inverse, True
            inverse = _steepest(gradient) if width is None else np.diag(width**2)
            continue
        moved, change = length * step, new_gradient - gradient
        x, value, gradient = x + moved, new_value, new_gradient
        curvature = float(moved @ change)
        if curvature > 1e-12 * float(np.linalg.norm(moved) * np.linalg.norm(change)):
            if fresh and width is None:
                inverse = np.eye(len(x)) * curvature / float(change @ change)
            left = np.eye(len(x)) - np.outer(moved, change) / curvature
            inverse = left @ inverse @ left.T + np.outer(moved, moved) / curvature
            fresh, last = False, None
    # Where no step gains anything the rounding of the function has been reached. What a step would
    # gain is measured by the curvature that the steps have seen, where they have seen one.
    metric = inverse if last is None else last
    flat = bool(float(gradient @ metric @ gradient) < max(2 * gain, 1e-10 * abs(value)))
    return Minimum(x, value, gradient, metric, flat, evaluations)


def _steepest(gradient: Array) -> Array:
    """An inverse by which a first step goes along the gradient, no further than one."""
    return np.eye(len(gradient)) / max(1.0, float(np.linalg.norm(gradient)))


def _shortened(step: Array) -> Array:
    """So that a first guess of the curvature does not send a search where no minimum can be."""
    return step * (_FAR / float(np.abs(step).max(initial=_FAR)))


def _line(
    objective: Objective, x: Array, step: Array, value: float, slope: float, gain: float
) -> tuple[float, float, Array, int]:
    """A length that satisfies the Wolfe conditions, by bisection and doubling; 0 for none.

    The bisection ends where the slope says that between its ends less than `gain` is to be had: a
    function with errors of its own need not have the slope that it says.
    """
    low, high, length = 0.0, np.inf, 1.0
    best: tuple[float, float, Array] | None = None
    trial = 0
    for trial in range(1, _TRIALS + 1):
        new_value, new_gradient = objective(x + length * step)
        if not np.isfinite(new_value) or new_value > value + _DECREASE * length * slope:
            high = length
        else:
            best = (length, new_value, new_gradient)
            if float(new_gradient @ step) >= _SLOPE * slope:
                return (*best, trial)
            low = length
        if -slope * (high - low) < gain:
            break
        length = (low + high) / 2 if np.isfinite(high) else 2 * length
    return (*best, trial) if best else (0.0, value, np.zeros_like(x), trial)
