"""A log density and its derivatives, averaged over a normal distribution of the predictors.

    E log p(y_i | eta_i),   E d log p / d eta,   E d2 log p / d eta2      eta_i ~ N(m_i, C_i)

by quadrature: Gauss and Hermite's for one or two predictors, of degree three (Stroud, 1971)
for more. The derivatives are automatic ones of the family's log density.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

# Nodes for each predictor where rows may be uncertain, and where all are nearly known.
_NODES, _FEW = {1: 7, 2: 5}, 3
# The largest variance of a predictor of which few nodes give its averages.
_NEARLY_KNOWN = 0.05
# Rows from which it is worth a second compiled program to take few nodes.
_MANY = 100_000


class Averages:
    """Of the rows of one response.

    Args:
        log_density: ``log_density(response, **predictors)`` on the links' scale, (n,).
        on_link_scale: numbers on their own scale to that of their links.
        response: the rows.
        predictors: names of those that rows have, in order.
    """

    def __init__(
        self,
        log_density: Callable[..., Array],
        on_link_scale: Callable[..., dict[str, Any]],
        response: Any,
        predictors: Sequence[str],
    ) -> None:
        self._log_density, self._on_link_scale = log_density, on_link_scale
        self._predictors = tuple(predictors)
        self._response = jax.tree.map(np.asarray, response)
        self._compiled = jax.jit(self._averages, static_argnums=3)
        self._compiled_third = jax.jit(self._thirds, static_argnums=3)
        self._compiled_by_number = jax.jit(jax.grad(self._total), static_argnums=3)

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
            found = self._compiled(dict(numbers), mean, spread, self._count(spread))
            total, slope, curvature = (np.asarray(each, np.float64) for each in found)
        return float(total), slope, curvature

    def at(self, numbers: Mapping[str, Any], eta: NDArray) -> float:
        """Sum over rows of log p at predictors that are known, (n, K)."""
        with jax.enable_x64(True):
            return float(jnp.sum(self.rows(numbers, jnp.asarray(eta, jnp.float64))))

    def by_number(
        self, numbers: Mapping[str, Any], mean: NDArray, spread: NDArray
    ) -> dict[str, NDArray]:
        """The derivative of the sum of E log p in each number."""
        if not numbers:
            return {}
        given = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
        with jax.enable_x64(True):
            found = self._compiled_by_number(given, mean, spread, self._count(spread))
            return {name: np.asarray(value, np.float64) for name, value in found.items()}

    def third(self, numbers: Mapping[str, Any], mean: NDArray, spread: NDArray) -> NDArray:
        """(n, K) E of the third derivative in each predictor."""
        with jax.enable_x64(True):
            found = self._compiled_third(dict(numbers), mean, spread, self._count(spread))
            return np.asarray(found, np.float64)

    def _count(self, spread: NDArray) -> int:
        k = len(self._predictors)
        few = len(spread) >= _MANY and k in _NODES and spread.max(initial=0.0) < _NEARLY_KNOWN
        return _FEW if few else _NODES.get(k, 0)

    def rows(self, numbers: Mapping[str, Any], eta: Array) -> Array:
        """Log p of each row, (n,)."""
        each = {name: eta[:, k] for k, name in enumerate(self._predictors)}
        response = jax.tree.map(jnp.asarray, self._response)
        return self._log_density(response, **each, **self._on_link_scale(**numbers))

    def _total(self, numbers: Mapping[str, Any], mean: Array, spread: Array, count: int) -> Array:
        points, weights = rule(len(self._predictors), count)
        etas = mean + jnp.einsum("nkl,ml->mnk", root_of(spread), points)
        return jnp.sum(weights @ jax.vmap(lambda eta: self.rows(numbers, eta))(etas))

    def _averages(
        self, numbers: Mapping[str, Any], mean: Array, spread: Array, count: int
    ) -> tuple[Array, Array, Array]:
        k = len(self._predictors)
        points, weights = rule(k, count)
        etas = mean + jnp.einsum("nkl,ml->mnk", root_of(spread), points)

        def slopes(eta: Array) -> Array:
            return jax.grad(lambda eta: self.rows(numbers, eta).sum())(eta)

        def each(eta: Array) -> tuple[Array, Array, Array]:
            slope, along = jax.linearize(slopes, eta)
            # All directions as one: a program of their number takes seconds to compile.
            each_way = jnp.broadcast_to(jnp.eye(k)[:, None, :], (k, *eta.shape))
            second = -jnp.moveaxis(jax.vmap(along)(each_way), 0, -1)
            return self.rows(numbers, eta), slope, second

        values, slope, curvature = jax.vmap(each)(etas)
        return (
            jnp.sum(weights @ values),
            jnp.einsum("m,mnk->nk", weights, slope),
            jnp.einsum("m,mnkl->nkl", weights, curvature),
        )

    def _thirds(self, numbers: Mapping[str, Any], mean: Array, spread: Array, count: int) -> Array:
        k = len(self._predictors)
        points, weights = rule(k, count)
        etas = mean + jnp.einsum("nkl,ml->mnk", root_of(spread), points)

        def each(eta: Array) -> Array:
            out = []
            for c in range(k):

                def alone(along: Array, c: int = c) -> Array:
                    return self.rows(numbers, eta.at[:, c].add(along)).sum()

                ones = jnp.ones_like(eta[:, 0])
                slope = jax.grad(alone)

                def bend(along: Array, slope: Any = slope, ones: Array = ones) -> Array:
                    return jax.jvp(slope, (along,), (ones,))[1]

                out.append(jax.jvp(bend, (jnp.zeros_like(ones),), (ones,))[1])
            return jnp.stack(out, axis=-1)

        return jnp.einsum("m,mnk->nk", weights, jax.vmap(each)(etas))


def rule(k: int, count: int) -> tuple[NDArray, NDArray]:
    """Points (m, k) and weights (m,) for averages over a standard normal vector."""
    if count:
        nodes, weights = np.polynomial.hermite_e.hermegauss(count)
        points = np.array(list(itertools.product(nodes, repeat=k)))
        shares = np.array(list(itertools.product(weights / weights.sum(), repeat=k)))
        return points, shares.prod(axis=1)
    points = math.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    return points, np.full(2 * k, 1 / (2 * k))


def root_of(spread: Array) -> Array:
    """L (n, K, K) lower triangular with L L' = spread, which may be singular."""
    k = spread.shape[-1]
    if k == 1:
        return jnp.sqrt(jnp.maximum(spread, 0.0))
    columns: list[list[Any]] = [[jnp.zeros_like(spread[:, 0, 0])] * k for _ in range(k)]
    for i in range(k):
        for j in range(i + 1):
            rest = spread[:, i, j] - sum(columns[i][c] * columns[j][c] for c in range(j))
            if i == j:
                columns[i][i] = jnp.sqrt(jnp.maximum(rest, 0.0))
            else:
                pivot = columns[j][j]
                columns[i][j] = jnp.where(pivot > 1e-12, rest / jnp.where(pivot > 0, pivot, 1.0), 0)
    return jnp.stack([jnp.stack(row, axis=-1) for row in columns], axis=-2)
