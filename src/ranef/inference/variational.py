"""The marginal density of the hyperparameters where coefficients do not integrate in closed form.

Given theta, p(b, beta | y, theta) is approached by the normal q that maximises

    T(theta) = E_q[log p(y | eta)] - KL(q || p(b, beta | theta))  <=  log p(y | theta)

At the maximum q is the posterior of a Gaussian model, y being replaced by working responses
with working weights W_i = -E_q[d2 log p / d eta2] (Khan and Lin, 2017; Opper and Archambeau,
2009). So each step is one of penalized weighted least squares, as in PIRLS, whose weights are
those at the mode. By Fisher's identity the derivative of T in theta is that at a fixed q.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import MethodError
from ranef.inference.averages import Averages
from ranef.inference.base import Problem
from ranef.inference.elimination import Chain
from ranef.inference.layout import Layout
from ranef.inference.pwls import PWLS, Solution, TooManyEffectsError
from ranef.inference.remainder import DependentColumnError
from ranef.inference.rowwise import spreads
from ranef.inference.weighted import Weighted

Array = NDArray[np.float64]

# Steps at most, halvings of one, and the gain in nats at which they end.
_STEPS, _HALVINGS, _GAIN = 100, 30, 1e-7
# The least working weight where negative ones leave the system without a solution, as a share
# of the largest.
_LEAST = 1e-10


@dataclass(frozen=True)
class Normal:
    """The normal q of all coefficients at some theta.

    Attributes:
        value: T(theta).
        mean, spread: of each row's predictors under q, (n, K) and (n, K, K).
        weights, right: working weights W (n, K, K), and W times the working response (n, K),
            of the predictors less what is known of them.
        solution: of the working model.
    """

    value: float
    mean: Array
    spread: Array
    weights: Array
    right: Array
    solution: Solution


class Working:
    """A problem's rows, for q at any hyperparameters.

    Raises:
        MethodError: naming what is not linear and Gaussian in the predictors, and for crossed
            groupings that are too large.
    """

    def __init__(self, problem: Problem, method: str, *, averaged: bool = True) -> None:
        response = problem.data[1]
        n = len(response.value)
        self.layout = Layout.of(problem.structure(), n, problem, method)
        self.rows = Weighted(self.layout)
        law = problem.law
        self.averages = Averages(
            law.log_density, law.on_link_scale, response, self.layout.predictors
        )
        self.averaged = averaged
        scales = [problem.scales[name].location for name in self.layout.predictors]
        self._begin = self.layout.known + np.array(scales)
        self._method = method
        precision = self.layout.precision
        self._log_precision = float(np.log(precision[precision > 0]).sum())
        self._flat = int((precision == 0).sum())

    def begin(self, numbers: Mapping[str, Any]) -> PWLS:
        """The working model where nothing is known, from which structure and units come."""
        n, k = self._begin.shape
        none = np.zeros((n, k, k))
        _, slope, curvature = self.averages.of(numbers, self._begin, none)
        weights = _clipped(curvature)
        return self._solver(weights, self._right(weights, self._begin, slope))

    def _right(self, weights: Array, mean: Array, slope: Array) -> Array:
        return np.einsum("nkl,nl->nk", weights, mean - self.layout.known) + slope

    def _solver(self, weights: Array, right: Array) -> PWLS:
        try:
            out = PWLS(self.rows.products(weights, right))
        except TooManyEffectsError as error:
            raise MethodError(self._method, str(error)) from None
        if not isinstance(out.system, Chain):
            raise MethodError(
                self._method,
                "takes crossed groupings of which all but the largest have few levels together",
            )
        return out

    def fit(
        self, roots: list[Array], numbers: Mapping[str, Any], start: Normal | None = None
    ) -> Normal:
        """The q at given roots of the factors' covariances and numbers of the family.

        Args:
            roots: by factor, (k, k).
            numbers: values of the family's parameters that all rows share.
            start: q at other hyperparameters, from which to begin.

        Raises:
            ArithmeticError: where no step raises T, and it is not at its maximum.
        """
        if start is None:
            n, k = self._begin.shape
            mean, spread = self._begin, np.zeros((n, k, k))
        else:
            mean, spread = start.mean, start.spread
        _, slope, curvature = self.averages.of(numbers, mean, spread)
        weights = _clipped(curvature)
        right = self._right(weights, mean, slope)
        found, slope, curvature = self._tried(roots, numbers, weights, right)
        halvings = 0
        while not np.isfinite(found.value) and halvings < _HALVINGS:
            # Too far from where the working model held: towards where it began.
            halvings += 1
            mean = (mean + found.mean) / 2 if np.isfinite(found.mean).all() else self._begin
            _, slope, curvature = self.averages.of(numbers, mean, 0 * spread)
            weights = _clipped(curvature)
            right = self._right(weights, mean, slope)
            found, slope, curvature = self._tried(roots, numbers, weights, right)
        for _ in range(_STEPS):
            before = found
            to = curvature, self._right(curvature, before.mean, slope)
            found, slope, curvature = self._step(roots, numbers, before, to)
            if not found.value - before.value > _GAIN:
                break
        if not np.isfinite(found.value):
            raise FloatingPointError("the density is not finite where it was looked for")
        return found

    def _step(
        self,
        roots: list[Array],
        numbers: Mapping[str, Any],
        before: Normal,
        to: tuple[Array, Array],
    ) -> tuple[Normal, Array, Array]:
        """From one working model towards another, as far as T rises."""
        share = 1.0
        clipped = False
        for _ in range(_HALVINGS):
            weights = before.weights + share * (to[0] - before.weights)
            right = before.right + share * (to[1] - before.right)
            found, slope, curvature = self._tried(roots, numbers, weights, right)
            if found.value >= before.value - _GAIN:
                return found, slope, curvature
            if not np.isfinite(found.value) and not clipped:
                # The curvature is negative on too many rows: positive weights, same slopes.
                clipped = True
                weights = _clipped(to[0])
                moved = np.einsum("nkl,nl->nk", weights - to[0], before.mean - self.layout.known)
                to = weights, to[1] + moved
                continue
            share /= 2
        _, slope, curvature = self.averages.of(numbers, before.mean, before.spread)
        return before, slope, curvature

    def _tried(
        self, roots: list[Array], numbers: Mapping[str, Any], weights: Array, right: Array
    ) -> tuple[Normal, Array, Array]:
        """The posterior of a working model and T there; the averages that the next one needs."""
        layout, rows = self.layout, self.rows
        solver = self._solver(weights, right)
        penalty = solver.penalty(layout.mean, layout.precision)
        try:
            solution = solver.solve([root[None] for root in roots], penalty)
        except DependentColumnError as error:
            if error.column >= 0 and (layout.precision == 0).any():
                raise
            return self._failed(weights, right)
        log_det = float(solution.log_det_random[0] + solution.log_det_common[0])
        if not np.isfinite(log_det):
            return self._failed(weights, right)
        common = solution.centred_common[0]
        effects = tuple(b[0] for b in solution.effects)
        mean = rows.predictors(common, effects)
        spread = np.zeros_like(weights)
        if self.averaged:
            spread = spreads(solution.whole_covariances(), rows)
        left = right - np.einsum("nkl,nl->nk", weights, mean - layout.known)
        squares = sum(
            float(((root.T @ rows.levelwise(f, left)) ** 2).sum()) for f, root in enumerate(roots)
        )
        away = solution.common[0] - layout.mean
        total, slope, curvature = self.averages.of(numbers, mean, spread)
        value = (
            total
            + 0.5 * float(np.einsum("nkl,nkl->", weights, spread))
            - 0.5 * (log_det - self._log_precision + squares)
            - 0.5 * float((layout.precision * away**2).sum())
            + 0.5 * self._flat * np.log(2 * np.pi)
        )
        value = value if np.isfinite(value) else -np.inf
        return Normal(value, mean, spread, weights, right, solution), slope, curvature

    def _failed(self, weights: Array, right: Array) -> tuple[Normal, Array, Array]:
        nothing = np.full(right.shape, np.nan)
        empty: Any = None
        return Normal(-np.inf, nothing, weights, weights, right, empty), nothing, weights


def _clipped(weights: Array) -> Array:
    """Weights without what is negative in them."""
    if weights.shape[1] == 1:
        return np.maximum(weights, _LEAST * max(float(weights.max(initial=0.0)), 1e-300))
    values, vectors = np.linalg.eigh(weights)
    least = _LEAST * max(float(values.max(initial=0.0)), 1e-300)
    return (vectors * np.maximum(values, least)[:, None]) @ vectors.transpose(0, 2, 1)
