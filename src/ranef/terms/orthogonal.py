"""Centred, orthogonal coordinates of common effects, on which their default prior is set.

Let x_i be the k columns of row i, with training means m and covariance matrix S. The coefficients
beta are written as

    beta = T gamma,    x_i . beta = u_i . gamma,    u_i = [1, (x_i - m)' V, 0],

where V'SV = I, so that the columns of u are uncorrelated and have variance one. Independent priors
gamma_j ~ N(0, tau^2) are a g-prior (Zellner, 1986). The prior that they imply for the fitted values
depends on the columns only through the space that they span, hence not on their origin, unit,
order or reference level. Under it beta_j has the sd tau / s_j, where s_j is the sd of column j
given the other columns.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# A column is a linear combination of those before it if they leave less than this share of its
# variance. Smaller shares are rounding error of cross-products in double precision.
_DEPENDENT = 1e-11
# The mean of a combination of columns counts as zero if it is below this share of the sum of the
# absolute values that it is added up from, as it is then rounding error.
_NO_CONSTANT = 1e-9


@dataclass(frozen=True)
class OrthogonalCoordinates:
    """The map between k coefficients beta and their K coordinates gamma.

    The coordinates come in three groups: one for the constant, if the columns span it; one for
    each of the r directions in which rows differ; and one for each combination of columns that is
    zero in every row, whose coordinate only the prior determines.

    Attributes:
        places: places of the columns in the term's design.
        mean: (k,) means of the columns.
        matrix: (k, K) T.
        slopes: (k, r) V.
        constant: whether the first coordinate is that of the constant.
        centred: whether u is made of x - m. It is made of x, with V'(S + mm')V = I, if neither
            the columns nor anything else in the predictor span the constant.
        elsewhere: whether centring adds m . beta to a constant outside the predictor, such as the
            thresholds of an ordinal response.
        order: for each direction, the column (among `places`) that it adds to the columns before
            it; then the columns of the combinations that are zero.
    """

    places: tuple[int, ...]
    mean: Array
    matrix: Array
    slopes: Array
    constant: bool
    centred: bool
    elsewhere: bool
    order: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """K, the number of coordinates."""
        return self.matrix.shape[1]

    def columns(self, x: Any, xp: Any = np) -> Any:
        """The columns u, (n, K), from x - m, (n, k), or from x where not `centred`."""
        ones = [xp.ones((x.shape[0], 1))] if self.constant else []
        idle = self.size - len(ones) - self.slopes.shape[1]
        return xp.concatenate([*ones, x @ self.slopes, xp.zeros((x.shape[0], idle))], axis=1)


def spans_constant(mean: Array, covariance: Array) -> bool:
    """Whether some linear combination of the columns equals one in every row."""
    return _decomposed(mean, covariance)[2] is not None


def coordinates(
    places: tuple[int, ...],
    mean: Array,
    covariance: Array,
    *,
    anchored: bool,
    elsewhere: bool,
) -> OrthogonalCoordinates:
    """The coordinates of columns with given moments.

    Args:
        places: places of the columns in the term's design.
        mean: (k,) means of the columns.
        covariance: (k, k) covariance matrix of the columns.
        anchored: whether the model has a constant for this predictor, in a term or outside.
        elsewhere: whether the constant is outside the predictor, as thresholds are.
    """
    slopes, order, constant, idle = _decomposed(mean, covariance)
    if constant is None and not anchored:
        # A regression through the origin uses second moments about zero.
        raw = covariance + np.outer(mean, mean)
        slopes, idle, order = _whitened(raw)
        whole = np.concatenate([slopes, idle], axis=1)
        return OrthogonalCoordinates(places, mean, whole, slopes, False, False, False, order)
    if constant is None:
        whole = np.concatenate([slopes, idle], axis=1)
        return OrthogonalCoordinates(
            places, mean, whole, slopes, False, elsewhere, elsewhere, order
        )
    # With x . c = 1 in every row, x . (c g_0 + (v - c m'v) g_1) = g_0 + (x - m) . v g_1.
    carried = slopes - np.outer(constant, mean @ slopes)
    whole = np.concatenate([constant[:, None], carried, idle], axis=1)
    return OrthogonalCoordinates(places, mean, whole, slopes, True, True, False, order)


def _decomposed(
    mean: Array, covariance: Array
) -> tuple[Array, tuple[int, ...], Array | None, Array]:
    """Split the column space by the moments of the columns.

    Returns:
        V (k, r); the order of the columns; c (k,) with x . c = 1 in every row, or None if there is
        no such combination; and a basis of the combinations that are zero in every row.
    """
    slopes, null, order = _whitened(covariance)
    parts = mean[:, None] * null
    size = np.abs(parts).sum(axis=0)
    value = np.where(size > 0, parts.sum(axis=0), 0.0)
    value[np.abs(value) <= _NO_CONSTANT * size] = 0.0
    total = float(value @ value)
    if total == 0:
        return slopes, order, None, null
    # Combinations in the null space of S are constant over rows, with the means `value`. One
    # direction carries them all; those orthogonal to it have the constant zero.
    basis = np.linalg.qr(np.column_stack([value, np.eye(len(value))]))[0][:, : len(value)]
    return slopes, order[: len(order) - 1], null @ value / total, null @ basis[:, 1:]


def _whitened(moments: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """Whiten moments M (k, k) by Gram-Schmidt orthogonalization in the inner product of M.

    It takes the columns in order, so that each coordinate is what a column adds to those before it.

    Returns:
        V (k, r) with V'MV = I; N (k, k - r) with MN = 0; and the column of each coordinate, those
        of V first.
    """
    k = len(moments)
    size = np.sqrt(np.maximum(np.diagonal(moments), 0.0))
    scale = np.where(size > 0, size, 1.0)
    unit = moments / scale / scale[:, None]
    slopes, products = np.zeros((k, k)), np.zeros((k, k))  # V, and M V
    null: list[Array] = []
    made, left_over = [], []
    r = 0
    for j in range(k):
        v, mv = slopes[:, :r], products[:, :r]
        own, times = np.zeros(k), unit[j].copy()
        own[j] = 1.0
        # Orthogonalizing twice suffices in floating point (Kahan, in Parlett, 1980).
        for _ in range(2):
            shadow = v.T @ times
            own, times = own - v @ shadow, times - mv @ shadow
        left = float(own @ times)
        if size[j] > 0 and left > _DEPENDENT:
            slopes[:, r], products[:, r] = own / np.sqrt(left), times / np.sqrt(left)
            r += 1
            made.append(j)
        else:
            null.append(own)
            left_over.append(j)
    idle = np.array(null).reshape(-1, k).T
    return slopes[:, :r] / scale[:, None], idle / scale[:, None], (*made, *left_over)
