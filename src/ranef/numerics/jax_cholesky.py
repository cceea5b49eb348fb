"""Batched Cholesky factorization and triangular solves in JAX.

Small matrices are factorized by columns in unrolled code, which compiles to one loop over the
matrices. For k from one to three, as in most models, calling LAPACK for each matrix takes several
times as long.

LAPACK is not used for larger matrices either, because it can deadlock: JAX distributes triangular
solves over the threads of its pool and waits for them in a thread of the same pool. If as many
programs do this at once as the pool has threads, which are two on a machine with two cores, none
can proceed. Loops over the columns take its place. Their derivatives are defined explicitly
(Murray, 2016), so that reverse mode does not store every step of a loop. Matrices with many columns
are split into halves recursively, so that most of the work is in matrix products.
"""

from collections.abc import Callable

from ranef.lazy import Array, jax, jnp, lazily
from ranef.numerics.shapes import Float

# Largest number of columns for unrolled code; with more it would take long to compile.
_MOST = 6
# Largest number of columns for loops; larger matrices are split into halves.
_MOST_IN_LOOPS = 64


def cholesky(matrix: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    """Lower triangular L with L L' = A, for symmetric positive definite A."""
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


def solve(
    root: Float[Array, "*#batch k k"], right: Float[Array, "*#batch k"], *, transposed: bool = False
) -> Float[Array, "*batch k"]:
    """L^-1 a for vectors a, or L'^-1 a if `transposed`."""
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
            # With both axes reversed, L' is lower triangular.
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


def solve_columns(
    root: Float[Array, "*#batch k k"], right: Float[Array, "*#batch k m"]
) -> Float[Array, "*batch k m"]:
    """L^-1 A for matrices A."""
    k = root.shape[-1]
    if k > _MOST_IN_LOOPS:
        h = k // 2
        first = solve_columns(root[..., :h, :h], right[..., :h, :])
        rest = right[..., h:, :] - root[..., h:, :h] @ first
        return jnp.concatenate([first, solve_columns(root[..., h:, h:], rest)], axis=-2)
    found = solve(root[..., None, :, :], jnp.swapaxes(right, -1, -2))
    return jnp.swapaxes(found, -1, -2)


def product(
    matrix: Float[Array, "*#batch m k"], right: Float[Array, "*#batch k"]
) -> Float[Array, "*batch m"]:
    """A a for matrices A and vectors a."""
    return jnp.sum(matrix * right[..., None, :], axis=-1)


def square(root: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    """L L' for lower triangular L."""
    return jnp.sum(root[..., :, None, :] * root[..., None, :, :], axis=-1)


def _by_halves(matrix: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    """Lower triangular L with L L' = A: first half of the columns, then its Schur complement."""
    h = matrix.shape[-1] // 2
    first = cholesky(matrix[..., :h, :h])
    turned = solve_columns(first, jnp.swapaxes(matrix[..., h:, :h], -1, -2))
    below = jnp.swapaxes(turned, -1, -2)
    last = cholesky(matrix[..., h:, h:] - below @ turned)
    top = jnp.concatenate([first, jnp.zeros_like(turned)], axis=-1)
    return jnp.concatenate([top, jnp.concatenate([below, last], axis=-1)], axis=-2)


def _differentiable(
    function: Callable[..., Array], differential: Callable[..., tuple[Array, Array]]
) -> Callable[..., Array]:
    out = jax.custom_jvp(function)
    out.defjvp(differential)
    return out


@lazily(lambda f: _differentiable(f, _factor_jvp))
def _factor(matrix: Float[Array, "*batch k k"]) -> Float[Array, "*batch k k"]:
    """Lower triangular L with L L' = A, by a loop over the columns."""
    places = jnp.arange(matrix.shape[-1])

    def column(root: Array, j: Array) -> tuple[Array, None]:
        rest = matrix[..., j] - product(root, root[..., j, :])
        below = jnp.where(places >= j, rest / jnp.sqrt(rest[..., j, None]), 0.0)
        return root.at[..., j].set(below), None

    return jax.lax.scan(column, jnp.zeros_like(matrix), places)[0]


def _factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The differential dL = L P(L^-1 dA L'^-1), where P takes the lower triangle, its diagonal
    halved."""
    (matrix,), (moved,) = primals, tangents
    root = _factor(matrix)
    half = _substitute(root[..., None, :, :], jnp.swapaxes(moved, -1, -2))
    inner = _substitute(root[..., None, :, :], jnp.swapaxes(half, -1, -2))
    lower = jnp.tril(inner) - 0.5 * inner * jnp.eye(matrix.shape[-1])
    return root, root @ lower


@lazily(lambda f: _differentiable(f, _substitute_jvp))
def _substitute(
    root: Float[Array, "*#batch k k"], right: Float[Array, "*#batch k"]
) -> Float[Array, "*batch k"]:
    """L^-1 a for vectors a, by a loop over the rows."""
    return _rows(root, right)


def _substitute_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The differential dx = L^-1 (da - dL x) of x = L^-1 a."""
    (root, right), (root_moved, right_moved) = primals, tangents
    found = _substitute(root, right)
    return found, _rows(root, right_moved - product(root_moved, found))


def _rows(
    root: Float[Array, "*#batch k k"], right: Float[Array, "*#batch k"]
) -> Float[Array, "*batch k"]:
    """L^-1 a by a loop that is linear in a, so that JAX can transpose it."""
    shape = jnp.broadcast_shapes(root.shape[:-1], right.shape)

    def row(found: Array, i: Array) -> tuple[Array, None]:
        rest = right[..., i] - jnp.sum(root[..., i, :] * found, axis=-1)
        return found.at[..., i].set(rest / root[..., i, i]), None

    empty = jnp.zeros(shape, jnp.result_type(root, right))
    return jax.lax.scan(row, empty, jnp.arange(shape[-1]))[0]
