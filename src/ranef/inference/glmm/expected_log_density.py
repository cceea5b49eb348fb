"""A log density and its derivatives, averaged over a normal distribution of the linear predictors.

    E log p(y_i | eta_i),   E d log p / d eta,   E d2 log p / d eta2      eta_i ~ N(m_i, C_i)

Averages are by quadrature: Gauss-Hermite for one or two predictors, and a rule of degree three
(Stroud, 1971) for more. Derivatives are by automatic differentiation of the family's log density.
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

# Nodes per predictor where all predictors have small variances.
_FEW = 3
# The largest variance of a predictor for which `_FEW` nodes suffice.
_NEARLY_KNOWN = 0.05
# Number of rows from which fewer nodes are worth compiling a second program.
_MANY = 100_000
# Number of rows from which a compiled program with several threads saves more than the seconds that
# its compilation takes.
_COMPILED = 50_000


@dataclass(frozen=True)
class ResponseDensity:
    """Log p of each row of a response, as a function of the row's linear predictors.

    Two instances are equal if they compute the same, so that a program compiled for one serves all
    fits of the process.

    Attributes:
        family: the distribution of the response.
        predictors: names of the predicted parameters, in order.
        signature: of the family.
    """

    family: Family = field(compare=False)
    predictors: tuple[str, ...]
    signature: Hashable

    @classmethod
    def of(cls, family: Family, predictors: Sequence[str]) -> "ResponseDensity":
        """The density of a family with these predicted parameters."""
        return cls(family, tuple(predictors), family.signature())

    def rows(self, response: Any, numbers: Mapping[str, Any], eta: Array) -> Array:
        """Log p of each row, (n,), at predictors eta (n, K) and shared family parameters."""
        each = {name: eta[:, k] for k, name in enumerate(self.predictors)}
        return self.family.log_density(response, **each, **self.family.on_link_scale(**numbers))


def expected_log_density_of(
    family: Family, response: Any, predictors: Sequence[str]
) -> "ExpectedLogDensity | NaturalExpectedLogDensity | AnalyticExpectedLogDensity":
    """The fastest class of averages for the rows of a response.

    Args:
        family: the distribution of the response.
        response: the rows.
        predictors: names of the predicted parameters, in order.

    Returns:
        averages in the natural parameter of an exponential family; else by derivatives that are
        written out, for families that have them and fewer than 50,000 rows; else by automatic
        differentiation.
    """
    natural = family.natural(response)
    if natural is not None:
        return NaturalExpectedLogDensity(natural)
    n, density = len(response.value), None
    if n < _COMPILED:
        density = family.row_density(response, predictors)
    if density is None:
        return ExpectedLogDensity(family, response, predictors)
    return AnalyticExpectedLogDensity(density, n, len(predictors))


class ExpectedLogDensity:
    """Averages over the rows of one response, by automatic differentiation in JAX.

    Args:
        family: the distribution of the response.
        response: the rows.
        predictors: names of the predicted parameters, in order.
    """

    def __init__(self, family: Family, response: Any, predictors: Sequence[str]) -> None:
        self.density = ResponseDensity.of(family, predictors)
        with jax.enable_x64(True):
            self.response = jax.tree.map(jnp.asarray, response)

    def of(
        self, numbers: Mapping[str, Any], mean: NDArray, covariance: NDArray
    ) -> tuple[float, NDArray, NDArray]:
        """The sum over rows of E log p, and averages of its derivatives in eta.

        Args:
            numbers: values of the family parameters that all rows share.
            mean: (n, K) means m of the predictors.
            covariance: (n, K, K) covariances C of the predictors.

        Returns:
            the sum, (n, K) averages of the first derivatives, and (n, K, K) averages of minus the
            second derivatives.
        """
        with jax.enable_x64(True):
            found = _averages(*self._at(numbers, mean, covariance))
            total, slope, curvature = (np.asarray(each, np.float64) for each in found)
        return float(total), slope, curvature

    def settle(self, covariance: NDArray) -> None:
        """Does nothing: here the number of nodes is chosen at each call."""

    def at(self, numbers: Mapping[str, Any], eta: NDArray) -> float:
        """The sum over rows of log p at known predictors (n, K)."""
        with jax.enable_x64(True):
            given = {name: jnp.asarray(value, jnp.float64) for name, value in numbers.items()}
            rows = self.density.rows(self.response, given, jnp.asarray(eta, jnp.float64))
            return float(jnp.sum(rows))

    def by_number(
        self, numbers: Mapping[str, Any], mean: NDArray, covariance: NDArray
    ) -> dict[str, NDArray]:
        """Derivatives of the sum of E log p in each shared family parameter, by name."""
        if not numbers:
            return {}
        with jax.enable_x64(True):
            found = _by_number(*self._at(numbers, mean, covariance))
            return {name: np.asarray(value, np.float64) for name, value in found.items()}

    def third(self, numbers: Mapping[str, Any], mean: NDArray, covariance: NDArray) -> NDArray:
        """E of the third derivative in each predictor, (n, K)."""
        with jax.enable_x64(True):
            return np.asarray(_thirds(*self._at(numbers, mean, covariance)), np.float64)

    def integrals(
        self, over: LevelQuadrature, base: NDArray, root: float, numbers: Mapping[str, Any]
    ) -> LevelIntegrals:
        """Log integrals over the effects of levels, by quadrature.

        Args:
            over: levels and quadrature nodes.
            base: (n, K) predictors without the effects.
            root: the sd of the effects.
            numbers: values of the family parameters that all rows share.

        Returns:
            the sum of the log integrals over levels, with its derivatives and the moments of the
            effects.
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

    def _at(
        self, numbers: Mapping[str, Any], mean: NDArray, covariance: NDArray
    ) -> tuple[Any, ...]:
        given = {name: np.asarray(value, np.float64) for name, value in numbers.items()}
        return self.density, self._count(covariance), self.response, given, mean, covariance

    def _count(self, covariance: NDArray) -> int:
        """Nodes per predictor, for predictors with these covariances."""
        k = len(self.density.predictors)
        few = len(covariance) >= _MANY and covariance.max(initial=0.0) < _NEARLY_KNOWN
        return _FEW if few and nodes_of(k) else nodes_of(k)


def _points(count: int, mean: Array, covariance: Array) -> tuple[Array, NDArray]:
    """Quadrature points of the predictors, (m, n, K), and their weights (m,)."""
    points, weights = rule(mean.shape[1], count)
    return mean + jnp.einsum("nkl,ml->mnk", root_of(covariance), points), weights


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _by_number(
    density: ResponseDensity,
    count: int,
    response: Any,
    numbers: Any,
    mean: Array,
    covariance: Array,
) -> dict[str, Array]:
    """Derivatives in the shared family parameters of the sum of E log p."""
    etas, weights = _points(count, mean, covariance)

    def total(numbers: Any) -> Array:
        return jnp.sum(weights @ jax.vmap(lambda eta: density.rows(response, numbers, eta))(etas))

    return jax.grad(total)(numbers)


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _averages(
    density: ResponseDensity,
    count: int,
    response: Any,
    numbers: Any,
    mean: Array,
    covariance: Array,
) -> tuple[Array, Array, Array]:
    """The sum of E log p, and averages of slope (n, K) and of minus the Hessian (n, K, K)."""
    k = mean.shape[1]
    etas, weights = _points(count, mean, covariance)

    def slopes(eta: Array) -> Array:
        return jax.grad(lambda eta: density.rows(response, numbers, eta).sum())(eta)

    def each(eta: Array) -> tuple[Array, Array, Array]:
        slope, along = jax.linearize(slopes, eta)
        # One vectorised product for all directions: a program that grows with their number takes
        # seconds to compile.
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
    density: ResponseDensity,
    count: int,
    response: Any,
    numbers: Any,
    mean: Array,
    covariance: Array,
) -> Array:
    """E of the third derivative in each predictor, (n, K)."""
    etas, weights = _points(count, mean, covariance)

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
    """The sum over levels of the log integral over u, and the mean and variance of u by level."""

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


def root_of(covariance: Array) -> Array:
    """Cholesky factors L (n, K, K) with L L' = covariance, which may be singular.

    Computed column by column like ``expected_log_density_analytic.root_of``, in a loop whose
    program does not grow with K.
    """
    each = jnp.arange(covariance.shape[-1])

    def column(j: Any, carried: tuple[Array, Array]) -> tuple[Array, Array]:
        left, out = carried
        pivot = jnp.sqrt(jnp.maximum(left[:, j, j], 0.0))[:, None]
        known = (each > j) & (pivot > LEAST_PIVOT)
        below = jnp.where(known, left[:, :, j] / jnp.where(pivot > 0, pivot, 1.0), 0.0)
        out = out.at[:, :, j].set(jnp.where(each == j, pivot, below))
        return left - below[:, :, None] * below[:, None, :], out

    return jax.lax.fori_loop(0, len(each), column, (covariance, jnp.zeros_like(covariance)))[1]
