"""Linear algebra of many small dense matrices, vectorised over the levels of a factor.

The matrices of all levels are one array (rows, columns, B, J), for B values of the
hyperparameters and J levels. Python loops run over the few rows and columns, and each operation
is vectorised over B and J. For small matrices this is about ten times as fast as one LAPACK call
for each. From `_WIDE` rows on, as bases of smooth terms have them, LAPACK is faster and is used.
"""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Number of rows from which LAPACK is used instead of loops over rows and columns.
_WIDE = 12


def cholesky(a: Array) -> Array:
    """Cholesky factor L with L L' = A, (k, k, B, J); nan where A is not positive definite."""
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


def forward(lower: Array, b: Array) -> Array:
    """L^-1 b, for b (k, m, B, J)."""
    if len(lower) >= _WIDE:
        return _by_columns(np.linalg.solve(_by_level(lower), _by_level(b)))
    out = np.empty_like(b)
    for i in range(len(lower)):
        rest = b[i] - sum(lower[i, c] * out[c] for c in range(i)) if i else b[i]
        out[i] = rest / lower[i, i]
    return out


def backward(lower: Array, b: Array) -> Array:
    """L'^-1 b, for b (k, m, B, J)."""
    k = len(lower)
    if k >= _WIDE:
        upper = np.swapaxes(_by_level(lower), -1, -2)
        return _by_columns(np.linalg.solve(upper, _by_level(b)))
    out = np.empty_like(b)
    for i in reversed(range(k)):
        rest = b[i] - sum(lower[c, i] * out[c] for c in range(i + 1, k)) if i < k - 1 else b[i]
        out[i] = rest / lower[i, i]
    return out


def times(a: Array, b: Array) -> Array:
    """A b, for a (k, l, B, J or 1) and b (l, m, B or 1, J)."""
    if a.shape[2:] == (1, 1) and b.shape[2] == 1:
        flat = a[..., 0, 0] @ b.reshape(len(b), -1)
        return flat.reshape(len(a), *b.shape[1:])
    if len(b) >= _WIDE:
        return _by_columns(_by_level(a) @ _by_level(b))
    return np.stack([sum(a[i, c] * b[c] for c in range(len(b))) for i in range(len(a))])


def transposed(a: Array) -> Array:
    """A' of every level."""
    return np.swapaxes(a, 0, 1)


def gram(a: Array, b: Array) -> Array:
    """Sum over levels of A' B, (B, m, m'), for a (k, m, B, J) and b (k, m', B, J)."""
    return np.matmul(_flat(a), np.swapaxes(_flat(b), 1, 2))


def _flat(a: Array) -> Array:
    """(B, m, k J) from (k, m, B, J)."""
    k, m, batch, levels = a.shape
    return np.ascontiguousarray(a.transpose(2, 1, 0, 3)).reshape(batch, m, k * levels)


def per_level(a: Array, b: Array) -> Array:
    """A' B of every level, (m, m', B, J), for a (k, m, B, J) and b (k, m', B, J)."""
    if len(a) >= _WIDE:
        return _by_columns(np.swapaxes(_by_level(a), -1, -2) @ _by_level(b))
    return np.stack(
        [np.stack([sum(a[c, i] * b[c, j] for c in range(len(a))) for j in range(b.shape[1])])
         for i in range(a.shape[1])]
    )  # fmt: skip


def combine(a: Array, weights: Array) -> Array:
    """A w of every level, (k, M, J), for a (k, m, B, J) and weights w (M, m), B being 1 or M."""
    if a.shape[2] == 1:
        k, m, _, levels = a.shape
        return np.matmul(weights, a.reshape(k, m, levels))
    return np.einsum("kmbj,bm->kbj", a, weights)


def quadratic(a: Array, middle: Array) -> Array:
    """A M A' of every level, (k, k, B, J), for a (k, m, B, J) and symmetric `middle` (B, m, m)."""
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


def segments(values: Array, starts: NDArray[np.int64]) -> Array:
    """Sums over the children of each parent, which are adjacent and begin at `starts`."""
    return np.add.reduceat(values, starts, axis=-1)


def _by_level(a: Array) -> Array:
    """(B, J, k, m), the order of axes for LAPACK, from (k, m, B, J)."""
    return np.ascontiguousarray(np.moveaxis(a, (2, 3), (0, 1)))


def _by_columns(a: NDArray[Any]) -> Array:
    """(k, m, B, J) from (B, J, k, m)."""
    return np.ascontiguousarray(np.moveaxis(a, (0, 1), (2, 3)))


def _lapack_cholesky(a: Array) -> Array:
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
