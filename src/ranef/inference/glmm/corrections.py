"""Corrections of the bound T(theta) to log p(y | theta): what a normal posterior misses.

With q the normal approximation of ``gaussian_approximation`` and r the log ratio of the posterior
to q, log p(y | theta) exceeds T by log E_q exp(r - E_q r). Gradient and curvature of r have mean
zero under q, so that the leading term is of third order. It is the sum over the levels j of every
grouping of

    s_j = 1/12 |E_q d3 log p / d b_j^3|^2        in the metric of cov(b_j | all others)

(`SkewnessCorrection`). Large terms overestimate the correction, as for a level with zeros only,
whose effect has no lower bound. A level's term is therefore damped to s_j / (1 + 2.5 s_j), which
follows the exact integrals of levels of counts and of binary responses. With a single grouping and
one effect per level the integrals over the effects are one-dimensional, and are taken by adaptive
Gauss-Hermite quadrature (`AdaptiveQuadrature`; Liu and Pierce, 1994). Only the common effects are
then taken as normal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np

from ranef.inference.glmm.arrays import Array, CommonEffects, FamilyValues, PerLevel, Roots
from ranef.inference.glmm.gaussian_approximation import GaussianApproximator, GaussianPosterior
from ranef.inference.glmm.level_quadrature import LevelQuadrature
from ranef.inference.glmm.reweighted_products import predictors_of
from ranef.inference.pwls.solver import PWLS, Solution
from ranef.numerics.shapes import Float

# The corrected log p(y | theta), and its derivatives: by factor in the root (k, k) of its
# covariance, and by family parameter or scale.
Slopes = tuple[float, dict[int, Float[Array, "_ _"]], FamilyValues]

# Least number of quadrature nodes, unless the user asks for another number.
NODES = 15
# Larger numbers of nodes, for effects with large posterior sds. They are few, because the integrals
# are compiled for each.
_MORE = (21, 31, 45, 63, 91, 127)
# Error of log p(y | theta) that `nodes_for` aims at, in nats.
_ERROR = 1e-3
# Smaller numbers of nodes, tried where levels have many rows.
_FEWER = (5, 7)
# A smaller number is taken if it changes the log density, and its change over one posterior sd of
# the scale, by less than this many nats.
_SAME = 0.003
# Largest number of Newton steps of the common effects.
_STEPS = 6
# The steps end when twice the gain of the next one is below this many nats.
_GAIN = 1e-4
# Factors with more columns get no third-order term. The rows say little of each of the many columns
# of a basis, and where they leave a function open the term has no bound.
_WIDE = 12
# Damping c of the third-order term of a level, s / (1 + c s).
_BENT = 2.5
# Smallest sd of the effects, to keep their digits: smaller effects change nothing.
_NOTHING = 1e-6


@runtime_checkable
class Correction(Protocol):
    """A correction that is added to T, and the posterior of the coefficients that goes with it.

    The methods take q, the roots (k, k) of the factors' covariances, and the values of the family
    parameters that all rows share.
    """

    def correction(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> float:
        """The correction of T, in nats."""
        ...

    def solution(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> Solution:
        """The coefficients' posterior under the correction."""
        ...

    def slopes(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> Slopes | None:
        """The corrected log p(y | theta) and its derivatives at fixed log |X' V^-1 X + P|.

        Returns:
            None if derivatives are known for T alone.
        """
        ...

    def settled(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> "Correction":
        """The correction with settings that suit hyperparameters near those of q."""
        ...

    def of(self, working: GaussianApproximator) -> "Correction":
        """The same correction for the same rows with other priors of the common effects."""
        ...


@dataclass(frozen=True)
class SkewnessCorrection:
    """The third-order term, for groupings of few columns.

    Third derivatives are taken within each predictor; mixed ones across predictors are left out.
    """

    working: GaussianApproximator

    @classmethod
    def applies(cls, working: GaussianApproximator) -> bool:
        """Whether any factor has few enough columns."""
        return any(factor.columns.shape[1] <= _WIDE for factor in working.layout.factors)

    def correction(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> float:
        layout = self.working.layout
        third = self.working.averages.third(numbers, q.mean, q.covariance)
        owns = q.solution.solver.products.own
        out = 0.0
        for factor, root, own in zip(layout.factors, roots, owns, strict=True):
            if factor.levels == 1 or factor.columns.shape[1] > _WIDE:
                # All rows inform the coefficients of a single level: the term is negligible.
                continue
            covariance = _alone(root, own)
            place = predictors_of(factor)
            for k in np.unique(place):
                columns = np.flatnonzero(place == k)
                z = factor.columns[:, columns]
                size = len(columns)
                tensor = np.empty((size, size, size, factor.levels))
                for a, b, c in np.ndindex(size, size, size):
                    each = third[:, k] * z[:, a] * z[:, b] * z[:, c]
                    tensor[a, b, c] = np.bincount(factor.codes, each, factor.levels)
                w = covariance[np.ix_(columns, columns)]
                turned = np.einsum("abcj,adj->dbcj", tensor, w)
                turned = np.einsum("dbcj,bej->decj", turned, w)
                turned = np.einsum("decj,cfj->defj", turned, w)
                shares = (tensor * turned).sum(axis=(0, 1, 2)) / 12
                out += float((shares / (1 + _BENT * shares)).sum())
        return out

    def solution(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> Solution:
        return q.solution

    def slopes(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> None:
        return None

    def settled(
        self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues
    ) -> "SkewnessCorrection":
        return self

    def of(self, working: GaussianApproximator) -> "SkewnessCorrection":
        return SkewnessCorrection(working)


def _alone(root: Float[Array, "k k"], own: Float[Array, "k k J"]) -> Float[Array, "k k J"]:
    """Covariance of each level's effects given all other coefficients.

    A shift of all levels that the common effects offset changes no predictor, and is left out.
    """
    precision = np.eye(len(root)) + root.T @ own.transpose(2, 0, 1) @ root
    values, vectors = np.linalg.eigh(precision)
    # Directions in which the weights are negative get the prior's variance.
    scaled = root @ vectors / np.sqrt(np.maximum(values, 1.0))[:, None]
    return np.einsum("jab,jcb->acj", scaled, scaled)


@dataclass(frozen=True)
class _ModeQuadrature:
    """Log p(y | beta, theta) by quadrature, at the mode of beta.

    Attributes:
        beta: the mode.
        value: log p(y | beta, theta), with the gain of a Newton step that was not taken.
        mean, variance: posterior moments of the standardised effects u.
        by_number: derivatives in the family parameters.
    """

    beta: CommonEffects
    value: float
    mean: PerLevel
    variance: PerLevel
    by_number: Mapping[str, Array]

    @property
    def squares(self) -> float:
        """Sum over levels of E u^2."""
        return float((self.mean**2 + self.variance).sum())


@dataclass(frozen=True)
class AdaptiveQuadrature:
    """Adaptive quadrature for one grouping with one effect per level.

    Attributes:
        working: the rows.
        nodes: number of quadrature nodes; the least number if `may_add`.
        may_save: whether fewer nodes may be taken if they give the same result.
        may_add: whether more nodes are taken where `nodes_for` asks for them.
        away: the common effects' mode less that of q, where the correction was settled; None
            before.
    """

    working: GaussianApproximator
    nodes: int = NODES
    may_save: bool = False
    may_add: bool = False
    away: CommonEffects | None = None

    @classmethod
    def applies(cls, working: GaussianApproximator) -> bool:
        """Whether there is exactly one grouping, with one effect per level."""
        factors, groupings = working.layout.factors, working.layout.groupings
        return len(factors) == 1 and factors[0].columns.shape[1] == 1 and not groupings[0].shared

    @cached_property
    def largest_columns(self) -> PerLevel:
        """The largest absolute value of the effect's column in the rows of each level."""
        factor = self.working.layout.factors[0]
        out = np.zeros(factor.levels)
        np.maximum.at(out, factor.codes, np.abs(factor.columns[:, 0]))
        return out

    def settled(
        self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues
    ) -> "AdaptiveQuadrature":
        found = self._integrated(q, roots, numbers)
        settled = replace(self, away=found.beta - q.solution.common[0])
        for fewer in _FEWER if self.may_save else ():
            less = replace(settled, nodes=fewer)
            other = less._integrated(q, roots, numbers)
            # Difference in the slope along log sd, times the least posterior sd of log sd, 1 /
            # sqrt(2 J).
            along = (other.squares - found.squares) / np.sqrt(2 * len(found.mean))
            if max(abs(other.value - found.value), abs(along)) < _SAME:
                return less
        return settled

    def of(self, working: GaussianApproximator) -> "AdaptiveQuadrature":
        return replace(self, working=working)

    def correction(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> float:
        return self._density(q, self._integrated(q, roots, numbers)) - q.value

    def _density(self, q: GaussianPosterior, found: _ModeQuadrature) -> float:
        """Log p(y | theta), with the common effects integrated as normal."""
        layout = self.working.layout
        return (
            found.value
            - 0.5 * float(q.solution.log_det_common[0])
            - 0.5 * float((layout.precision * (found.beta - layout.mean) ** 2).sum())
            + self.working.constant
        )

    def slopes(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> Slopes:
        """As `Correction.slopes`; the derivative in the sd is sum_j E (u_j^2 - 1) / sd.

        This is Fisher's identity, u_j being the standardised effect of level j.
        """
        found = self._integrated(q, roots, numbers)
        along = np.full((1, 1), (found.squares - len(found.mean)) / _sd(roots))
        layout = self.working.layout
        by_scale = layout.mixture_slopes(found.beta)
        return self._density(q, found), {0: along}, {**found.by_number, **by_scale}

    def solution(self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues) -> Solution:
        """The posterior of a working model with the moments that quadrature gives.

        Its cross-products are changed so that the common effects lie around their mode, and each
        level's effect has there the mean and variance found by quadrature.
        """
        root = float(roots[0][0, 0])
        if abs(root) < 1e-3:
            return q.solution
        found = self._integrated(q, roots, numbers)
        solver = q.solution.solver
        products, layout = solver.products, self.working.layout
        p = solver.p
        effects, prior = root * found.mean, 1 / root**2
        own = np.maximum(1 / (root**2 * found.variance) - prior, 0.0)
        beta = products.centre.transform(products.predictor)[0] @ found.beta
        # Keeps the regression of the effects on beta, and beta's covariance, as they are.
        ratio = (own + prior) / (products.own[0][0, 0] + prior)
        before = products.cross[0][0, :p]
        between = ratio * before
        cross = np.concatenate([between, [(own + prior) * effects + beta @ between]])
        penalty = solver.penalty(layout.mean, layout.precision)
        common = products.common.copy()
        common[:p, :p] += (between - before) / (products.own[0][0, 0] + prior) @ before.T
        right = common[:p, :p] @ beta + between @ effects + penalty[:p, :p] @ beta - penalty[:p, p]
        common[:p, p] = common[p, :p] = right
        changed = replace(products, common=common, own=(own[None, None],), cross=(cross[None],))
        return PWLS(changed).solve([roots[0][None]], penalty)

    def _integrated(
        self, q: GaussianPosterior, roots: Roots, numbers: FamilyValues
    ) -> _ModeQuadrature:
        """Integrals at the mode of p(beta | y, theta), by Newton steps from the mode under q."""
        layout, solution, root = self.working.layout, q.solution, _sd(roots)
        factor, own = layout.factors[0], solution.solver.products.own[0][0, 0]
        scale, nodes = 1 / np.sqrt(1 + root**2 * own), self.nodes
        if self.may_add:
            sds = abs(root) * scale * self.largest_columns
            nodes = max(nodes, nodes_for(float(sds.max()), len(sds)))
        over = LevelQuadrature(
            factor.codes,
            factor.columns[:, 0],
            int(predictors_of(factor)[0]),
            nodes,
            solution.effects[0][0, :, 0] / root,
            scale,
        )
        covariance = solution.common_covariance[0]
        beta = solution.common[0] if self.away is None else solution.common[0] + self.away
        out: _ModeQuadrature | None = None
        best = -np.inf
        for _ in range(_STEPS):
            base = layout.known.copy()
            for c, k in enumerate(layout.predictor):
                base[:, k] += layout.columns[:, c] * beta[c]
            found = self.working.averages.integrals(over, base, root, numbers)
            gradient = np.array(
                [layout.columns[:, c] @ found.slope[:, k] for c, k in enumerate(layout.predictor)]
            ) - layout.precision * (beta - layout.mean)
            penalty = 0.5 * float((layout.precision * (beta - layout.mean) ** 2).sum())
            if not found.value - penalty > best:
                break
            best = found.value - penalty
            step = covariance @ gradient
            gain = float(gradient @ step)
            # The gain of a step is half of the slope along it; the last step is not taken.
            left = 0.5 * gain if gain < _GAIN else 0.0
            moments = found.mean, found.variance, found.by_number
            out = _ModeQuadrature(beta, found.value + left, *moments)
            if gain < _GAIN:
                break
            beta = beta + step
        if out is None:
            raise FloatingPointError("the integrals over the levels are not finite")
        return out


def nodes_for(sd: float, levels: int) -> int:
    """Number of nodes for integrals over effects with posterior sds of up to `sd`.

    As a function of the predictor, the log density of a logistic response has its poles at a
    distance of pi from the real line, and so has that of a response with a log link and a shape.
    The error of n Gauss-Hermite nodes is then about exp(-2 pi sqrt(n) / sd) for each level
    (Barrett, 1961).

    Args:
        sd: largest posterior sd of an effect's contribution to a predictor, on the link's scale.
        levels: number of levels.
    """
    needed = (sd * math.log(levels / _ERROR) / (2 * math.pi)) ** 2
    return next((n for n in (NODES, *_MORE) if n >= needed), _MORE[-1])


def _sd(roots: Roots) -> float:
    """The sd of the effects with its sign, not smaller than the least sd that keeps digits."""
    root = float(roots[0][0, 0])
    return math.copysign(max(abs(root), _NOTHING), root)
