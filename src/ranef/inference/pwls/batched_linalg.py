"""Linear algebra of many small dense matrices, vectorised over the levels of a factor.

The matrices of all levels are one array with the axes "rows columns B levels", for B values of the
hyperparameters. Python loops run over the few rows and columns, and each operation
is vectorised over B and J. For small matrices this is about ten times as fast as one LAPACK call
for each. From `_WIDE` rows on, as bases of smooth terms have them, LAPACK is faster and is used.
"""

import contextlib

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]

# Number of rows from which LAPACK is used instead of loops over rows and columns.
_WIDE = 12


def cholesky(a: Float[Array, "k k B levels"]) -> Float[Array, "k k B levels"]:
    """Cholesky factor L with L L' = A; nan where A is not positive definite."""
    k = len(a)
    if k >= _WIDE:
        return _lapack_cholesky(a)
    out = np.zeros_like(a)
    with np.errstate(invalid="ignore", divide="ignore"):
        for i in range(k):
            for j in range(i + 1):
                rest = a[i, j] - sum(out[i, c] * out[j, c] for c in range(j))
                out[i, j] = np.sqrt(rest) if i == j else rest / out[j, j]
    return out


def forward(
    lower: Float[Array, "k k #B levels"], b: Float[Array, "k m B levels"]
) -> Float[Array, "k m B levels"]:
    """L^-1 b."""
    if len(lower) >= _WIDE:
        return _by_columns(np.linalg.solve(_by_level(lower), _by_level(b)))
    out = np.empty_like(b)
    for i in range(len(lower)):
        rest = b[i] - sum(lower[i, c] * out[c] for c in range(i)) if i else b[i]
        out[i] = rest / lower[i, i]
    return out


def backward(
    lower: Float[Array, "k k #B levels"], b: Float[Array, "k m B levels"]
) -> Float[Array, "k m B levels"]:
    """L'^-1 b."""
    k = len(lower)
    if k >= _WIDE:
        upper = np.swapaxes(_by_level(lower), -1, -2)
        return _by_columns(np.linalg.solve(upper, _by_level(b)))
    out = np.empty_like(b)
    for i in reversed(range(k)):
        rest = b[i] - sum(lower[c, i] * out[c] for c in range(i + 1, k)) if i < k - 1 else b[i]
        out[i] = rest / lower[i, i]
    return out


def times(
    a: Float[Array, "k l #B #levels"], b: Float[Array, "l m #B levels"]
) -> Float[Array, "k m B levels"]:
    """A b."""
    if a.shape[2:] == (1, 1) and b.shape[2] == 1:
        flat = a[..., 0, 0] @ b.reshape(len(b), -1)
        return flat.reshape(len(a), *b.shape[1:])
    if len(b) >= _WIDE:
        return _by_columns(_by_level(a) @ _by_level(b))
    return np.stack([sum(a[i, c] * b[c] for c in range(len(b))) for i in range(len(a))])


def transposed(a: Float[Array, "k m B levels"]) -> Float[Array, "m k B levels"]:
    """A' of every level."""
    return np.swapaxes(a, 0, 1)


def gram(a: Float[Array, "k l B levels"], b: Float[Array, "k m B levels"]) -> Float[Array, "B l m"]:
    """Sum over levels of A' B."""
    return np.matmul(_flat(a), np.swapaxes(_flat(b), 1, 2))


def _flat(a: Float[Array, "k m B levels"]) -> Float[Array, "B m k*levels"]:
    """The rows of all levels side by side."""
    k, m, batch, levels = a.shape
    return np.ascontiguousarray(a.transpose(2, 1, 0, 3)).reshape(batch, m, k * levels)


def per_level(
    a: Float[Array, "k l B levels"], b: Float[Array, "k m B levels"]
) -> Float[Array, "l m B levels"]:
    """A' B of every level."""
    if len(a) >= _WIDE:
        return _by_columns(np.swapaxes(_by_level(a), -1, -2) @ _by_level(b))
    return np.stack(
        [np.stack([sum(a[c, i] * b[c, j] for c in range(len(a))) for j in range(b.shape[1])])
         for i in range(a.shape[1])]
    )  # fmt: skip


def combine(
    a: Float[Array, "k m #draws levels"], weights: Float[Array, "draws m"]
) -> Float[Array, "k draws levels"]:
    """A w of every level, for each row w of the weights."""
    if a.shape[2] == 1:
        k, m, _, levels = a.shape
        return np.matmul(weights, a.reshape(k, m, levels))
    return np.einsum("kmbj,bm->kbj", a, weights)


def quadratic(
    a: Float[Array, "k m B levels"], middle: Float[Array, "B m m"]
) -> Float[Array, "k k B levels"]:
    """A M A' of every level, for a symmetric M, `middle`."""
    k, m, batch, levels = a.shape
    if k >= _WIDE:
        rows = _by_level(a)
        return _by_columns(rows @ middle[:, None] @ np.swapaxes(rows, -1, -2))
    rows = a.transpose(0, 2, 1, 3)
    inner = np.matmul(middle, rows)
    out = np.empty((k, k, batch, levels))
    for i in range(k):
        for j in range(i + 1):
            out[i, j] = np.einsum("bmj,bmj->bj", inner[i], rows[j])
            out[j, i] = out[i, j]
    return out


def segments(
    values: Float[Array, "*batch levels"], starts: Int[NDArray[np.int64], "parents"]
) -> Float[Array, "*batch parents"]:
    """Sums over the children of each parent, which are adjacent and begin at `starts`."""
    return np.add.reduceat(values, starts, axis=-1)


def _by_level(a: Float[Array, "k m B levels"]) -> Float[Array, "B levels k m"]:
    """The same matrices, in the order of axes for LAPACK."""
    return np.ascontiguousarray(np.moveaxis(a, (2, 3), (0, 1)))


def _by_columns(
    a: Float[NDArray[np.floating], "B levels k m"],
) -> Float[Array, "k m B levels"]:
    """The inverse of `_by_level`."""
    return np.ascontiguousarray(np.moveaxis(a, (0, 1), (2, 3)), dtype=np.float64)


def _lapack_cholesky(a: Float[Array, "k k B levels"]) -> Float[Array, "k k B levels"]:
    """As `cholesky`, by LAPACK; matrix by matrix if any is not positive definite."""
    each = _by_level(a)
    try:
        return _by_columns(np.linalg.cholesky(each))
    except np.linalg.LinAlgError:
        out = np.full_like(each, np.nan)
        for at in np.ndindex(each.shape[:2]):
            with contextlib.suppress(np.linalg.LinAlgError):
                out[at] = np.linalg.cholesky(each[at])
        return _by_columns(out)
