"""The mode of a log density of a few coordinates, the curvature there, and symmetries.

Modes are found by BFGS with exact gradients, and the curvature by differences of gradients.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.bfgs import minimise
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]
Vector = Float[Array, "d"]
Matrix = Float[Array, "d d"]

# Symmetry matters if the mode of an even density is within this many sds of zero.
_FOLD = 6.0
# Largest number of coordinates whose symmetry is taken into account together.
_MOST_FOLDS = 5
# A search has found the mode if a Newton step from its end gains less than this many nats: the end
# is then within a quarter of an sd. A density with errors of its own, such as those of quadrature
# over thousands of levels, cannot be maximised more precisely, and the draws are checked by its
# values.
_SETTLED = 0.03

# A first search, from one of several starts, ends when a step gains less than this many nats.
_COARSE = 0.05
# A search whose end is this many nats below the highest is not followed further.
_BELOW = 12.0
# A mode whose evidence is this many nats below the largest has negligible mass.
_MASSLESS = 5.0
# Two ends within this many posterior sds are one mode.
_NEAR = 3.0


@runtime_checkable
class Target(Protocol):
    """A log density of x, up to a constant."""

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, "B"]:
        """Log density at x."""
        ...

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """Log density and gradient at x."""
        ...

    def canonical(self, x: Float[Array, "points d"]) -> Float[Array, "points d"]:
        """Maps points to the one that stands for all points of equal density."""
        ...

    def folds(self) -> list[tuple[int, Vector]]:
        """Coordinates in which the density is even, with the sign changes of all."""
        ...


@dataclass(frozen=True)
class Mode:
    """A mode and the curvature there.

    Attributes:
        x: its place.
        value: of the log density.
        root: lower triangular; root root' is the inverse curvature.
        points, values, gradients: evaluations at and around the mode.
        evaluations: of the density, in all.
        found: whether the search converged, or its gradient is small relative to the curvature.
    """

    x: Vector
    value: float
    root: Matrix
    points: Float[Array, "points d"]
    values: Float[Array, "points"]
    gradients: Float[Array, "points d"]
    evaluations: int
    found: bool

    @property
    def evidence(self) -> float:
        """Log of the integral of the density around the mode, by Laplace's approximation."""
        log_det = float(np.log(np.diagonal(self.root)).sum())
        return self.value + 0.5 * len(self.x) * math.log(2 * math.pi) + log_det

    def covers(self, x: Vector) -> bool:
        """Whether x is within a few posterior sds of the mode in every whitened direction."""
        return bool(np.abs(np.linalg.solve(self.root, x - self.x)).max(initial=0.0) < _NEAR)


def find_mode(
    target: Target,
    start: Vector,
    width: Vector,
    tick: Callable[[], object],
    root: Matrix | None = None,
) -> Mode:
    """Finds a mode, and the curvature there from gradients at a step to both sides.

    Args:
        target: the log density.
        start: where the search begins.
        width: about one posterior sd of each coordinate.
        tick: called at each evaluation.
        root: with root root' about the inverse curvature, if that is known.
    """

    def negative(x: Array) -> tuple[float, Array]:
        tick()
        value, gradient = target.value_and_gradient(x)
        return -value, -gradient

    inverse = None if root is None else root @ root.T
    found = minimise(negative, start, gain=1e-4, width=width, inverse=inverse)
    # The search may end at any of the points at which an even density is the same.
    d, mode = len(start), target.canonical(found.x[None])[0]
    turned = np.where(mode * found.x < 0, -1.0, 1.0)
    points, values, gradients = [mode], [-found.value], [-found.gradient * turned]
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
        # About a posterior sd: much larger or smaller steps do not measure the curvature there.
        ideal = np.minimum(1 / np.sqrt(diagonal), 2.0)
        if (np.abs(np.log(ideal / step)) < math.log(4.0)).all():
            break
        step = ideal
    root = _inverse_root(curvature, step)
    left = 0.5 * float(np.sum((root.T @ gradients[0]) ** 2))
    finite = np.isfinite(values)
    return Mode(
        mode,
        -found.value,
        root,
        np.array(points)[finite],
        np.array(values)[finite],
        np.array(gradients)[finite],
        evaluations,
        found.converged or left < _SETTLED,
    )


def modes(
    target: Target, starts: Sequence[Vector], width: Vector, tick: Callable[[], object]
) -> list[Mode]:
    """The modes at which searches from several starts end, that of the largest mass first.

    Modes of negligible mass, by Laplace's approximation, are left out.

    Args:
        target: the log density.
        starts: where the searches begin.
        width: about one posterior sd of each coordinate.
        tick: called at each evaluation.
    """

    def negative(x: Array) -> tuple[float, Array]:
        tick()
        value, gradient = target.value_and_gradient(x)
        return -value, -gradient

    if len(starts) == 1:
        return [find_mode(target, starts[0], width, tick)]
    ends: list[tuple[float, Array]] = []
    for start in starts:
        if not np.isfinite(target.log_density(start[None])[0]):
            continue
        found = minimise(negative, start, gain=_COARSE, width=width)
        ends.append((-found.value, target.canonical(found.x[None])[0]))
    out: list[Mode] = []
    for value, x in sorted(ends, key=lambda end: -end[0]):
        if out and (value < out[0].value - _BELOW or any(top.covers(x) for top in out)):
            continue
        top = find_mode(target, x, width, tick)
        if not any(other.covers(top.x) for other in out):
            out.append(top)
    out.sort(key=lambda top: -top.evidence)
    return [top for top in out if top.evidence > out[0].evidence - _MASSLESS]


def _inverse_root(curvature: Matrix, step: Vector) -> Matrix:
    """Root of the inverse curvature; flat directions get a width of a few steps."""
    values, vectors = np.linalg.eigh(np.nan_to_num(curvature) * step * step[:, None])
    values = np.maximum(values, 0.05)
    inverse = (vectors / values) @ vectors.T * step * step[:, None]
    return np.asarray(np.linalg.cholesky(inverse), dtype=np.float64)


def signs(target: Target, top: Mode) -> Float[Array, "folds d"]:
    """Sign changes under which the density is the same and its images overlap."""
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
