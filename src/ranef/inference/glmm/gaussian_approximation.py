"""The marginal density of the hyperparameters where coefficients do not integrate in closed form.

Given theta, p(b, beta | y, theta) is approached by the normal q that maximises

    T(theta) = E_q[log p(y | eta)] - KL(q || p(b, beta | theta))  <=  log p(y | theta)

At the maximum q is the posterior of a Gaussian model, y being replaced by working responses
with working weights W_i = -E_q[d2 log p / d eta2] (Khan and Lin, 2017; Opper and Archambeau,
2009). So each step is one of penalized weighted least squares, as in PIRLS, whose weights are
those at the mode. By Fisher's identity the derivative of T in theta is that at a fixed q.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import MethodError
from ranef.inference.glmm.expected_log_density import averages_of
from ranef.inference.glmm.predictor_variances import predictor_covariances
from ranef.inference.glmm.reweighted_products import ReweightedProducts, between, predictors_of
from ranef.inference.lmm.design_layout import DesignLayout
from ranef.inference.pwls.nested_elimination import NestedElimination
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.selected_inverse import SelectedInverse
from ranef.inference.pwls.solver import PWLS, Solution, TooManyEffectsError
from ranef.program.problem import Problem

Array = NDArray[np.float64]

# Steps at most, halvings of one, and the gain in nats at which they end: a step leaves about a
# tenth of what it gains, or a hundredth.
_STEPS, _HALVINGS = 100, 30
_GAIN, _GAIN_AT_MODE = 1e-4, 1e-11
# By how much a step may fall for the rounding of a sum, and the share of it to which what is left
# must fall where a step does not climb.
_ROUNDING, _FALLS = 1e-7, 0.97
# Where T falls by more than this share of what it fell by over twice the way, it falls at once, and
# no shorter step raises it: where its slope is positive the share is at most a quarter. That is so
# of a parabola, as which T passes where it falls by no more than so many nats.
_FALLS_AT_ONCE, _PARABOLIC = 0.35, 0.1
# Nats that the next step is estimated to gain below which it is not taken. Searches from different
# places then end within about as much of each other, which is far below what moves a posterior
# and what the gradient is off by.
LEFT = 1e-6
# Below which a step is judged by what is left to gain after it.
_NEAR_THE_END = 0.01
# And below which what is foretold is near enough to begin from.
NEXT_TO = 0.1
# Shares of its own step that a row takes.
_SHARES = 0.4, 1.3
# How much less than a predictor spreads a row says of it where coefficients are to stay put.
_NEARLY = 100.0
# The least working weight where negative ones leave the system without a solution, as a share
# of the largest.
_LEAST = 1e-10


@dataclass(frozen=True)
class GaussianPosterior:
    """The normal q of all coefficients at some theta.

    Attributes:
        value: T(theta).
        climbed: what the steps raise: T, or at the mode log p(y, b, beta | theta) itself.
        mean, spread: of each row's predictors under q, (n, K) and (n, K, K).
        weights, right: working weights W (n, K, K), and W times the working response (n, K),
            of the predictors less what is known of them.
        slope, curvature: averages of the first and of minus the second derivatives.
        numbers: of the family that they were taken at.
        solution: of the working model.
        left: about how many nats the next step gains; infinite where that is not known.
    """

    value: float
    climbed: float
    mean: Array
    covariance: Array
    weights: Array
    right: Array
    slope: Array
    curvature: Array
    numbers: Mapping[str, Any]
    solution: Solution
    left: float

    def at(self, numbers: Mapping[str, Any]) -> bool:
        """Whether the averages hold for these numbers."""
        return all(np.array_equal(self.numbers[name], value) for name, value in numbers.items())


class GaussianApproximator:
    """A problem's rows, for q at any hyperparameters.

    Not `averaged` it is the normal at the mode, and T is Laplace's approximation.

    Raises:
        MethodError: naming what is not linear and Gaussian in the predictors, and for crossed
            groupings that are too large.
    """

    def __init__(
        self,
        problem: Problem,
        method: str,
        *,
        averaged: bool = True,
    ) -> None:
        response = problem.data[1]
        n = len(response.value)
        self.layout = DesignLayout.of(problem.unit_blocks(), n, problem, method)
        self.rows = ReweightedProducts(self.layout)
        self.averages = averages_of(problem.family, response, self.layout.predictors)
        self.averaged, self._gain = averaged, _GAIN if averaged else _GAIN_AT_MODE
        starts = [problem.predictor_scales[name].start for name in self.layout.predictors]
        self._begin = self.layout.known + np.array(starts)
        self._spreads = np.array([problem.predictor_scales[n].sd for n in self.layout.predictors])
        self._nothing = np.zeros((*self._begin.shape, self._begin.shape[1]))
        self._method = method
        self.constant = self._with(self.layout).constant

    def initial_system(self, numbers: Mapping[str, Any]) -> PWLS:
        """The working model where nothing is known, from which structure and units come."""
        _, slope, curvature = self.averages.of(numbers, self._begin, self._nothing)
        weights = _positive(curvature)
        return self._solver(weights, self._right(weights, self._begin, slope))

    def warm_started(self, common: Array, effects: tuple[Array, ...]) -> "GaussianApproximator":
        """The same with searches that begin at these common (p,) and group effects (J, k)."""
        out = copy.copy(self)
        centred = common @ self.rows.centre.transform(self.layout.predictor)[0].T
        out._begin = self.rows.predictors(centred, effects)
        return out

    def without_priors(self) -> "GaussianApproximator":
        """The same with flat priors of the common effects."""
        flat = np.zeros_like(self.layout.precision)
        return self._with(replace(self.layout, precision=flat, tails=()))

    def about(self, middle: Array) -> "GaussianApproximator":
        """The same with the columns of the common effects less these numbers (p,)."""
        return self._with(replace(self.layout, columns=self.layout.columns - middle))

    def at_scales(self, values: Mapping[str, Any]) -> "GaussianApproximator":
        """The same at these values of the scales of t priors."""
        return self._with(self.layout.at_scales(values)) if self.layout.tails else self

    def given(self, common: Array) -> "GaussianApproximator":
        """The same with the common effects (p,) known."""
        layout = self.layout
        known = layout.known.copy()
        for c, k in enumerate(layout.predictor):
            known[:, k] += layout.columns[:, c] * common[c]
        none = np.zeros(0)
        return self._with(
            replace(
                layout,
                common=(),
                shapes=(),
                mean=none,
                precision=none,
                columns=layout.columns[:, :0],
                predictor=layout.predictor[:0],
                known=known,
                tails=(),
            )
        )

    def _with(self, layout: DesignLayout) -> "GaussianApproximator":
        out = copy.copy(self)
        out.layout, out.rows = layout, self.rows.of(layout)
        precision = layout.precision
        log_precision = float(np.log(precision[precision > 0]).sum())
        # Of the normal priors of the common effects, and of the flat ones' integrals.
        out.constant = 0.5 * (log_precision + int((precision == 0).sum()) * np.log(2 * np.pi))
        return out

    def next(self, q: GaussianPosterior) -> tuple[Array, Array]:
        """Weights and right side of the working model that q's averages make."""
        return q.curvature, self._right(q.curvature, q.mean, q.slope)

    def _right(self, weights: Array, mean: Array, slope: Any) -> Array:
        return np.einsum("nkl,nl->nk", weights, mean - self.layout.known) + slope

    def _solver(self, weights: Array, right: Array) -> PWLS:
        try:
            out = PWLS(self.rows.products(weights, right))
        except TooManyEffectsError as error:
            raise MethodError(self._method, str(error)) from None
        if not isinstance(out.system, NestedElimination):
            raise MethodError(
                self._method,
                "takes crossed groupings of which all but the largest have few levels together",
            )
        return out

    def fit(
        self,
        roots: list[Array],
        numbers: Mapping[str, Any],
        start: GaussianPosterior | None = None,
        foretold: tuple[Array, Array] | None = None,
        left: float = LEFT,
    ) -> GaussianPosterior:
        """The q at given roots of the factors' covariances and numbers of the family.

        Args:
            roots: by factor, (k, k).
            numbers: values of the family's parameters that all rows share.
            start: q at other hyperparameters, from which to begin.
            foretold: weights and right side of the working model, if they can be guessed better.
            left: about how many nats a next step may gain where the search ends.

        Raises:
            ArithmeticError: where no step raises T, and it is not at its maximum.
        """
        found, before = self._first(roots, numbers, start, foretold), None
        for _ in range(_STEPS):
            if found.left < left:
                break
            earlier, before = before, found
            found = self._step(roots, numbers, before, earlier)
            climbs = found.climbed - before.climbed > min(self._gain, left)
            if not (climbs or found.left < _FALLS * before.left):
                break
        # So that how near each search came does not show in the density.
        return replace(found, value=found.value + found.left) if found.left < _GAIN else found

    def told(
        self, roots: list[Array], numbers: Mapping[str, Any], weights: Array, right: Array
    ) -> GaussianPosterior:
        """The q of a working model that is told.

        Raises:
            ArithmeticError: where it has none.
        """
        found = self._tried(roots, numbers, _positive(weights), right)
        if found is None:
            raise FloatingPointError("the density is not finite where it was looked for")
        return found

    def log_det_common(self, roots: list[Array], weights: Array, right: Array) -> float:
        """Log |X' V^-1 X + P| of a working model."""
        solver = self._solver(weights, right)
        penalty = solver.penalty(self.layout.mean, self.layout.precision)
        return float(solver.solve([root[None] for root in roots], penalty).log_det_common[0])

    def initial_posterior(
        self, roots: list[Array], numbers: Mapping[str, Any]
    ) -> GaussianPosterior:
        """The q of coefficients that are nearly where a search for them begins."""
        each = np.diag((_NEARLY / self._spreads) ** 2)
        weights = np.broadcast_to(each, self._nothing.shape).copy()
        found = self._tried(roots, numbers, weights, self._right(weights, self._begin, 0.0))
        if found is None:
            raise FloatingPointError("the density is not finite where a search for it begins")
        return found

    def _first(
        self,
        roots: list[Array],
        numbers: Mapping[str, Any],
        start: GaussianPosterior | None,
        foretold: tuple[Array, Array] | None,
    ) -> GaussianPosterior:
        """From what is foretold, where another search ended, or the middle of the response."""
        if foretold is not None:
            found = self._tried(roots, numbers, _positive(foretold[0]), foretold[1])
            # From further off a search could end in another mode, where there are several.
            if found is not None and found.left < NEXT_TO:
                return found
        if start is not None and start.at(numbers):
            mean, slope, curvature = start.mean, start.slope, start.curvature
        else:
            mean = self._begin if start is None else start.mean
            spread = self._nothing if start is None else start.covariance
            _, slope, curvature = self.averages.of(numbers, mean, spread)
        weights = _positive(curvature)
        for _ in range(_HALVINGS):
            found = self._tried(roots, numbers, weights, self._right(weights, mean, slope))
            if found is not None:
                return found
            # Too far from where the working model holds: larger weights, and a shorter step.
            weights = 4 * weights
        raise FloatingPointError("the density is not finite where it was looked for")

    def _step(
        self,
        roots: list[Array],
        numbers: Mapping[str, Any],
        before: GaussianPosterior,
        earlier: GaussianPosterior | None = None,
    ) -> GaussianPosterior:
        """From one working model to the next, as far as T rises."""
        to = self.next(before)
        if earlier is not None and self.averaged:
            to = self._secant(earlier, before, to)
        share, clipped, fell = 1.0, False, math.inf
        for _ in range(_HALVINGS):
            weights = before.weights + share * (to[0] - before.weights)
            right = before.right + share * (to[1] - before.right)
            found = self._tried(roots, numbers, weights, right)
            if found is not None and self._is_better(found, before):
                return found
            if found is None and not clipped:
                # The curvature is negative on too many rows: positive weights, same slopes.
                clipped, weights = True, _positive(to[0])
                to = weights, self._right(weights, before.mean, before.slope)
                fell = math.inf
                continue
            if found is not None and self.averaged:
                falls = before.climbed - found.climbed
                if fell < _PARABOLIC and falls > _FALLS_AT_ONCE * fell:
                    break
                fell = falls
            share /= 2
        return before

    def _is_better(self, found: GaussianPosterior, before: GaussianPosterior) -> bool:
        """Whether T has risen, or next to the end whether less is left to gain.

        At large variances quadrature gives T and the averages of its second derivatives errors of
        their own: T may fall by as much on the way to where they say that nothing is left.
        """
        if found.climbed >= before.climbed - min(self._gain, _ROUNDING):
            return True
        return before.left < _NEAR_THE_END and found.left < before.left

    def _secant(
        self, earlier: GaussianPosterior, before: GaussianPosterior, to: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Each row's part of a step as long as the last two say.

        Where few rows leave a level much room, its weights and its variance overshoot in turn: the
        steps of such rows are shortened, as a secant does, and not those of all others.
        """
        k = before.right.shape[1]

        def rows(weights: Array, right: Array) -> Array:
            return np.concatenate([weights.reshape(-1, k * k), right], axis=1)

        last, here = rows(earlier.weights, earlier.right), rows(before.weights, before.right)
        was, now = rows(*self.next(earlier)) - last, rows(*to) - here
        change = now - was
        size = np.einsum("nk,nk->n", change, change)
        along = -np.einsum("nk,nk->n", here - last, change)
        share = np.divide(along, size, out=np.ones_like(size), where=size > 0)
        moved = here + np.clip(share, *_SHARES)[:, None] * now
        return moved[:, : k * k].reshape(before.weights.shape), moved[:, k * k :]

    def _tried(
        self, roots: list[Array], numbers: Mapping[str, Any], weights: Array, right: Array
    ) -> GaussianPosterior | None:
        """The posterior of a working model, T there, and the averages that the next one needs.

        None where the arithmetic fails.
        """
        layout, rows = self.layout, self.rows
        solver = self._solver(weights, right)
        penalty = solver.penalty(layout.mean, layout.precision)
        try:
            solution = solver.solve([root[None] for root in roots], penalty)
        except DependentColumnError as error:
            if error.column >= 0 and (layout.precision == 0).any():
                raise
            return None
        log_det = float(solution.log_det_random[0] + solution.log_det_common[0])
        if not np.isfinite(log_det):
            return None
        common = solution.centred_common[0]
        effects = tuple(b[0] for b in solution.effects)
        mean = rows.predictors(common, effects)
        spread, covariances = np.zeros_like(weights), None
        if self.averaged:
            covariances = solution.whole_covariances()
            spread = predictor_covariances(covariances, rows)
        left = right - np.einsum("nkl,nl->nk", weights, mean - layout.known)
        squares = sum(
            float(((root.T @ rows.levelwise(f, left)) ** 2).sum()) for f, root in enumerate(roots)
        )
        away = solution.common[0] - layout.mean
        total, slope, curvature = self.averages.of(numbers, mean, spread)
        value = (
            total
            + 0.5 * float(np.einsum("nkl,nkl->", weights, spread))
            - 0.5 * (log_det + squares)
            - 0.5 * float((layout.precision * away**2).sum())
            + self.constant
        )
        if not (np.isfinite(value) and np.isfinite(mean).all()):
            return None
        # From a value next to overflow there may be no way on: its derivatives have overflowed.
        if not (np.isfinite(slope).all() and np.isfinite(curvature).all()):
            return None
        climbed = value if self.averaged else value + 0.5 * log_det
        averages = (slope, curvature, numbers)
        ahead = math.inf
        if covariances is not None:
            ahead = self._ahead(covariances, slope - left, curvature - weights)
        return GaussianPosterior(
            value, climbed, mean, spread, weights, right, *averages, solution, ahead
        )

    def _ahead(self, covariances: SelectedInverse, slope: Array, weights: Array) -> float:
        """About what a step gains if working slopes and weights change by so much.

        1/2 g' V g + 1/4 tr (V D)^2 for g = X' slope, D = X' weights X and V the covariance of the
        common effects; likewise of each level's effects, of D the diagonal alone.
        """
        rows, k = self.rows, self.layout.predictor
        size = len(covariances.last[0]) - 1
        common = covariances.last[0][size - len(k) : size, size - len(k) : size]
        g = np.array([rows.columns[:, c] @ slope[:, at] for c, at in enumerate(k)])
        turned = common @ between(rows.columns, k, weights, rows.columns, k)
        out = 0.5 * float(g @ common @ g) + 0.25 * float((turned * turned.T).sum())
        for f, v in covariances.own().items():
            factor = self.layout.factors[f]
            g = rows.levelwise(f, slope)
            out += 0.5 * float(np.einsum("aj,abj,bj->", g, v, g))
            for a, k in enumerate(predictors_of(factor)):
                each = factor.columns[:, a] ** 2 * weights[:, k, k]
                change = np.bincount(factor.codes, each, factor.levels) * v[a, a]
                out += 0.25 * float(change @ change)
        return out


def _positive(weights: Array) -> Array:
    """Weights of the same size, with no direction in which they are negative."""
    if weights.shape[1] == 1:
        size = np.abs(weights)
        return np.maximum(size, _LEAST * max(float(size.max(initial=0.0)), 1e-300))
    values, vectors = np.linalg.eigh(weights)
    size = np.abs(values)
    least = _LEAST * max(float(size.max(initial=0.0)), 1e-300)
    return (vectors * np.maximum(size, least)[:, None]) @ vectors.transpose(0, 2, 1)
