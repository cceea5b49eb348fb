"""Centred, orthogonal coordinates of common effects, in which their default prior is stated.

Let x_i be the k columns of row i, with training means m and covariances S. The coefficients are

    beta = T gamma,    x_i . beta = u_i . gamma,    u_i = [1, (x_i - m)' V, 0],

where V'SV = I: the columns of u are uncorrelated and have variance one. A prior with independent
gamma_j ~ N(0, tau^2) is the same prior of the fitted values whatever origin, unit, reference level
or order the columns have, since it depends on them only by the space that they span; it is
Zellner's (1986) g-prior. Under it the sd of beta_j is tau over the sd of column j given the others.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The share of a column's variance, given the columns before it, below which it is a combination
# of them: cross-products in double precision say no more.
_DEPENDENT = 1e-11
# The size of a column's constant part, as a share of the sizes it is added up from, below which
# it is rounding.
_NO_CONSTANT = 1e-9


@dataclass(frozen=True)
class OrthogonalCoordinates:
    """The map between k coefficients beta and their coordinates gamma.

    Coordinates are in three groups: one for the constant, if the columns span it and it is not
    `elsewhere`; one for each direction in which rows differ; one for each combination of columns
    that is zero in every row, of which only the prior speaks.

    Attributes:
        places: the columns of the term's design that these coordinates are of.
        mean: (k,) of those columns.
        matrix: (k, K) T.
        slopes: (k, r) V.
        constant: whether the first coordinate is that of the constant.
        centred: whether u has x - m; where the columns do not span the constant and nothing else
            in the predictor does, u has x, and V'(S + mm')V = I.
        elsewhere: whether m . beta is part of what carries the constant outside of the term, such
            as the thresholds of an ordinal response.
        order: the column, among `places`, that each direction adds to those before it, and then
            those of the combinations that are zero.
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
        """U (n, K) of columns x (n, k) less their means, or x itself where not `centred`."""
        ones = [xp.ones((x.shape[0], 1))] if self.constant else []
        idle = self.size - len(ones) - self.slopes.shape[1]
        return xp.concatenate([*ones, x @ self.slopes, xp.zeros((x.shape[0], idle))], axis=1)


def spans_constant(mean: Array, covariance: Array) -> bool:
    """Whether some combination of the columns is one in every row."""
    return _decomposed(mean, covariance)[2] is not None


def coordinates(
    places: tuple[int, ...],
    mean: Array,
    covariance: Array,
    *,
    anchored: bool,
    elsewhere: bool,
) -> OrthogonalCoordinates:
    """The coordinates of columns with these moments.

    Args:
        places: of the columns in the design.
        mean: (k,) of the columns.
        covariance: (k, k) of the columns.
        anchored: whether something in the predictor carries the constant.
        elsewhere: whether what does is outside of the predictor, as thresholds are.
    """
    slopes, order, constant, idle = _decomposed(mean, covariance)
    if constant is None and not anchored:
        # A regression through the origin: sizes are those about zero.
        raw = covariance + np.outer(mean, mean)
        slopes, idle, order = _whitened(raw)
        whole = np.concatenate([slopes, idle], axis=1)
        return OrthogonalCoordinates(places, mean, whole, slopes, False, False, False, order)
    if constant is None:
        whole = np.concatenate([slopes, idle], axis=1)
        return OrthogonalCoordinates(
            places, mean, whole, slopes, False, elsewhere, elsewhere, order
        )
    # x . (c g0 + (v - c m'v) g1) = g0 + (x - m) . v g1, where x . c = 1 in every row.
    carried = slopes - np.outer(constant, mean @ slopes)
    whole = np.concatenate([constant[:, None], carried, idle], axis=1)
    return OrthogonalCoordinates(places, mean, whole, slopes, True, True, False, order)


def _decomposed(
    mean: Array, covariance: Array
) -> tuple[Array, tuple[int, ...], Array | None, Array]:
    """V and its order; c with x . c = 1 in every row, or None; directions in which x is zero."""
    slopes, null, order = _whitened(covariance)
    parts = mean[:, None] * null
    size = np.abs(parts).sum(axis=0)
    value = np.where(size > 0, parts.sum(axis=0), 0.0)
    value[np.abs(value) <= _NO_CONSTANT * size] = 0.0
    total = float(value @ value)
    if total == 0:
        return slopes, order, None, null
    # Within the null space: the one direction with a constant, and those orthogonal to it.
    basis = np.linalg.qr(np.column_stack([value, np.eye(len(value))]))[0][:, : len(value)]
    return slopes, order[: len(order) - 1], null @ value / total, null @ basis[:, 1:]


def _whitened(moments: Array) -> tuple[Array, Array, tuple[int, ...]]:
    """V (k, r) with V' M V = I, and N (k, k - r) with M N = 0, of moments M (k, k).

    And the column that each of them is made for, those of V first.

    Gram and Schmidt's way, column after column, so that coordinate j is what column j adds to
    those before it.
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
        # Twice is enough (Kahan; Parlett, 1980).
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
