"""A log density and its derivatives, averaged over a normal distribution of the predictors.

    E log p(y_i | eta_i),   E d log p / d eta,   E d2 log p / d eta2      eta_i ~ N(m_i, C_i)

by quadrature: Gauss and Hermite's for one or two predictors, of degree three (Stroud, 1971)
for more. The derivatives are automatic ones of the family's log density.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.families.base import Family
from ranef.inference.glmm.expected_log_density_analytic import (
    LEAST_PIVOT,
    AnalyticExpectedLogDensity,
)
from ranef.inference.glmm.expected_log_density_natural import NaturalExpectedLogDensity
from ranef.inference.glmm.level_quadrature import LevelIntegrals, LevelQuadrature
from ranef.lazy import Array, jax, jnp, lazily
from ranef.numerics.gauss_hermite import nodes_of, rule

# Nodes for each predictor where all are nearly known.
_FEW = 3
# The largest variance of a predictor of which few nodes give its averages.
_NEARLY_KNOWN = 0.05
# Rows from which it is worth a second compiled program to take few nodes.
_MANY = 100_000
# Rows from which a program of several threads saves more than the seconds that it takes to compile.
_COMPILED = 50_000


@dataclass(frozen=True)
class ResponseDensity:
    """Log p of each row of any response, in the predictors that rows have.

    Two are equal where they compute the same, so that a program compiled for one serves in all
    fits of the process.

    Attributes:
        law: the family.
        predictors: names of those that rows have, in order.
        signature: of the family.
    """

    law: Family = field(compare=False)
    predictors: tuple[str, ...]
    signature: Hashable

    @classmethod
    def of(cls, law: Family, predictors: Sequence[str]) -> "ResponseDensity":
        return cls(law, tuple(predictors), law.signature())

    def rows(self, response: Any, numbers: Mapping[str, Any], eta: Array) -> Array:
        """Log p of each row, (n,), at predictors eta (n, K)."""
        each = {name: eta[:, k] for k, name in enumerate(self.predictors)}
        return self.law.log_density(response, **each, **self.law.on_link_scale(**numbers))


def averages_of(
    law: Family, response: Any, predictors: Sequence[str]
) -> "ExpectedLogDensity | NaturalExpectedLogDensity | AnalyticExpectedLogDensity":
    """Of the rows of one response: in closed form where the family has one."""
    natural = law.natural(response)
    if natural is not None:
        return NaturalExpectedLogDensity(natural)
    n, density = len(response.value), None
    if n < _COMPILED:
        density = law.row_density(response, predictors)
    if density is None:
        return ExpectedLogDensity(law, response, predictors)
    return AnalyticExpectedLogDensity(density, n, len(predictors))


class ExpectedLogDensity:
    """Of the rows of one response.

    Args:
        law: the family.
        response: the rows.
        predictors: names of those that rows have, in order.
    """

    def __init__(self, law: Family, response: Any, predictors: Sequence[str]) -> None:
        self.density = ResponseDensity.of(law, predictors)
        with jax.enable_x64(True):
            self.response = jax.tree.map(jnp.asarray, response)

    def of(
        self, numbers: Mapping[str, Any], mean: NDArray, spread: NDArray
    ) -> tuple[float, NDArray, NDArray]:
        """Sum over rows of E log p; E of the first and of minus the second derivatives.

        Args:
            numbers: values of the parameters that are the same for all rows.
            mean: (n, K) m.
            spread: (n, K, K) C.

        Returns:
            (), (n, K) and (n, K, K).
        """
        with jax.enable_x64(True):
            found = _averages(*self._at(numbers, mean, spread))
            total, slope, curvature = (np.asarray(each, np.float64) for each in found)
        return float(total), slope, curvature

    def settle(self, spread: NDArray) -> None:
        """Take as many nodes as predictors of such variances (n, K, K) ask for: these always do."""

    def at(self, numbers: Mapping[str, Any], eta: NDArray) -> float:
        """Sum over rows of log p at predictors that are known, (n, K)."""
        with jax.enable_x64(True):
            given = {name: jnp.asarray(value, jnp.float64) for name, value in numbers.items()}
            rows = self.density.rows(self.response, given, jnp.asarray(eta, jnp.float64))
            return float(jnp.sum(rows))

    def by_number(
        self, numbers: Mapping[str, Any], mean: NDArray, spread: NDArray
    ) -> dict[str, NDArray]:
        """The derivative of the sum of E log p in each number."""
        if not numbers:
            return {}
        with jax.enable_x64(True):
            found = _by_number(*self._at(numbers, mean, spread))
            return {name: np.asarray(value, np.float64) for name, value in found.items()}

    def third(self, numbers: Mapping[str, Any], mean: NDArray, spread: NDArray) -> NDArray:
        """(n, K) E of the third derivative in each predictor."""
        with jax.enable_x64(True):
            return np.asarray(_thirds(*self._at(numbers, mean, spread)), np.float64)

    def integrals(
        self, over: LevelQuadrature, base: NDArray, root: float, numbers: Mapping[str, Any]
    ) -> LevelIntegrals:
        """Log integrals over the effects of levels, by quadrature.

        Args:
            over: the levels.
            base: (n, K) predictors without the effects.
            root: the sd of the effects.
            numbers: values of the parameters that are the same for all rows.
        """
        with jax.enable_x64(True):
            given = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
            at = over.codes, over.column, over.u, over.log_weights
            (value, moments), (slope, by_number) = _log_marginal(
                self.density, over.place, base, given, self.response, root, *at
            )
            mean, variance, slope = (np.asarray(m, np.float64) for m in (*moments, slope))
            numbers = {name: np.asarray(each, np.float64) for name, each in by_number.items()}
            return LevelIntegrals(float(value), mean, variance, slope, numbers)

    def _at(self, numbers: Mapping[str, Any], mean: NDArray, spread: NDArray) -> tuple[Any, ...]:
        given = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
        return self.density, self._count(spread), self.response, given, mean, spread

    def _count(self, spread: NDArray) -> int:
        k = len(self.density.predictors)
        few = len(spread) >= _MANY and spread.max(initial=0.0) < _NEARLY_KNOWN
        return _FEW if few and nodes_of(k) else nodes_of(k)


def _points(count: int, mean: Array, spread: Array) -> tuple[Array, NDArray]:
    """Where the predictors are looked at, (m, n, K), and the weights (m,)."""
    points, weights = rule(mean.shape[1], count)
    return mean + jnp.einsum("nkl,ml->mnk", root_of(spread), points), weights


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _by_number(
    density: ResponseDensity, count: int, response: Any, numbers: Any, mean: Array, spread: Array
) -> dict[str, Array]:
    etas, weights = _points(count, mean, spread)

    def total(numbers: Any) -> Array:
        return jnp.sum(weights @ jax.vmap(lambda eta: density.rows(response, numbers, eta))(etas))

    return jax.grad(total)(numbers)


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _averages(
    density: ResponseDensity, count: int, response: Any, numbers: Any, mean: Array, spread: Array
) -> tuple[Array, Array, Array]:
    k = mean.shape[1]
    etas, weights = _points(count, mean, spread)

    def slopes(eta: Array) -> Array:
        return jax.grad(lambda eta: density.rows(response, numbers, eta).sum())(eta)

    def each(eta: Array) -> tuple[Array, Array, Array]:
        slope, along = jax.linearize(slopes, eta)
        # All directions as one: a program of their number takes seconds to compile.
        each_way = jnp.broadcast_to(jnp.eye(k)[:, None, :], (k, *eta.shape))
        second = -jnp.moveaxis(jax.vmap(along)(each_way), 0, -1)
        return density.rows(response, numbers, eta), slope, second

    values, slope, curvature = jax.vmap(each)(etas)
    return (
        jnp.sum(weights @ values),
        jnp.einsum("m,mnk->nk", weights, slope),
        jnp.einsum("m,mnkl->nkl", weights, curvature),
    )


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _thirds(
    density: ResponseDensity, count: int, response: Any, numbers: Any, mean: Array, spread: Array
) -> Array:
    etas, weights = _points(count, mean, spread)

    def each(eta: Array) -> Array:
        out = []
        for c in range(mean.shape[1]):

            def alone(along: Array, c: int = c) -> Array:
                return density.rows(response, numbers, eta.at[:, c].add(along)).sum()

            ones = jnp.ones_like(eta[:, 0])
            slope = jax.grad(alone)

            def bend(along: Array, slope: Any = slope, ones: Array = ones) -> Array:
                return jax.jvp(slope, (along,), (ones,))[1]

            out.append(jax.jvp(bend, (jnp.zeros_like(ones),), (ones,))[1])
        return jnp.stack(out, axis=-1)

    return jnp.einsum("m,mnk->nk", weights, jax.vmap(each)(etas))


@lazily(
    lambda f: jax.jit(jax.value_and_grad(f, argnums=(2, 3), has_aux=True), static_argnums=(0, 1))
)
def _log_marginal(
    density: ResponseDensity,
    place: int,
    base: Any,
    numbers: Mapping[str, Any],
    response: Any,
    root: Any,
    codes: Any,
    column: Any,
    u: Any,
    log_weights: Any,
) -> tuple[Any, tuple[Any, Any]]:
    """Sum over levels of log of the integral over u, and the mean and variance of u."""

    def level(u: Any) -> Any:
        eta = base.at[:, place].add(root * column * u[codes])
        rows = density.rows(response, numbers, eta)
        return jax.ops.segment_sum(rows, codes, num_segments=len(u)) - 0.5 * u**2

    each = jax.vmap(level)(u) + log_weights
    total = jax.scipy.special.logsumexp(each, axis=0)
    share = jnp.exp(each - total)
    mean = (share * u).sum(axis=0)
    variance = (share * (u - mean) ** 2).sum(axis=0)
    return jnp.sum(total), (mean, variance)


def root_of(spread: Array) -> Array:
    """L (n, K, K) lower triangular with L L' = spread, which may be singular.

    Column by column, as ``expected_log_density_analytic.root_of``, in a loop whose program does not
    grow with K.
    """
    each = jnp.arange(spread.shape[-1])

    def column(j: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        left, out = carried
        pivot = jnp.sqrt(jnp.maximum(left[:, j, j], 0.0))[:, None]
        known = (each > j) & (pivot > LEAST_PIVOT)
        below = jnp.where(known, left[:, :, j] / jnp.where(pivot > 0, pivot, 1.0), 0.0)
        out = out.at[:, :, j].set(jnp.where(each == j, pivot, below))
        return left - below[:, :, None] * below[:, None, :], out

    return jax.lax.fori_loop(0, len(each), column, (spread, jnp.zeros_like(spread)))[1]
