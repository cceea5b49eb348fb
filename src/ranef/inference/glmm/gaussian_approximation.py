"""Gaussian variational approximation of the coefficients of a GLMM, given the hyperparameters.

Given theta, the posterior p(b, beta | y, theta) of the group effects b and the common effects beta
(the fixed effects) is approximated by the normal distribution q that maximises the evidence lower
bound

    T(theta) = E_q[log p(y | eta)] - KL(q || p(b, beta | theta))  <=  log p(y | theta)

At the maximum q is the posterior of a Gaussian model in which y is replaced by working responses
with working weights W_i = -E_q[d2 log p / d eta2] (Khan and Lin, 2017; Opper and Archambeau, 2009).
Each step therefore solves one problem of penalized weighted least squares. PIRLS is the special
case with weights taken at the mode, in which T is Laplace's approximation. By Fisher's identity the
derivative of T in theta is the derivative at a fixed q.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ranef.errors import MethodError
from ranef.inference.glmm.arrays import (
    Array,
    Blocks,
    CommonEffects,
    FamilyValues,
    Predictors,
    Roots,
    SiteValues,
    WorkingModel,
)
from ranef.inference.glmm.expected_log_density import expected_log_density_of
from ranef.inference.glmm.predictor_variances import predictor_covariances
from ranef.inference.glmm.reweighted_products import ReweightedProducts, between, predictors_of
from ranef.inference.lmm.design_layout import DesignLayout
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.selected_inverse import SelectedInverse
from ranef.inference.pwls.solver import PWLS, Solution, TooManyEffectsError
from ranef.numerics.shapes import Float
from ranef.program.problem import Problem

# Largest number of steps of a search for q.
_STEPS = 100
# Largest number of times that one step is halved.
_HALVINGS = 30
# A search for q ends when a step raises T by less than this many nats. What is left to gain after a
# step is about a tenth to a hundredth of what the step gained.
_GAIN = 1e-4
# The same at the mode, for log p(y, b, beta | theta), in nats.
_GAIN_AT_MODE = 1e-11
# T may fall by this many nats in a step, because the sum over rows has rounding errors.
_ROUNDING = 1e-7
# A search goes on after a step that does not raise T if the estimate of what is left to gain falls
# at least to this share of its value before the step.
_FALLS = 0.97
# Halving a step stops when T falls, over half of the way, by more than this share of its fall over
# the whole way. On a parabola the share is at most 1/4 if T rises at the start of the step, and
# larger if T falls from the start, so that no shorter step can raise it.
_FALLS_AT_ONCE = 0.35
# T counts as a parabola along a step over which it falls by less than this many nats.
_PARABOLIC = 0.1
# Default end of a search: the next step is estimated to gain less than this many nats. Searches
# from different starts then end within about as much of each other, which is far less than what
# moves a posterior and than the errors of the gradient.
LEFT = 1e-6
# Once less than this many nats is left to gain, a step is also accepted if it reduces what is left,
# even if T falls.
_NEAR_THE_END = 0.01
# An extrapolated working model is a good enough start if less than this many nats is left to gain.
NEXT_TO = 0.1
# Bounds of the secant factor by which each row's step is multiplied.
_SHARES = 0.4, 1.3
# Pseudo-observations that pin eta at its starting value have precision (100 / sd of the
# predictor)^2.
_NEARLY = 100.0
# Least size of working weights that have been made positive, as a share of the largest.
_LEAST = 1e-10


@dataclass(frozen=True)
class GaussianPosterior:
    """The normal approximation q of all coefficients at one value of theta.

    Attributes:
        value: T(theta), in nats.
        climbed: the objective that the steps raise: T, or log p(y, b, beta | theta) where q is the
            normal at the mode.
        mean, covariance: of each row's linear predictors eta under q.
        weights, right: the working model that q is the posterior of: working weights W, and W times
            the working response, from which the known part of eta has been subtracted.
        slope, curvature: averages under q of the first derivatives of log p in eta, and of minus
            the second derivatives.
        numbers: values of the family parameters shared by all rows, at which `slope` and
            `curvature` were taken.
        solution: of the working model, by penalized least squares.
        left: estimate of the gain in T by the next step, in nats; infinite where there is none.
    """

    value: float
    climbed: float
    mean: Predictors
    covariance: Blocks
    weights: Blocks
    right: Predictors
    slope: Predictors
    curvature: Blocks
    numbers: FamilyValues
    solution: Solution
    left: float

    def at(self, numbers: FamilyValues) -> bool:
        """Whether `slope` and `curvature` hold for these values of the family parameters."""
        return all(np.array_equal(self.numbers[name], value) for name, value in numbers.items())


class GaussianApproximator:
    """Finds q for the rows of one problem, at any hyperparameters.

    With `averaged` False, derivatives are taken at the mode instead of averaged over q: q is the
    normal approximation at the mode, and T is Laplace's approximation.

    Raises:
        MethodError: if the predictors are not linear and Gaussian in the coefficients, naming the
            term; or if crossed groupings are too large.
    """

    def __init__(
        self,
        problem: Problem,
        method: str,
        *,
        averaged: bool = True,
    ) -> None:
        response = problem.data.response
        n = len(response.value)
        self.layout = DesignLayout.of(problem.unit_blocks(), n, problem, method)
        self.rows = ReweightedProducts(self.layout)
        self.averages = expected_log_density_of(problem.family, response, self.layout.predictors)
        self.averaged, self._gain = averaged, _GAIN if averaged else _GAIN_AT_MODE
        starts = [problem.predictor_scales[name].start for name in self.layout.predictors]
        self._begin = self.layout.known + np.array(starts)
        self._sds = np.array([problem.predictor_scales[n].sd for n in self.layout.predictors])
        self._nothing = np.zeros((*self._begin.shape, self._begin.shape[1]))
        self._method = method
        self.constant = self._with(self.layout).constant

    def initial_system(self, numbers: FamilyValues) -> PWLS:
        """The least-squares system of the working model at the starting value of eta.

        It has the structure of every later working model, and sets the units of the scales.
        """
        _, slope, curvature = self.averages.of(numbers, self._begin, self._nothing)
        weights = _positive(curvature)
        return self._solver(weights, self._right(weights, self._begin, slope))

    def warm_started(
        self, common: CommonEffects, effects: tuple[Float[Array, "_ _"], ...]
    ) -> "GaussianApproximator":
        """A copy whose searches start at these common effects and, by factor, effects (J, k)."""
        out = copy.copy(self)
        centred = common @ self.rows.centre.transform(self.layout.predictor)[0].T
        out._begin = self.rows.predictors(centred, effects)
        return out

    def without_priors(self) -> "GaussianApproximator":
        """A copy with flat priors on the common effects."""
        flat = np.zeros_like(self.layout.precision)
        return self._with(replace(self.layout, precision=flat, mixtures=()))

    def about(self, middle: CommonEffects) -> "GaussianApproximator":
        """A copy with constants subtracted from the columns of the common effects."""
        return self._with(replace(self.layout, columns=self.layout.columns - middle))

    def conditional(self, values: SiteValues) -> "GaussianApproximator":
        """A copy with priors that are mixtures replaced by normal ones, as `DesignLayout`."""
        return self._with(self.layout.conditional(values)) if self.layout.mixtures else self

    def at_common_effects(self, common: CommonEffects) -> "GaussianApproximator":
        """A copy in which the common effects are known, and their contribution is in `known`."""
        layout = self.layout
        known = layout.known.copy()
        for c, k in enumerate(layout.predictor):
            known[:, k] += layout.columns[:, c] * common[c]
        return self._with(layout.without_common(known))

    def _with(self, layout: DesignLayout) -> "GaussianApproximator":
        """A copy with another layout of the same rows."""
        out = copy.copy(self)
        out.layout, out.rows = layout, self.rows.of(layout)
        precision = layout.precision
        log_precision = float(np.log(precision[precision > 0]).sum())
        # Normalising constant of the normal priors. Integrating an effect with a flat prior gives a
        # factor (2 pi)^(1/2).
        out.constant = 0.5 * (log_precision + int((precision == 0).sum()) * np.log(2 * np.pi))
        return out

    def next(self, q: GaussianPosterior) -> WorkingModel:
        """The next working model, from q's averages."""
        return q.curvature, self._right(q.curvature, q.mean, q.slope)

    def _right(self, weights: Array, mean: Array, slope: Any) -> Array:
        """W times the working response: W (m - known) + slope at the mean m of eta, (n, K)."""
        return np.einsum("nkl,nl->nk", weights, mean - self.layout.known) + slope

    def _solver(self, weights: Array, right: Array) -> PWLS:
        try:
            out = PWLS(self.rows.products(weights, right))
        except TooManyEffectsError as error:
            raise MethodError(self._method, str(error)) from None
        if not out.system.has_row_covariances:
            raise MethodError(
                self._method,
                "takes crossed groupings of which all but the largest have few levels together",
            )
        return out

    def fit(
        self,
        roots: Roots,
        numbers: FamilyValues,
        start: GaussianPosterior | None = None,
        extrapolated: WorkingModel | None = None,
        left: float = LEFT,
    ) -> GaussianPosterior:
        """Finds q at given roots of the covariances and given family parameters.

        Args:
            roots: by factor, the root Lambda of the effects' covariance Lambda Lambda'.
            numbers: values of the family parameters shared by all rows.
            start: q at other hyperparameters, as a warm start.
            extrapolated: an extrapolated working model. It is preferred to `start` if little is
                left to gain from it.
            left: the search ends when the next step is estimated to gain less than this many nats.

        Returns:
            q, with the estimated gain of the next step added to its `value` where that is small.

        Raises:
            ArithmeticError: if T is not finite for any working model from which the search could
                start.
            DependentColumnError: if columns of common effects with flat priors are dependent.
        """
        found, before = self._first(roots, numbers, start, extrapolated), None
        for _ in range(_STEPS):
            if found.left < left:
                break
            earlier, before = before, found
            found = self._step(roots, numbers, before, earlier)
            climbs = found.climbed - before.climbed > min(self._gain, left)
            if not (climbs or found.left < _FALLS * before.left):
                break
        # The estimate corrects for how close to the maximum each search ended, so that the density
        # is smooth in theta.
        return replace(found, value=found.value + found.left) if found.left < _GAIN else found

    def from_working_model(
        self, roots: Roots, numbers: FamilyValues, weights: Blocks, right: Predictors
    ) -> GaussianPosterior:
        """The q that is the posterior of a given working model.

        Args:
            roots: by factor, as for `fit`.
            numbers: values of the family parameters shared by all rows.
            weights: working weights, made positive where they are not.
            right: the right side of the working model.

        Raises:
            ArithmeticError: if the density is not finite there.
        """
        found = self._tried(roots, numbers, _positive(weights), right)
        if found is None:
            raise FloatingPointError("the density is not finite where it was looked for")
        return found

    def log_det_common(self, roots: Roots, weights: Blocks, right: Predictors) -> float:
        """Log |X' V^-1 X + P| of a given working model, P being the prior precision."""
        solver = self._solver(weights, right)
        penalty = solver.penalty(self.layout.mean, self.layout.precision)
        return float(solver.solve([root[None] for root in roots], penalty).log_det_common[0])

    def initial_posterior(self, roots: Roots, numbers: FamilyValues) -> GaussianPosterior:
        """The q whose predictors are pinned at their starting values by pseudo-observations.

        Raises:
            ArithmeticError: if the density is not finite there.
        """
        each = np.diag((_NEARLY / self._sds) ** 2)
        weights = np.broadcast_to(each, self._nothing.shape).copy()
        found = self._tried(roots, numbers, weights, self._right(weights, self._begin, 0.0))
        if found is None:
            raise FloatingPointError("the density is not finite where a search for it begins")
        return found

    def _first(
        self,
        roots: Roots,
        numbers: FamilyValues,
        start: GaussianPosterior | None,
        extrapolated: WorkingModel | None,
    ) -> GaussianPosterior:
        """Starts from the extrapolated working model, the warm start, or the starting eta."""
        if extrapolated is not None:
            found = self._tried(roots, numbers, _positive(extrapolated[0]), extrapolated[1])
            # With more left to gain, the search could end at another maximum, where there are
            # several.
            if found is not None and found.left < NEXT_TO:
                return found
        if start is not None and start.at(numbers):
            mean, slope, curvature = start.mean, start.slope, start.curvature
        else:
            mean = self._begin if start is None else start.mean
            covariance = self._nothing if start is None else start.covariance
            _, slope, curvature = self.averages.of(numbers, mean, covariance)
        weights = _positive(curvature)
        for _ in range(_HALVINGS):
            found = self._tried(roots, numbers, weights, self._right(weights, mean, slope))
            if found is not None:
                return found
            # The step left the region where the working model holds: larger weights shorten it.
            weights = 4 * weights
        raise FloatingPointError("the density is not finite where it was looked for")

    def _step(
        self,
        roots: Roots,
        numbers: FamilyValues,
        before: GaussianPosterior,
        earlier: GaussianPosterior | None = None,
    ) -> GaussianPosterior:
        """One step towards the next working model, halved until T rises."""
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
                # The curvature is negative on too many rows: make the weights positive and keep the
                # slopes.
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
        """Whether T has risen or, close to the end, less is left to gain.

        At large variances, quadrature errors in T and in its averaged second derivatives do not
        agree: T may fall by as much as these errors on the way to the point where the derivatives
        vanish.
        """
        if found.climbed >= before.climbed - min(self._gain, _ROUNDING):
            return True
        return before.left < _NEAR_THE_END and found.left < before.left

    def _secant(
        self, earlier: GaussianPosterior, before: GaussianPosterior, to: WorkingModel
    ) -> WorkingModel:
        """The next working model, each row's step scaled by a secant through its last two steps.

        For a level with few rows, the working weights and the variance of its effect can overshoot
        alternately. The step of each row is multiplied by the secant factor -d'c / c'c, d being the
        row's last change and c the change of its proposed step (Barzilai and Borwein, 1988), so
        that only the rows that oscillate take shorter steps.
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
        self, roots: Roots, numbers: FamilyValues, weights: Blocks, right: Predictors
    ) -> GaussianPosterior | None:
        """The posterior of a working model, T there, and the averages for the next one.

        Returns None if the system has no solution or the values are not finite.
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
        covariance, covariances = np.zeros_like(weights), None
        if self.averaged:
            covariances = solution.whole_covariances()
            covariance = predictor_covariances(covariances, rows)
        left = right - np.einsum("nkl,nl->nk", weights, mean - layout.known)
        squares = sum(
            float(((root.T @ rows.sums_by_level(f, left)) ** 2).sum())
            for f, root in enumerate(roots)
        )
        away = solution.common[0] - layout.mean
        total, slope, curvature = self.averages.of(numbers, mean, covariance)
        value = (
            total
            + 0.5 * float(np.einsum("nkl,nkl->", weights, covariance))
            - 0.5 * (log_det + squares)
            - 0.5 * float((layout.precision * away**2).sum())
            + self.constant
        )
        if not (np.isfinite(value) and np.isfinite(mean).all()):
            return None
        # A search cannot go on from a value close to overflow: its derivatives have overflowed.
        if not (np.isfinite(slope).all() and np.isfinite(curvature).all()):
            return None
        climbed = value if self.averaged else value + 0.5 * log_det
        averages = (slope, curvature, numbers)
        ahead = math.inf
        if covariances is not None:
            ahead = self._ahead(covariances, slope - left, curvature - weights)
        return GaussianPosterior(
            value, climbed, mean, covariance, weights, right, *averages, solution, ahead
        )

    def _ahead(self, covariances: SelectedInverse, slope: Predictors, weights: Blocks) -> float:
        """Estimate of the gain in T, in nats, if working slopes and weights change by this much.

        1/2 g' V g + 1/4 tr (V D)^2 for g = X' slope, D = X' weights X and the covariance V of the
        common effects; and the same for the effects of each level, with the diagonal of D alone.
        """
        rows, k = self.rows, self.layout.predictor
        size = len(covariances.last[0]) - 1
        common = covariances.last[0][size - len(k) : size, size - len(k) : size]
        g = np.array([rows.columns[:, c] @ slope[:, at] for c, at in enumerate(k)])
        turned = common @ between(rows.columns, k, weights, rows.columns, k)
        out = 0.5 * float(g @ common @ g) + 0.25 * float((turned * turned.T).sum())
        for f, v in covariances.own().items():
            factor = self.layout.factors[f]
            g = rows.sums_by_level(f, slope)
            out += 0.5 * float(np.einsum("aj,abj,bj->", g, v, g))
            for a, k in enumerate(predictors_of(factor)):
                each = factor.columns[:, a] ** 2 * weights[:, k, k]
                change = np.bincount(factor.codes, each, factor.levels) * v[a, a]
                out += 0.25 * float(change @ change)
        return out


def _positive(weights: Blocks) -> Blocks:
    """Weights with the absolute values of the eigenvalues, bounded away from zero."""
    if weights.shape[1] == 1:
        size = np.abs(weights)
        return np.maximum(size, _LEAST * max(float(size.max(initial=0.0)), 1e-300))
    values, vectors = np.linalg.eigh(weights)
    size = np.abs(values)
    least = _LEAST * max(float(size.max(initial=0.0)), 1e-300)
    return (vectors * np.maximum(size, least)[:, None]) @ vectors.transpose(0, 2, 1)
