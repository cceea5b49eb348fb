"""Contrasts: the columns that stand for a factor of k levels beside an intercept.

A factor f with contrast matrix C, (k, k - 1), adds C[f_i] . beta to the predictor of row i. All
matrices are those of R's functions of the same names; `sdif` is that of the R package MASS
(Venables and Ripley, 2002, sec. 6.2). The columns of every C and the constant together span the
same space, so predictions do not depend on C.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.numerics.shapes import Float

# Contrasts by name: the matrix of a factor is `matrix_of(name, levels)`.
KINDS = ("treatment", "sum", "helmert", "poly", "sdif")

# Names of contrasts in R, patsy and formulaic, without regard to case.
_SYNONYMS = {
    **{name: name for name in KINDS},
    **{f"contr.{name}": name for name in KINDS},
    **{"diff": "sdif", "polynomial": "poly"},
}

# Contrasts for which a level may be chosen that has no coefficient of its own.
WITH_REFERENCE = ("treatment", "sum")

# Largest number of levels of polynomial contrasts.
_MOST_POLY = 100

# Names of the first polynomial contrasts, as in R; those of higher degree are ^4, ^5, ...
_POWERS = (".L", ".Q", ".C")

# Smallest ratio of singular values at which the columns of a matrix and the constant count as
# independent.
_INDEPENDENT = 1e-10

# A contrast: its name, or the rows of a matrix.
Contrast = str | tuple[tuple[float, ...], ...]
Matrix = Float[NDArray[np.float64], "k _"]


def named(word: str) -> str | None:
    """The name of the contrasts that a word stands for, such as "sum" for contr.sum, or None."""
    return _SYNONYMS.get(word.lower())


def matrix_of(contrast: Contrast, levels: Sequence[str], factor: str) -> Matrix:
    """The contrast matrix C, (k, k - 1).

    Args:
        contrast: the name of the contrasts, or the rows of C.
        levels: the k levels in order.
        factor: the factor as the formula writes it, for messages.

    Raises:
        DataError: for more than a hundred levels of polynomial contrasts, and for a matrix of
            another shape.
    """
    k = len(levels)
    if not isinstance(contrast, str):
        given = np.array(contrast)
        if given.shape != (k, k - 1):
            listed = ", ".join(map(repr, levels[:8])) + (", ..." if k > 8 else "")
            raise DataError(
                f"the contrast matrix of {factor} has {given.shape[0]} rows of {given.shape[1]}; "
                f"it takes one row of {k - 1} for each of the {k} levels {listed}"
            )
        return given
    if contrast == "poly" and k > _MOST_POLY:
        raise DataError(
            f"{factor} has {k:,} levels, and polynomial contrasts take {_MOST_POLY} at most; use "
            "poly(x, degree) of a column of numbers"
        )
    return _MATRICES[contrast](k)


def names_of(contrast: Contrast, levels: Sequence[str]) -> tuple[str, ...]:
    """Names of the k - 1 columns of the contrast matrix."""
    k = len(levels)
    if not isinstance(contrast, str):
        return tuple(str(i + 1) for i in range(k - 1))
    if contrast == "treatment":
        return tuple(levels[1:])
    if contrast == "sum":
        return tuple(f"S.{level}" for level in levels[:-1])
    if contrast == "helmert":
        return tuple(f"H.{level}" for level in levels[1:])
    if contrast == "sdif":
        return tuple(f"{b}-{a}" for a, b in zip(levels[:-1], levels[1:], strict=True))
    return (*_POWERS, *(f"^{i}" for i in range(4, k)))[: k - 1]


def why_no_matrix(rows: Sequence[Sequence[float]]) -> str | None:
    """Why rows of numbers are no contrast matrix of some factor; None if they are."""
    width = len(rows) - 1
    if width < 1 or any(len(row) != width for row in rows):
        return "it has one row of k - 1 numbers for each of the k levels"
    matrix = np.array(rows, float)
    sizes = np.linalg.norm(matrix, axis=0)
    unit = np.column_stack([np.ones(len(matrix)), matrix / np.where(sizes > 0, sizes, 1.0)])
    singular = np.linalg.svd(unit, compute_uv=False)
    if singular[-1] < _INDEPENDENT * singular[0]:
        return "its columns depend on each other, or add up to the intercept's constant"
    return None


def _treatment(k: int) -> Matrix:
    """Each level less the first."""
    return np.eye(k)[:, 1:]


def _sum(k: int) -> Matrix:
    """Each level but the last less the mean of all levels."""
    return np.vstack([np.eye(k - 1), -np.ones(k - 1)])


def _helmert(k: int) -> Matrix:
    """Each level less the mean of those before it, in units of its place."""
    upper = np.triu(-np.ones((k, k - 1)))
    upper[np.arange(1, k), np.arange(k - 1)] = np.arange(1, k)
    return upper


def _sdif(k: int) -> Matrix:
    """Each level less the one before it."""
    after = np.arange(k)[:, None] > np.arange(k - 1)
    return after - np.arange(k - 1, 0, -1) / k


@cache
def _poly(k: int) -> Matrix:
    """Orthonormal polynomials on k equally spaced points, by a three-term recurrence.

    Each column is the one before it times the points, less its projection on all before it. It is
    subtracted twice, which keeps them orthonormal (Kahan, in Parlett, 1980).
    """
    points = np.linspace(-1.0, 1.0, k)
    columns = [np.full(k, 1 / np.sqrt(k))]
    for _ in range(k - 1):
        known, own = np.array(columns), points * columns[-1]
        for _ in range(2):
            own = own - known.T @ (known @ own)
        columns.append(own / np.linalg.norm(own))
    return np.array(columns[1:]).T


_MATRICES = {
    "treatment": _treatment,
    "sum": _sum,
    "helmert": _helmert,
    "poly": _poly,
    "sdif": _sdif,
}
