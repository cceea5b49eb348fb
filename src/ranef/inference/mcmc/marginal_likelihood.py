"""Marginal likelihood of a Gaussian mixed model in JAX, for automatic differentiation.

    log p(y | theta) = -1/2 [(n - p0) log(2 pi sigma^2) - log|W| + log|M| - log|sigma^2 P|+
                             + r^2 / sigma^2]

All coefficients are integrated out. W are the weights of the rows, M the matrix of the penalized
normal equations, r^2 the penalized residual sum of squares, P the prior precision of the common
effects (fixed effects), p0 the number of these with a flat prior, and |.|+ the determinant over
those with a normal prior. ``lmm.marginal_posterior`` computes the same in NumPy.

The likelihood depends on the rows through their cross-products alone. The factor with the most
coefficients is eliminated level by level; the Schur complement for the other coefficients is one
dense matrix.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.lmm.model import LinearMixedModel
from ranef.lazy import Array, jnp
from ranef.numerics.jax_cholesky import cholesky, solve_columns
from ranef.numerics.shapes import Float

Scalar = Float[Array, ""]
Root = Float[Array, "_ _"]

# Maximal size of the dense matrices of an evaluation, in numbers.
_MOST = 20_000_000
# Number of columns of a factor from which `numerics.jax_cholesky` factorizes its levels. With fewer
# columns the loops are written out here, with the levels along the last axis.
_WIDE = 12


@dataclass(frozen=True)
class JaxMarginalLikelihood:
    """The log likelihood as a function of the hyperparameters, in JAX.

    Attributes:
        mixed: the model and its cross-products.
        order: indices of the factors, the eliminated one first.
        data: cross-products, where R is the number of coefficients of the other factors, and q the
            number of common columns and the response: "own" (k, k, J) of the eliminated factor;
            "beside" (k, R + q, J) of this factor with all others; "rest" (R + q, R + q) among the
            others; and "penalty" (q, q), the prior of the common effects beta as a quadratic form
            in (beta, -1).
    """

    mixed: LinearMixedModel
    order: tuple[int, ...]
    data: Mapping[str, NDArray[np.float64]]

    @classmethod
    def of(cls, mixed: LinearMixedModel) -> "JaxMarginalLikelihood | None":
        """The likelihood of a model; None if its matrices would be too large."""
        products = mixed.solver.products
        sizes = [j * k for j, k in zip(products.levels, products.widths, strict=True)]
        order = tuple(int(f) for f in np.argsort([-size for size in sizes], kind="stable"))
        q = len(products.common)
        remaining = sum(sizes[f] for f in order[1:]) + q
        if remaining**2 + (sizes[order[0]] * remaining if order else 0) > _MOST:
            return None
        penalty = mixed.solver.penalty(mixed.mean, mixed.precision)
        data = {"rest": _rest(mixed, order[1:]), "penalty": penalty}
        if order:
            first = order[0]
            data["own"] = products.own[first]
            beside = [_met(mixed, first, f) for f in order[1:]]
            data["beside"] = np.concatenate([*beside, products.cross[first]], axis=1)
        return cls(mixed, order, data)

    def log_likelihood(
        self, roots: Sequence[Root], sigma: Scalar, data: Mapping[str, Array | NDArray[np.float64]]
    ) -> Scalar:
        """Log p(y | theta) in nats.

        Args:
            roots: Cholesky factor of the covariance of each factor's effects, in units of
                sigma.
            sigma: residual sd.
            data: the `data` of this object, which may be traced.
        """
        mixed, products = self.mixed, self.mixed.solver.products
        q = len(products.common)
        size = sum(products.levels[f] * products.widths[f] for f in self.order[1:])

        def scaled(a: Array) -> Array:
            """`a` times the roots of the factors that are not eliminated, along its last axis."""
            blocks, start = [], 0
            for f in self.order[1:]:
                j, k = products.levels[f], products.widths[f]
                own = a[..., start : start + j * k].reshape((*a.shape[:-1], j, k))
                blocks.append((own @ roots[f]).reshape((*a.shape[:-1], j * k)))
                start += j * k
            return jnp.concatenate([*blocks, a[..., start:]], axis=-1)

        penalty = jnp.asarray(data["penalty"]) * sigma**2
        left = scaled(scaled(jnp.asarray(data["rest"])).T).T
        left = left + jnp.diag(jnp.r_[jnp.ones(size), jnp.zeros(q)])
        left = left.at[size:, size:].add(penalty)
        log_det = jnp.zeros(())
        if self.order:
            root = roots[self.order[0]]
            own = jnp.einsum("ca,cdj,db->abj", root, data["own"], root)
            own = own + jnp.eye(len(root))[:, :, None]
            beside = jnp.einsum("ca,crj->ajr", root, data["beside"])
            half, log_det = _eliminated(own, scaled(beside))
            left = left - jnp.einsum("ajr,ajs->rs", half, half)
        lower = cholesky(left)
        diagonal = jnp.diagonal(lower)
        log_det = log_det + 2 * jnp.log(diagonal[:-1]).sum()
        normal = mixed.precision > 0
        flat = int((~normal).sum())
        return -0.5 * (
            (mixed.n - flat) * jnp.log(2 * jnp.pi * sigma**2)
            - mixed.log_weights
            + log_det
            - float(np.log(mixed.precision[normal]).sum())
            - 2 * int(normal.sum()) * jnp.log(sigma)
            + diagonal[-1] ** 2 / sigma**2
        )


def _eliminated(
    own: Float[Array, "k k J"], beside: Float[Array, "k J r"]
) -> tuple[Float[Array, "k J r"], Scalar]:
    """L^-1 B with L L' = A for each level, and the sum of log|A| over levels.

    The loops over a few columns are written out, so that each operation runs along all levels. The
    many columns of a basis would take minutes to compile.

    Args:
        own: A.
        beside: B.
    """
    k = len(own)
    if k >= _WIDE:
        root = cholesky(jnp.moveaxis(own, 2, 0))
        half = solve_columns(root, jnp.moveaxis(beside, 1, 0))
        log_det = 2 * jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum()
        return jnp.moveaxis(half, 0, 1), log_det
    lower: dict[tuple[int, int], Array] = {}
    out: list[Array] = []
    for i in range(k):
        for j in range(i):
            inner = sum((lower[i, c] * lower[j, c] for c in range(j)), jnp.zeros(()))
            lower[i, j] = (own[i, j] - inner) / lower[j, j]
        inner = sum((lower[i, c] ** 2 for c in range(i)), jnp.zeros(()))
        lower[i, i] = jnp.sqrt(own[i, i] - inner)
        row = beside[i] - sum((lower[i, c][:, None] * out[c] for c in range(i)), jnp.zeros(()))
        out.append(row / lower[i, i][:, None])
    log_det = 2 * sum((jnp.log(lower[i, i]).sum() for i in range(k)), jnp.zeros(()))
    return jnp.stack(out), log_det


def _met(mixed: LinearMixedModel, f: int, h: int) -> Float[NDArray, "k_f _ J_f"]:
    """Cross-products Z_f' Z_h of two factors; the levels of f are last."""
    products = mixed.solver.products
    pairs = products.pairs[min(f, h), max(f, h)]
    values, left, right = pairs.values, pairs.left, pairs.right
    if f > h:
        values, left, right = values.transpose(1, 0, 2), right, left
    out = np.zeros((products.widths[f], products.levels[h], products.widths[h], products.levels[f]))
    out[:, right, :, left] = values.transpose(2, 0, 1)
    return out.reshape(products.widths[f], -1, products.levels[f])


def _rest(mixed: LinearMixedModel, factors: Sequence[int]) -> Float[NDArray, "r r"]:
    """Cross-products among the columns of some factors, the common columns and the response."""
    products = mixed.solver.products
    starts = np.cumsum([0, *(products.levels[f] * products.widths[f] for f in factors)])
    size, q = int(starts[-1]), len(products.common)
    out = np.zeros((size + q, size + q))
    out[size:, size:] = products.common
    for a, f in enumerate(factors):
        j, k = products.levels[f], products.widths[f]
        place = np.arange(starts[a], starts[a + 1]).reshape(j, k)
        out[place[:, :, None], place[:, None, :]] = products.own[f].transpose(2, 0, 1)
        cross = products.cross[f].transpose(2, 0, 1).reshape(j * k, q)
        out[starts[a] : starts[a + 1], size:] = cross
        out[size:, starts[a] : starts[a + 1]] = cross.T
        for b in range(a):
            met = _met(mixed, f, factors[b])
            met = met.transpose(2, 0, 1).reshape(j * k, -1)
            out[starts[a] : starts[a + 1], starts[b] : starts[b + 1]] = met
            out[starts[b] : starts[b + 1], starts[a] : starts[a + 1]] = met.T
    return out
