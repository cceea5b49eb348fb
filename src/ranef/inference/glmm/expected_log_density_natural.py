"""Averages of the log density of exponential families, and integrals over levels.

They are the averages of ``expected_log_density`` for families in their natural parameter. With the
cumulant function A and the size m_i of row i, such as its number of trials,

    E log p(y_i | eta_i) = y_i E eta_i - m_i E A(eta_i) + c_i       eta_i ~ N(mu_i, v_i)

E A is in closed form or by Gauss-Hermite quadrature with as many nodes as the largest variance v
requires. Few rows are handled by NumPy, without compilation; many by JAX, whose exponential is ten
times as fast.
"""

from collections.abc import Callable
from types import ModuleType

import numpy as np
from scipy.special import logsumexp

from ranef.families.exponential_family import ExponentialFamilyRows
from ranef.inference.glmm.arrays import Array, Blocks, FamilyValues, PerRow, Predictors
from ranef.inference.glmm.level_quadrature import LevelIntegrals, LevelQuadrature
from ranef.lazy import Array as JaxArray
from ranef.lazy import jax, jnp, lazily
from ranef.numerics.gauss_hermite import hermite
from ranef.numerics.shapes import Float

JaxPerRow = Float[JaxArray, "n"]
# A cumulant function, as `ExponentialFamilyRows.cumulants`, on arrays of JAX.
Cumulants = Callable[[ModuleType, JaxPerRow, int], tuple[JaxPerRow, ...]]

# Number of rows from which compiling a program, which takes a tenth of a second, pays off.
_MANY = 50_000
# Rows that NumPy handles at a time, so that they stay in a processor's cache.
_CHUNK = 8_192
# Pairs of a variance and the number of nodes up to it. The average of log(1 + e^eta) is off by at
# most 2e-6, 3e-6 and 6e-5 in the first three, and by 3e-4 at a variance of 6.
_NODES = ((0.1, 3), (0.5, 5), (2.0, 7), (np.inf, 11))


class NaturalExpectedLogDensity:
    """Averages over the rows of one response, in the natural parameter.

    Args:
        natural: the rows.
    """

    def __init__(self, natural: ExponentialFamilyRows) -> None:
        self.natural = natural
        self._least = _NODES[0][1]

    def of(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> tuple[float, Predictors, Blocks]:
        """As `ExpectedLogDensity.of`: the sum of E log p, and averages of slope and curvature."""
        y, m = self.natural.value, self.natural.size
        a, first, second = self._averaged(mean[:, 0], covariance[:, 0, 0], 2)
        total = float(y @ mean[:, 0] - m @ a) + self.natural.constant
        return total, (y - m * first)[:, None], (m * second)[:, None, None]

    def settle(self, covariance: Blocks) -> None:
        """Raises the least number of nodes to what twice the variances require.

        With a fixed number the average is smooth: it jumps a little where the number changes.
        """
        self._least = max(self._least, _needed(2 * float(covariance.max(initial=0.0))))

    def at(self, numbers: FamilyValues, eta: Predictors) -> float:
        """The sum over rows of log p at known predictors."""
        a = self._cumulants(eta[:, 0], 0)[0]
        y, m = self.natural.value, self.natural.size
        return float(y @ eta[:, 0] - m @ a) + self.natural.constant

    def by_number(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> dict[str, Array]:
        """An empty mapping: the family has no other parameter."""
        return {}

    def third(self, numbers: FamilyValues, mean: Predictors, covariance: Blocks) -> Predictors:
        """E of the third derivative."""
        third = self._averaged(mean[:, 0], covariance[:, 0, 0], 3)[3]
        return -(self.natural.size * third)[:, None]

    def integrals(
        self, over: LevelQuadrature, base: Predictors, root: float, numbers: FamilyValues
    ) -> LevelIntegrals:
        """As `ExpectedLogDensity.integrals`: log integrals over the effects of levels."""
        codes, levels, u = over.codes, len(over.centre), over.u
        eta, z = base[:, 0], root * over.column
        y, m = self.natural.value, self.natural.size
        firsts = np.empty((len(u), len(eta)))
        densities = over.log_weights + u * np.bincount(codes, y * z, levels) - 0.5 * u**2
        for k, each in enumerate(u):
            a, firsts[k] = self._cumulants(eta + z * each[codes], 1)
            densities[k] -= np.bincount(codes, m * a, levels)
        logs = np.asarray(logsumexp(densities, axis=0))
        share = np.exp(densities - logs)
        mean = (share * u).sum(axis=0)
        variance = (share * (u - mean) ** 2).sum(axis=0)
        expected = np.zeros_like(eta)
        for own, first in zip(share, firsts, strict=True):
            expected += own[codes] * first
        value = float(logs.sum() + y @ eta) + self.natural.constant
        return LevelIntegrals(value, mean, variance, (y - m * expected)[:, None], {})

    def _averaged(self, mean: PerRow, variance: PerRow, order: int) -> tuple[PerRow, ...]:
        """E A and the averages of its derivatives up to `order`."""
        largest = float(variance.max(initial=0.0))
        if not largest > 0:
            return self._cumulants(mean, order)
        known = self.natural.averaged(mean, variance, order)
        if known is not None:
            return known
        nodes, weights = hermite(max(self._least, _needed(largest)))
        weights = weights / weights.sum()
        if len(mean) >= _MANY:
            with jax.enable_x64(True):
                sums = (jnp.zeros(()),) * (order + 1)
                moments = jnp.asarray(mean), jnp.asarray(variance)
                for node in zip(jnp.asarray(nodes), jnp.asarray(weights), strict=True):
                    sums = _added(self.natural.cumulants, order, sums, node, *moments)
                return tuple(np.asarray(each) for each in sums)
        out = tuple(np.zeros_like(mean) for _ in range(order + 1))
        for at in range(0, len(mean), _CHUNK):
            rows = slice(at, at + _CHUNK)
            middle, sd = mean[rows], np.sqrt(variance[rows])
            for node, weight in zip(nodes, weights, strict=True):
                found = self.natural.cumulants(np, middle + node * sd, order)
                for total, each in zip(out, found, strict=True):
                    total[rows] += weight * each
        return out

    def _cumulants(self, eta: PerRow, order: int) -> tuple[PerRow, ...]:
        """A and its derivatives up to `order` at eta."""
        if len(eta) < _MANY:
            return self.natural.cumulants(np, eta, order)
        with jax.enable_x64(True):
            found = _compiled(self.natural.cumulants, order, jnp.asarray(eta))
            return tuple(np.asarray(each) for each in found)


def _needed(variance: float) -> int:
    """Nodes for predictors of at most this variance."""
    return next(count for limit, count in _NODES if variance <= limit)


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _compiled(cumulants: Cumulants, order: int, eta: JaxPerRow) -> tuple[JaxPerRow, ...]:
    return cumulants(jnp, eta, order)


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _added(
    cumulants: Cumulants,
    order: int,
    sums: tuple[JaxArray, ...],
    node: tuple[Float[JaxArray, ""], Float[JaxArray, ""]],
    mean: JaxPerRow,
    variance: JaxPerRow,
) -> tuple[JaxPerRow, ...]:
    """The sums with one node's terms added; one sum over all nodes would not run in parallel."""
    place, weight = node
    found = cumulants(jnp, mean + place * jnp.sqrt(variance), order)
    return tuple(total + weight * each for total, each in zip(sums, found, strict=True))
