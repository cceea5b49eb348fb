"""Minimisation of a smooth function with an exact gradient, by BFGS (Nocedal and Wright, 2006)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

Array = NDArray[np.float64]
Vector = Float[Array, "d"]
Matrix = Float[Array, "d d"]
Objective = Callable[[Vector], tuple[float, Vector]]

# First Wolfe condition (Nocedal and Wright, 2006, eq. 3.6): a step brings at least this share of
# the decrease that the initial slope predicts.
_DECREASE = 1e-4
# Second Wolfe condition: the slope at the end of the step is at least this multiple of the initial
# slope, which is negative.
_SLOPE = 0.9
# Largest number of BFGS steps.
_STEPS = 200
# Largest number of evaluations in one line search.
_TRIALS = 30
# Number of successive idle steps after which the search ends, because rounding errors of the
# function exceed what is left to gain.
_IDLE = 3
# A step is idle if it lowers the function by no more than this share of `gain`.
_NOTHING = 0.1
# Largest change of a coordinate in one step, if `width` is given. For a logarithm this is a factor
# of e.
_FAR = 1.0


@dataclass(frozen=True)
class Minimum:
    """The end of a search.

    Attributes:
        x: the point.
        value: value of the function at x.
        gradient: its gradient at x.
        inverse: approximation of the inverse Hessian at x.
        converged: whether the gradient shows that nothing is left to gain.
        evaluations: number of evaluations of the function.
    """

    x: Vector
    value: float
    gradient: Vector
    inverse: Matrix
    converged: bool
    evaluations: int


def minimise(
    objective: Objective,
    start: Vector,
    *,
    gain: float = 1e-12,
    width: Vector | None = None,
    inverse: Matrix | None = None,
) -> Minimum:
    """Minimise a function by BFGS (Nocedal and Wright, 2006, algorithm 6.1).

    The line search finds a step that satisfies the Wolfe conditions by doubling and bisection.

    Args:
        objective: returns value and gradient at x. Points where the value is not finite
            are rejected by the line search.
        start: a point with finite value.
        gain: the search ends when the next step is predicted to lower the function by less.
        width: approximate distance in each coordinate over which the function rises by one;
            its square is the initial diagonal of the inverse Hessian.
        inverse: approximation of the inverse Hessian at the start, if one is known.

    Returns:
        The end of the search, converged or not.
    """
    x = np.array(start, dtype=np.float64)
    value, gradient = objective(x)
    evaluations, fresh = 1, inverse is None
    last: Matrix | None = None
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
            # No step lowers the function, because of rounding errors or because the approximate
            # Hessian is out of date. It is reset.
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
    # The search ended without meeting its criterion, possibly because the function is not more
    # exact. It has converged if the gain that the gradient predicts is small. The prediction uses
    # the last approximation of the Hessian that was learned from steps, if there is one.
    metric = inverse if last is None else last
    flat = bool(float(gradient @ metric @ gradient) < max(2 * gain, 1e-10 * abs(value)))
    return Minimum(x, value, gradient, metric, flat, evaluations)


def _steepest(gradient: Vector) -> Matrix:
    """An inverse Hessian with which the first step follows the gradient, of length at most one."""
    return np.eye(len(gradient)) / max(1.0, float(np.linalg.norm(gradient)))


def _shortened(step: Vector) -> Vector:
    """The step, shortened so that no coordinate changes by more than `_FAR`.

    A wrong initial Hessian then cannot move the search far away from any minimum.
    """
    return step * (_FAR / float(np.abs(step).max(initial=_FAR)))


def _line(
    objective: Objective, x: Vector, step: Vector, value: float, slope: float, gain: float
) -> tuple[float, float, Vector, int]:
    """Line search by doubling and bisection for a length that satisfies the Wolfe conditions.

    The bisection ends when the slope predicts less than `gain` within its interval. A function
    with rounding errors might otherwise never meet the condition on its slope.

    Returns:
        The length, value and gradient there, and the number of evaluations. If no length satisfies
        both conditions, the longest found with sufficient decrease is returned, or a length of 0.
    """
    low, high, length = 0.0, np.inf, 1.0
    best: tuple[float, float, Vector] | None = None
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
