"""Cholesky factors of many small matrices, (..., k, k), and what is solved with them.

Written out by columns, which compiles to one loop over the matrices. LAPACK, called for each of
them, takes several times as long where k is one to three, as it is in most models.
"""

import jax
import jax.numpy as jnp
from jax import Array

# Columns above which writing them out would take long to compile.
_MOST = 6


def cholesky(matrix: Array) -> Array:
    """Lower L with L L' = A."""
    k = matrix.shape[-1]
    if k > _MOST:
        return jnp.linalg.cholesky(matrix)
    columns: list[Array] = []
    for j in range(k):
        rest = matrix[..., j:, j]
        for column in columns:
            rest = rest - column[..., j, None] * column[..., j:]
        below = rest / jnp.sqrt(rest[..., :1])
        columns.append(jnp.pad(below, [(0, 0)] * (below.ndim - 1) + [(j, 0)]))
    return jnp.stack(columns, axis=-1)


def solve(root: Array, right: Array, *, transposed: bool = False) -> Array:
    """L^-1 a, or L'^-1 a, for each of the vectors a, (..., k)."""
    k = root.shape[-1]
    if k > _MOST:
        known = jax.scipy.linalg.solve_triangular
        return known(root, right[..., None], lower=True, trans=int(transposed))[..., 0]
    found: dict[int, Array] = {}
    for i in reversed(range(k)) if transposed else range(k):
        rest = right[..., i]
        for j, value in found.items():
            rest = rest - (root[..., j, i] if transposed else root[..., i, j]) * value
        found[i] = rest / root[..., i, i]
    return jnp.stack([found[i] for i in range(k)], axis=-1)


def product(matrix: Array, right: Array) -> Array:
    """A a for each of the vectors a, (..., k)."""
    return jnp.sum(matrix * right[..., None, :], axis=-1)


def square(root: Array) -> Array:
    """L L'."""
    return jnp.sum(root[..., :, None, :] * root[..., None, :, :], axis=-1)
