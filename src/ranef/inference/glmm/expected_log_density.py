"""A log density and its derivatives, averaged over a normal distribution of the linear predictors.

    E log p(y_i | eta_i),   E d log p / d eta,   E d2 log p / d eta2      eta_i ~ N(m_i, C_i)

Averages are by quadrature: Gauss-Hermite for one or two predictors, and a rule of degree three
(Stroud, 1971) for more. Derivatives are by automatic differentiation of the family's log density.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.families.base import Family
from ranef.families.response_design import ResponseDesign
from ranef.inference.glmm.arrays import Blocks, FamilyValues, Predictors
from ranef.inference.glmm.expected_log_density_analytic import (
    LEAST_PIVOT,
    AnalyticExpectedLogDensity,
)
from ranef.inference.glmm.expected_log_density_natural import NaturalExpectedLogDensity
from ranef.inference.glmm.level_quadrature import LevelIntegrals, LevelQuadrature
from ranef.lazy import Array, jax, jnp, lazily
from ranef.numerics.gauss_hermite import nodes_of, rule
from ranef.numerics.shapes import Float, Int

JaxPerRow = Float[Array, "n"]
JaxPredictors = Float[Array, "n K"]
JaxBlocks = Float[Array, "n K K"]
# Values of the family parameters that all rows share, by name.
JaxFamilyValues = Mapping[str, Array]

# Nodes per predictor where all predictors have small variances.
_FEW = 3
# Sum over rows of the cubed variances of predictors up to which `_FEW` nodes suffice. Their error
# in nats is about a third of this sum where the sd of a Gaussian response is predicted, and less
# for other families.
_NEARLY_KNOWN = 0.03
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

    def rows(
        self, response: ResponseDesign, numbers: JaxFamilyValues, eta: JaxPredictors
    ) -> JaxPerRow:
        """Log p of each row at predictors eta and shared family parameters."""
        each = {name: eta[:, k] for k, name in enumerate(self.predictors)}
        return self.family.log_density(response, **each, **self.family.on_link_scale(**numbers))


def expected_log_density_of(
    family: Family, response: ResponseDesign, predictors: Sequence[str]
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

    def __init__(self, family: Family, response: ResponseDesign, predictors: Sequence[str]) -> None:
        self.density = ResponseDensity.of(family, predictors)
        with jax.enable_x64(True):
            self.response: ResponseDesign = jax.tree.map(jnp.asarray, response)
        self._count = nodes_of(len(predictors))

    def of(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> tuple[float, Predictors, Blocks]:
        """The sum over rows of E log p, and averages of its derivatives in eta.

        Args:
            numbers: values of the family parameters that all rows share.
            mean: means m of the predictors.
            covariance: covariances C of the predictors.

        Returns:
            the sum, averages of the first derivatives, and averages of minus the second
            derivatives.
        """
        with jax.enable_x64(True):
            found = _averages(*self._arguments(numbers, mean, covariance))
            total, slope, curvature = (np.asarray(each, np.float64) for each in found)
        return float(total), slope, curvature

    def settle(self, covariance: Blocks) -> None:
        """Chooses the number of nodes, which is smaller for many rows with small variances.

        The number stays until the next call, so that the averages do not jump where variances
        change.
        """
        k = len(self.density.predictors)
        cubes = float((np.einsum("nkk->nk", covariance) ** 3).sum())
        few = len(covariance) >= _MANY and cubes < _NEARLY_KNOWN
        self._count = _FEW if few and nodes_of(k) else nodes_of(k)

    def at(self, numbers: FamilyValues, eta: Predictors) -> float:
        """The sum over rows of log p at known predictors."""
        with jax.enable_x64(True):
            values = _as_jax(numbers)
            rows = self.density.rows(self.response, values, jnp.asarray(eta, jnp.float64))
            return float(jnp.sum(rows))

    def by_number(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> dict[str, NDArray[np.float64]]:
        """Derivatives of the sum of E log p in each shared family parameter, by name."""
        if not numbers:
            return {}
        with jax.enable_x64(True):
            found = _by_number(*self._arguments(numbers, mean, covariance))
            return {name: np.asarray(value, np.float64) for name, value in found.items()}

    def third(self, numbers: FamilyValues, mean: Predictors, covariance: Blocks) -> Predictors:
        """E of the third derivative in each predictor."""
        with jax.enable_x64(True):
            return np.asarray(_thirds(*self._arguments(numbers, mean, covariance)), np.float64)

    def integrals(
        self, over: LevelQuadrature, base: Predictors, root: float, numbers: FamilyValues
    ) -> LevelIntegrals:
        """Log integrals over the effects of levels, by quadrature.

        Args:
            over: levels and quadrature nodes.
            base: predictors without the effects.
            root: the sd of the effects.
            numbers: values of the family parameters that all rows share.

        Returns:
            the sum of the log integrals over levels, with its derivatives and the moments of the
            effects.
        """
        with jax.enable_x64(True):
            values = _as_jax(numbers)
            nodes = (jnp.asarray(a) for a in (over.codes, over.column, over.u, over.log_weights))
            (value, moments), (slope, by_number) = _log_marginal_and_slopes(
                *(self.density, over.place, jnp.asarray(base), values),
                *(self.response, jnp.asarray(root, jnp.float64), *nodes),
            )
            mean, variance, slopes = (np.asarray(m, np.float64) for m in (*moments, slope))
            found = {name: np.asarray(each, np.float64) for name, each in by_number.items()}
            return LevelIntegrals(float(value), mean, variance, slopes, found)

    def _arguments(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> tuple[ResponseDensity, int, ResponseDesign, JaxFamilyValues, JaxPredictors, JaxBlocks]:
        """The arguments of the compiled averages."""
        at = _as_jax(numbers), jnp.asarray(mean), jnp.asarray(covariance)
        return self.density, self._count, self.response, *at


def _as_jax(numbers: FamilyValues) -> JaxFamilyValues:
    return {name: jnp.asarray(value, jnp.float64) for name, value in numbers.items()}


def _points(
    count: int, mean: JaxPredictors, covariance: JaxBlocks
) -> tuple[Float[Array, "m n K"], Float[NDArray[np.float64], "m"]]:
    """Quadrature points of the predictors, and their weights."""
    points, weights = rule(mean.shape[1], count)
    return mean + jnp.einsum("nkl,ml->mnk", root_of(covariance), points), weights


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _by_number(
    density: ResponseDensity,
    count: int,
    response: ResponseDesign,
    numbers: JaxFamilyValues,
    mean: JaxPredictors,
    covariance: JaxBlocks,
) -> dict[str, Array]:
    """Derivatives in the shared family parameters of the sum of E log p."""
    etas, weights = _points(count, mean, covariance)

    def total(numbers: JaxFamilyValues) -> Float[Array, ""]:
        return jnp.sum(weights @ jax.vmap(lambda eta: density.rows(response, numbers, eta))(etas))

    return jax.grad(total)(numbers)


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _averages(
    density: ResponseDensity,
    count: int,
    response: ResponseDesign,
    numbers: JaxFamilyValues,
    mean: JaxPredictors,
    covariance: JaxBlocks,
) -> tuple[Float[Array, ""], JaxPredictors, JaxBlocks]:
    """The sum of E log p, and averages of the slope and of minus the Hessian."""
    k = mean.shape[1]
    etas, weights = _points(count, mean, covariance)

    def slopes(eta: JaxPredictors) -> JaxPredictors:
        return jax.grad(lambda eta: density.rows(response, numbers, eta).sum())(eta)

    def each(eta: JaxPredictors) -> tuple[JaxPerRow, JaxPredictors, JaxBlocks]:
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
    response: ResponseDesign,
    numbers: JaxFamilyValues,
    mean: JaxPredictors,
    covariance: JaxBlocks,
) -> JaxPredictors:
    """E of the third derivative in each predictor."""
    etas, weights = _points(count, mean, covariance)

    def each(eta: JaxPredictors) -> JaxPredictors:
        out = []
        for c in range(mean.shape[1]):

            def alone(along: JaxPerRow, c: int = c) -> Float[Array, ""]:
                return density.rows(response, numbers, eta.at[:, c].add(along)).sum()

            ones = jnp.ones_like(eta[:, 0])
            slope = jax.grad(alone)

            def bend(
                along: JaxPerRow,
                slope: Callable[[JaxPerRow], JaxPerRow] = slope,
                ones: JaxPerRow = ones,
            ) -> JaxPerRow:
                return jax.jvp(slope, (along,), (ones,))[1]

            out.append(jax.jvp(bend, (jnp.zeros_like(ones),), (ones,))[1])
        return jnp.stack(out, axis=-1)

    return jnp.einsum("m,mnk->nk", weights, jax.vmap(each)(etas))


def _log_marginal(
    density: ResponseDensity,
    place: int,
    base: JaxPredictors,
    numbers: JaxFamilyValues,
    response: ResponseDesign,
    root: Float[Array, ""],
    codes: Int[Array, "n"],
    column: JaxPerRow,
    u: Float[Array, "count J"],
    log_weights: Float[Array, "count J"],
) -> tuple[Float[Array, ""], tuple[Float[Array, "J"], Float[Array, "J"]]]:
    """The sum over levels of the log integral over u, and the mean and variance of u by level."""

    def level(u: Float[Array, "J"]) -> Float[Array, "J"]:
        eta = base.at[:, place].add(root * column * u[codes])
        rows = density.rows(response, numbers, eta)
        return jax.ops.segment_sum(rows, codes, num_segments=len(u)) - 0.5 * u**2

    each = jax.vmap(level)(u) + log_weights
    total = jax.scipy.special.logsumexp(each, axis=0)
    share = jnp.exp(each - total)
    mean = (share * u).sum(axis=0)
    variance = (share * (u - mean) ** 2).sum(axis=0)
    return jnp.sum(total), (mean, variance)


@lazily(lambda f: jax.jit(f, static_argnums=(0, 1)))
def _log_marginal_and_slopes(
    density: ResponseDensity,
    place: int,
    base: JaxPredictors,
    numbers: JaxFamilyValues,
    response: ResponseDesign,
    root: Float[Array, ""],
    codes: Int[Array, "n"],
    column: JaxPerRow,
    u: Float[Array, "count J"],
    log_weights: Float[Array, "count J"],
) -> tuple[
    tuple[Float[Array, ""], tuple[Float[Array, "J"], Float[Array, "J"]]],
    tuple[JaxPredictors, JaxFamilyValues],
]:
    """`_log_marginal`, and the derivatives of the sum in `base` and in `numbers`."""
    found = jax.value_and_grad(_log_marginal, argnums=(2, 3), has_aux=True)
    return found(density, place, base, numbers, response, root, codes, column, u, log_weights)


def root_of(covariance: JaxBlocks) -> JaxBlocks:
    """Cholesky factors L with L L' = covariance, which may be singular.

    Computed column by column like ``expected_log_density_analytic.root_of``, in a loop whose
    program does not grow with K.
    """
    each = jnp.arange(covariance.shape[-1])

    def column(
        j: Int[Array, ""], state: tuple[JaxBlocks, JaxBlocks]
    ) -> tuple[JaxBlocks, JaxBlocks]:
        left, out = state
        pivot = jnp.sqrt(jnp.maximum(left[:, j, j], 0.0))[:, None]
        known = (each > j) & (pivot > LEAST_PIVOT)
        below = jnp.where(known, left[:, :, j] / jnp.where(pivot > 0, pivot, 1.0), 0.0)
        out = out.at[:, :, j].set(jnp.where(each == j, pivot, below))
        return left - below[:, :, None] * below[:, None, :], out

    return jax.lax.fori_loop(0, len(each), column, (covariance, jnp.zeros_like(covariance)))[1]
