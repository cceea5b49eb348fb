"""What the nearest normal distribution misses of log p(y | theta), and of one scalar grouping.

With q the normal of ``gaussian_approximation`` and r the log ratio of the posterior to it, log
p(y | theta) exceeds T by log E_q exp(r - E r). Gradient and curvature of r vanish under q, so that
its first term is the third-order one,

    s = 1/12 sum_j |E_q d3 log p / d b_j^3|^2        in the metric of cov(b_j | all others)

over the levels of every grouping (`SkewnessCorrection`). It is the first of a series, and too much
where it is large, as of a level of zeros whose effect has no end below: a level's share is taken as
s / (1 + 2.5 s), which follows the integrals of levels of counts and of answers yes or no. Where a
single grouping has one effect for each level, the integrals over them are one-dimensional, and
adaptive Gauss-Hermite quadrature gives each (`AdaptiveQuadrature`; Liu and Pierce, 1994): the
common effects alone are then taken as normal.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.glmm.gaussian_approximation import GaussianApproximator, GaussianPosterior
from ranef.inference.glmm.level_quadrature import LevelQuadrature
from ranef.inference.glmm.reweighted_products import predictors_of
from ranef.inference.pwls.solver import PWLS, Solution

Array = NDArray[np.float64]

# Nodes unless the user says otherwise.
NODES = 15
# Fewer, where levels have many rows, and the nats by which they may be off in all.
_FEWER, _SAME = (5, 7), 0.003
# Newton steps of the common effects, and the gain in nats at which they end.
_STEPS, _GAIN = 6, 1e-4
# Columns of a factor beyond which nothing is added: of the many of a basis the rows say little
# each, and where they leave a function open the third-order term has no bound.
_WIDE = 12
# How the gain of a skewed level falls behind the first term of its series.
_BENT = 2.5
# A scale below which effects say nothing.
_NOTHING = 1e-6


@runtime_checkable
class Correction(Protocol):
    """What is to be added to T, and the posterior of the coefficients that goes with it."""

    def correction(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> float:
        """In nats."""
        ...

    def solution(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> Solution:
        """The coefficients' posterior."""
        ...

    def slopes(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> tuple[float, dict[int, Array], Mapping[str, Any]] | None:
        """The density, its derivatives by factor in its root, and those by number or scale.

        They are those at the given log |X' V^-1 X + P|. None where only T has them.
        """
        ...

    def settled(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> "Correction":
        """The same, to be asked for hyperparameters near those of q."""
        ...

    def of(self, working: GaussianApproximator) -> "Correction":
        """The same for these rows with other priors of the common effects."""
        ...


@dataclass(frozen=True)
class SkewnessCorrection:
    """The third-order term, for any groupings of few columns."""

    working: GaussianApproximator

    @classmethod
    def applies(cls, working: GaussianApproximator) -> bool:
        return any(factor.columns.shape[1] <= _WIDE for factor in working.layout.factors)

    def correction(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> float:
        layout = self.working.layout
        third = self.working.averages.third(numbers, q.mean, q.covariance)
        owns = q.solution.solver.products.own
        out = 0.0
        for factor, root, own in zip(layout.factors, roots, owns, strict=True):
            if factor.levels == 1 or factor.columns.shape[1] > _WIDE:
                # Of coefficients that all rows share each is told by all: the term vanishes.
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

    def solution(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> Solution:
        return q.solution

    def slopes(self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]) -> None:
        return None

    def settled(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> "SkewnessCorrection":
        return self

    def of(self, working: GaussianApproximator) -> "SkewnessCorrection":
        return SkewnessCorrection(working)


def _alone(root: Array, own: Array) -> Array:
    """(k, k, J) covariance of each level's effects given all other coefficients.

    What the rows leave open of all levels alike is no predictor's, and takes no part.
    """
    precision = np.eye(len(root)) + root.T @ own.transpose(2, 0, 1) @ root
    values, vectors = np.linalg.eigh(precision)
    # Of negative weights the prior is what is left.
    scaled = root @ vectors / np.sqrt(np.maximum(values, 1.0))[:, None]
    return np.einsum("jab,jcb->acj", scaled, scaled)


@dataclass(frozen=True)
class _ModeQuadrature:
    """Log p(y | beta, theta) by quadrature at beta's mode, and the moments of each level's u.

    `by_number` holds the derivatives in the family's numbers.
    """

    beta: Array
    value: float
    mean: Array
    variance: Array
    by_number: Mapping[str, Any]

    @property
    def squares(self) -> float:
        """Sum over levels of E u^2."""
        return float((self.mean**2 + self.variance).sum())


@dataclass(frozen=True)
class AdaptiveQuadrature:
    """One grouping with one effect for each level, by `nodes` of adaptive quadrature.

    If it `may_save`, fewer nodes are taken once they are seen to give the same.
    `away` is how far from q's the common effects' mode was where it was settled, (p,).
    """

    working: GaussianApproximator
    nodes: int = NODES
    may_save: bool = False
    away: Array | None = None

    @classmethod
    def applies(cls, working: GaussianApproximator) -> bool:
        factors, groupings = working.layout.factors, working.layout.groupings
        return len(factors) == 1 and factors[0].columns.shape[1] == 1 and not groupings[0].shared

    def settled(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> "AdaptiveQuadrature":
        found = self._integrated(q, roots, numbers)
        settled = replace(self, away=found.beta - q.solution.common[0])
        for fewer in _FEWER if self.may_save else ():
            less = replace(settled, nodes=fewer)
            other = less._integrated(q, roots, numbers)
            # Of the derivative along a posterior sd of the scale, which is this at least.
            along = (other.squares - found.squares) / np.sqrt(2 * len(found.mean))
            if max(abs(other.value - found.value), abs(along)) < _SAME:
                return less
        return settled

    def of(self, working: GaussianApproximator) -> "AdaptiveQuadrature":
        return replace(self, working=working)

    def correction(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> float:
        return self._density(q, self._integrated(q, roots, numbers)) - q.value

    def _density(self, q: GaussianPosterior, found: _ModeQuadrature) -> float:
        """Log p(y | theta), common effects integrated as normal ones."""
        layout = self.working.layout
        return (
            found.value
            - 0.5 * float(q.solution.log_det_common[0])
            - 0.5 * float((layout.precision * (found.beta - layout.mean) ** 2).sum())
            + self.working.constant
        )

    def slopes(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> tuple[float, dict[int, Array], Mapping[str, Any]]:
        """By Fisher's identity the derivative in the sd is sum_j E (u_j^2 - 1) / sd."""
        found = self._integrated(q, roots, numbers)
        along = np.full((1, 1), (found.squares - len(found.mean)) / _sd(roots))
        layout = self.working.layout
        by_scale = layout.by_scale((found.beta - layout.mean) ** 2)
        return self._density(q, found), {0: along}, {**found.by_number, **by_scale}

    def solution(
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> Solution:
        """Of the working model with the moments that quadrature gives.

        Its cross-products are such that common effects are around their mode, and those of
        each level have the mean and variance that they have there.
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
        # So that the regression of the effects on beta, and beta's covariance, stay as they are.
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
        self, q: GaussianPosterior, roots: list[Array], numbers: Mapping[str, Any]
    ) -> _ModeQuadrature:
        """At the beta that maximises p(beta | y, theta), by Newton's steps from that of q."""
        layout, solution, root = self.working.layout, q.solution, _sd(roots)
        factor, own = layout.factors[0], solution.solver.products.own[0][0, 0]
        over = LevelQuadrature(
            factor.codes,
            factor.columns[:, 0],
            int(predictors_of(factor)[0]),
            self.nodes,
            solution.effects[0][0, :, 0] / root,
            1 / np.sqrt(1 + root**2 * own),
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
            # Half the slope along a step is what it brings, where it is as short as the last.
            left = 0.5 * gain if gain < _GAIN else 0.0
            moments = found.mean, found.variance, found.by_number
            out = _ModeQuadrature(beta, found.value + left, *moments)
            if gain < _GAIN:
                break
            beta = beta + step
        if out is None:
            raise FloatingPointError("the integrals over the levels are not finite")
        return out


def _sd(roots: list[Array]) -> float:
    """The sd of the effects; below what says nothing, the least that keeps its digits."""
    root = float(roots[0][0, 0])
    return math.copysign(max(abs(root), _NOTHING), root)
