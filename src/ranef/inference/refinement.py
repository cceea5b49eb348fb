"""What the nearest normal distribution misses of log p(y | theta), and of one scalar grouping.

With q the normal of ``variational`` and r the log ratio of the posterior to it, log p(y | theta)
exceeds T by log E_q exp(r - E r). Gradient and curvature of r vanish under q, so that its first
term is the third-order one,

    s = 1/12 sum_j |E_q d3 log p / d b_j^3|^2        in the metric of cov(b_j | all others)

over the levels of every grouping (`Skewness`). It is the first of a series, and too much where it
is large, as of a level of zeros whose effect has no end below: a level's share is taken as
s / (1 + 2.5 s), which follows the integrals of levels of counts and of answers yes or no. Where a
single grouping has one effect for each level, the integrals over them are one-dimensional, and
adaptive Gauss-Hermite quadrature gives each (`Quadrature`; Liu and Pierce, 1994): the common
effects alone are then taken as normal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ranef.inference.averages import Density
from ranef.inference.pwls import PWLS, Solution
from ranef.inference.variational import Normal, Working
from ranef.inference.weighted import predictors_of

Array = NDArray[np.float64]

# Nodes unless the user says otherwise.
NODES = 15
# Newton steps of the common effects, and the gain in nats at which they end.
_STEPS, _GAIN = 6, 1e-6
# Columns of a factor beyond which nothing is added: of the many of a basis the rows say little
# each, and where they leave a function open the third-order term has no bound.
_WIDE = 12
# How the gain of a skewed level falls behind the first term of its series.
_BENT = 2.5
# A scale below which effects say nothing.
_NOTHING = 1e-6


@runtime_checkable
class Refinement(Protocol):
    """What is to be added to T, and the posterior of the coefficients that goes with it."""

    def correction(self, q: Normal, roots: list[Array], numbers: Mapping[str, Any]) -> float:
        """In nats."""
        ...

    def solution(self, q: Normal, roots: list[Array], numbers: Mapping[str, Any]) -> Solution:
        """The coefficients' posterior."""
        ...


@dataclass(frozen=True)
class Skewness:
    """The third-order term, for any groupings of few columns."""

    working: Working

    @classmethod
    def applies(cls, working: Working) -> bool:
        return any(factor.columns.shape[1] <= _WIDE for factor in working.layout.factors)

    def correction(self, q: Normal, roots: list[Array], numbers: Mapping[str, Any]) -> float:
        layout = self.working.layout
        third = self.working.averages.third(numbers, q.mean, q.spread)
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
                turned = np.einsum("abcj,adj,bej,cfj->defj", tensor, w, w, w, optimize=True)
                shares = (tensor * turned).sum(axis=(0, 1, 2)) / 12
                out += float((shares / (1 + _BENT * shares)).sum())
        return out

    def solution(self, q: Normal, roots: list[Array], numbers: Mapping[str, Any]) -> Solution:
        return q.solution


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
class _Integrated:
    """Log p(y | beta, theta) by quadrature at some beta, and the moments of each level's u."""

    beta: Array
    value: float
    mean: Array
    variance: Array


@dataclass(frozen=True)
class Quadrature:
    """One grouping with one effect for each level, by `nodes` of adaptive quadrature."""

    working: Working
    nodes: int = NODES

    @classmethod
    def applies(cls, working: Working) -> bool:
        factors, groupings = working.layout.factors, working.layout.groupings
        return len(factors) == 1 and factors[0].columns.shape[1] == 1 and not groupings[0].shared

    def correction(self, q: Normal, roots: list[Array], numbers: Mapping[str, Any]) -> float:
        if abs(roots[0][0, 0]) < _NOTHING:
            return 0.0
        found = self._integrated(q, float(roots[0][0, 0]), numbers)
        layout = self.working.layout
        value = (
            found.value
            - 0.5 * float(q.solution.log_det_common[0])
            - 0.5 * float((layout.precision * (found.beta - layout.mean) ** 2).sum())
            + self.working.constant
        )
        return value - q.value

    def solution(self, q: Normal, roots: list[Array], numbers: Mapping[str, Any]) -> Solution:
        """Of the working model with the moments that quadrature gives.

        Its cross-products are such that common effects are around their mode, and those of
        each level have the mean and variance that they have there.
        """
        root = float(roots[0][0, 0])
        if abs(root) < 1e-3:
            return q.solution
        found = self._integrated(q, root, numbers)
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

    def _integrated(self, q: Normal, root: float, numbers: Mapping[str, Any]) -> _Integrated:
        """At the beta that maximises p(beta | y, theta), by Newton's steps from that of q."""
        layout, solution = self.working.layout, q.solution
        products = solution.solver.products
        scale = 1 / np.sqrt(1 + root**2 * products.own[0][0, 0])
        centre = solution.effects[0][0, :, 0] / root
        beta = solution.common[0]
        covariance = solution.common_covariance[0]
        out: _Integrated | None = None
        best = -np.inf
        averages, factor = self.working.averages, layout.factors[0]
        place = int(predictors_of(factor)[0])
        rows = averages.response, (factor.codes, factor.columns[:, 0])
        for _ in range(_STEPS):
            base = layout.known.copy()
            for c, k in enumerate(layout.predictor):
                base[:, k] += layout.columns[:, c] * beta[c]
            with jax.enable_x64(True):
                at = base, root, dict(numbers), centre, scale
                (value, moments), slope = _log_marginal(
                    averages.density, self.nodes, factor.levels, place, *rows, *at
                )
                mean, variance = (np.asarray(m, np.float64) for m in moments)
                away = np.asarray(slope, np.float64)
            gradient = np.array(
                [layout.columns[:, c] @ away[:, k] for c, k in enumerate(layout.predictor)]
            ) - layout.precision * (beta - layout.mean)
            penalty = 0.5 * float((layout.precision * (beta - layout.mean) ** 2).sum())
            found = _Integrated(beta, float(value), mean, variance)
            if not float(value) - penalty > best:
                break
            out, best = found, float(value) - penalty
            step = covariance @ gradient
            if float(gradient @ step) < _GAIN:
                break
            beta = beta + step
        if out is None:
            raise FloatingPointError("the integrals over the levels are not finite")
        return out


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
@partial(jax.value_and_grad, argnums=6, has_aux=True)
def _log_marginal(
    density: Density,
    count: int,
    levels: int,
    place: int,
    response: Any,
    factor: tuple[Any, Any],
    base: Any,
    root: Any,
    numbers: Mapping[str, Any],
    centre: Any,
    scale: Any,
) -> tuple[Any, tuple[Any, Any]]:
    """Sum over levels of log of the integral over u, and the mean and variance of u.

    `factor` holds each row's level and column, of the predictor at `place`.
    """
    codes, z = factor
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    u = centre + scale * nodes[:, None]

    def level(u: Any) -> Any:
        eta = base.at[:, place].add(root * z * u[codes])
        rows = density.rows(response, numbers, eta)
        return jax.ops.segment_sum(rows, codes, num_segments=levels) - 0.5 * u**2

    each = jax.vmap(level)(u) + (np.log(weights) + nodes**2 / 2)[:, None] + jnp.log(scale)
    constant = -0.5 * np.log(2 * np.pi)
    total = jax.scipy.special.logsumexp(each, axis=0)
    share = jnp.exp(each - total)
    mean = (share * u).sum(axis=0)
    variance = (share * (u - mean) ** 2).sum(axis=0)
    return jnp.sum(total + constant), (mean, variance)
