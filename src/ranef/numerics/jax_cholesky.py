"""Cholesky factors of many matrices, (..., k, k), and what is solved with them.

Written out by columns, which compiles to one loop over the matrices. LAPACK, called for each of
them, takes several times as long where k is one to three, as it is in most models.

Nor is LAPACK called for larger ones: JAX shares what is solved with triangles out among the threads
of its pool, and waits for these in a thread of the pool. Programs that do so as often at once as
there are threads, which on a machine of two cores is twice, wait for ever. Loops over the columns
take its place, whose derivatives are given (Murray, 2016), so that no step of a loop is kept; of
many columns each half in turn, so that most of the work is in products of matrices.
"""

from collections.abc import Callable
from typing import Any

from ranef.lazy import Array, jax, jnp, lazily

# Columns above which writing them out would take long to compile.
_MOST = 6
# Columns above which halves are taken in turn.
_MOST_IN_LOOPS = 64


def cholesky(matrix: Array) -> Array:
    """Lower L with L L' = A."""
    k = matrix.shape[-1]
    if k > _MOST_IN_LOOPS:
        return _by_halves(matrix)
    if k > _MOST:
        return _factor(matrix)
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
    if k > _MOST_IN_LOOPS:
        h = k // 2
        one, other, between = root[..., :h, :h], root[..., h:, h:], root[..., h:, :h]
        if transposed:
            last = solve(other, right[..., h:], transposed=True)
            rest = right[..., :h] - product(jnp.swapaxes(between, -1, -2), last)
            return jnp.concatenate([solve(one, rest, transposed=True), last], axis=-1)
        first = solve(one, right[..., :h])
        return jnp.concatenate(
            [first, solve(other, right[..., h:] - product(between, first))], axis=-1
        )
    if k > _MOST:
        if transposed:
            # L' with both of its axes reversed is lower triangular.
            turned = jnp.swapaxes(root, -1, -2)[..., ::-1, ::-1]
            return _substitute(turned, right[..., ::-1])[..., ::-1]
        return _substitute(root, right)
    found: dict[int, Array] = {}
    for i in reversed(range(k)) if transposed else range(k):
        rest = right[..., i]
        for j, value in found.items():
            rest = rest - (root[..., j, i] if transposed else root[..., i, j]) * value
        found[i] = rest / root[..., i, i]
    return jnp.stack([found[i] for i in range(k)], axis=-1)


def solve_columns(root: Array, right: Array) -> Array:
    """L^-1 A for matrices A, (..., k, m)."""
    k = root.shape[-1]
    if k > _MOST_IN_LOOPS:
        h = k // 2
        first = solve_columns(root[..., :h, :h], right[..., :h, :])
        rest = right[..., h:, :] - root[..., h:, :h] @ first
        return jnp.concatenate([first, solve_columns(root[..., h:, h:], rest)], axis=-2)
    found = solve(root[..., None, :, :], jnp.swapaxes(right, -1, -2))
    return jnp.swapaxes(found, -1, -2)


def product(matrix: Array, right: Array) -> Array:
    """A a for each of the vectors a, (..., k)."""
    return jnp.sum(matrix * right[..., None, :], axis=-1)


def square(root: Array) -> Array:
    """L L'."""
    return jnp.sum(root[..., :, None, :] * root[..., None, :, :], axis=-1)


def _by_halves(matrix: Array) -> Array:
    """Lower L with L L' = A: of the first half of the columns, then of what they leave."""
    h = matrix.shape[-1] // 2
    first = cholesky(matrix[..., :h, :h])
    turned = solve_columns(first, jnp.swapaxes(matrix[..., h:, :h], -1, -2))
    below = jnp.swapaxes(turned, -1, -2)
    last = cholesky(matrix[..., h:, h:] - below @ turned)
    top = jnp.concatenate([first, jnp.zeros_like(turned)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([below, last], axis=-1)], axis=-2)


def _differentiable(function: Callable[..., Array], differential: Callable[..., Any]) -> Any:
    out = jax.custom_jvp(function)
    out.defjvp(differential)
    return out


@lazily(lambda f: _differentiable(f, _factor_jvp))
def _factor(matrix: Array) -> Array:
    """Lower L with L L' = A, column by column."""
    places = jnp.arange(matrix.shape[-1])

    def column(root: Array, j: Array) -> tuple[Array, None]:
        rest = matrix[..., j] - product(root, root[..., j, :])
        below = jnp.where(places >= j, rest / jnp.sqrt(rest[..., j, None]), 0.0)
        return root.at[..., j].set(below), None

    return jax.lax.scan(column, jnp.zeros_like(matrix), places)[0]


def _factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Its differential dL = L P(L^-1 dA L'^-1), P the lower triangle with half of its diagonal."""
    (matrix,), (moved,) = primals, tangents
    root = _factor(matrix)
    half = _substitute(root[..., None, :, :], jnp.swapaxes(moved, -1, -2))
    inner = _substitute(root[..., None, :, :], jnp.swapaxes(half, -1, -2))
    lower = jnp.tril(inner) - 0.5 * inner * jnp.eye(matrix.shape[-1])
    return root, root @ lower


@lazily(lambda f: _differentiable(f, _substitute_jvp))
def _substitute(root: Array, right: Array) -> Array:
    """L^-1 a for each of the vectors a, (..., k), row by row."""
    return _rows(root, right)


def _substitute_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Its differential dx = L^-1 (da - dL x)."""
    (root, right), (root_moved, right_moved) = primals, tangents
    found = _substitute(root, right)
    return found, _rows(root, right_moved - product(root_moved, found))


def _rows(root: Array, right: Array) -> Array:
    """L^-1 a, linear in a: a loop that JAX transposes."""
    shape = jnp.broadcast_shapes(root.shape[:-1], right.shape)

    def row(found: Array, i: Array) -> tuple[Array, None]:
        rest = right[..., i] - jnp.sum(root[..., i, :] * found, axis=-1)
        return found.at[..., i].set(rest / root[..., i, i]), None

    empty = jnp.zeros(shape, jnp.result_type(root, right))
    return jax.lax.scan(row, empty, jnp.arange(shape[-1]))[0]
