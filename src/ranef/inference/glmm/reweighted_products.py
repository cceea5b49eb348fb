"""Cross-products of a fixed set of rows under changing weights, as in a working model.

    Z' W Z,  Z' W X,  X' W X   and   Z' v,  X' v    for W (n, K, K) and v (n, K)

The weights may be negative, as an expected curvature may be on some rows. What does not depend on
the weights, such as which levels occur together, is computed once.
"""

import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef.inference.glmm.arrays import Array, Blocks, CommonEffects, Predictors
from ranef.inference.lmm.design_layout import DesignLayout
from ranef.inference.pwls.cross_products import (
    Centre,
    CrossProducts,
    GroupingFactor,
    LevelPairs,
    RowBatch,
    pair_keys,
)
from ranef.numerics.shapes import Float, Int

# The predictor that each of some columns adds to.
ColumnPredictors = Int[NDArray[np.int64], "k"]

# Number of columns from which a sparse product is faster than one bincount per column.
_SEVERAL = 12


class ReweightedProducts:
    """The rows of a layout, ready for cross-products under any weights.

    Attributes:
        layout: the rows.
        columns: (n, p) common columns, less the centre.
        centre: constants subtracted from the common columns; that of the response is zero.
    """

    def __init__(self, layout: DesignLayout) -> None:
        self.layout = layout
        n = len(layout.known)
        self.centre = _centre(layout)
        # Column-major, because columns are read one at a time.
        self.columns = np.asfortranarray(layout.columns - self.centre.common)
        self._keys = pair_keys(layout.factors)
        self._adding = {
            f: sparse.csc_array(
                (np.ones(n), factor.codes, np.arange(n + 1)), shape=(factor.levels, n)
            ).tocsr()
            for f, factor in enumerate(layout.factors)
            if sum(factor.columns.shape) and factor.columns.shape[1] + self.columns.shape[1] > 2
        }

    def of(self, layout: DesignLayout) -> "ReweightedProducts":
        """The same rows and factors, in a layout with other common columns."""
        out = copy.copy(self)
        out.layout = layout
        if layout.columns.shape[1] != self.columns.shape[1]:
            out.centre = _centre(layout)
            out.columns = np.asfortranarray(layout.columns - out.centre.common)
        return out

    def products(self, weights: Blocks, right: Predictors) -> CrossProducts:
        """Cross-products for weights W, and W times the response, v."""
        layout, x = self.layout, self.columns
        n, p = x.shape
        weighted = [np.empty((n, p), order="F") for _ in range(right.shape[1])]
        for k, out in enumerate(weighted):
            for c in range(p):
                np.multiply(weights[:, k, layout.predictor[c]], x[:, c], out=out[:, c])
        common = np.zeros((p + 1, p + 1))
        for c in range(p):
            k = int(layout.predictor[c])
            common[c, :p] = x[:, c] @ weighted[k]
            common[c, p] = common[p, c] = x[:, c] @ right[:, k]
        own, cross = [], []
        for f, factor in enumerate(layout.factors):
            a, b = self._own(f, factor, weights, weighted, right)
            own.append(a)
            cross.append(b)
        pairs = {at: self._pairs(at, weights) for at in self._keys}
        predictor = layout.predictor
        return CrossProducts(
            n * right.shape[1], 0.0, self.centre, predictor, common, tuple(own), tuple(cross), pairs
        )

    def _own(
        self,
        f: int,
        factor: GroupingFactor,
        weights: Blocks,
        weighted: list[Float[Array, "n p"]],
        right: Predictors,
    ) -> tuple[Float[Array, "k k J"], Float[Array, "k p+1 J"]]:
        """Blocks of a factor with itself, and with the common columns and v."""
        places = predictors_of(factor)
        width, p = factor.columns.shape[1], self.columns.shape[1]
        own = np.empty((width, width, factor.levels))
        cross = np.empty((width, p + 1, factor.levels))
        if factor.levels == 1:
            own[..., 0] = between(factor.columns, places, weights, factor.columns, places)
            for k in np.unique(places):
                here = places == k
                beside = np.concatenate([weighted[k], right[:, k : k + 1]], axis=1)
                cross[here, :, 0] = factor.columns[:, here].T @ beside
            return own, cross
        for a in range(width):
            z, k = factor.columns[:, a], places[a]
            for b in range(a + 1):
                each = weights[:, k, places[b]] * z * factor.columns[:, b]
                own[a, b] = own[b, a] = np.bincount(factor.codes, each, factor.levels)
            if p > _SEVERAL:
                cross[a, :p] = (self._adding[f] @ (z[:, None] * weighted[k])).T
            else:
                for c in range(p):
                    cross[a, c] = np.bincount(factor.codes, z * weighted[k][:, c], factor.levels)
            cross[a, p] = np.bincount(factor.codes, z * right[:, k], factor.levels)
        return own, cross

    def _pairs(self, at: tuple[int, int], weights: Blocks) -> LevelPairs:
        """Blocks of the pairs of levels of two factors that occur together."""
        first, second = (self.layout.factors[f] for f in at)
        seen, inverse = self._keys[at]
        k, m = predictors_of(first), predictors_of(second)
        if len(seen) == 1:
            values = between(first.columns, k, weights, second.columns, m)[..., None]
            return LevelPairs(seen // second.levels, seen % second.levels, values)
        values = np.empty((len(k), len(m), len(seen)))
        for a in range(len(k)):
            for b in range(len(m)):
                each = weights[:, k[a], m[b]] * first.columns[:, a] * second.columns[:, b]
                values[a, b] = np.bincount(inverse, each, len(seen))
        return LevelPairs(seen // second.levels, seen % second.levels, values)

    def right(self, products: CrossProducts, right: Predictors) -> CrossProducts:
        """The same cross-products with another v."""
        common = products.common.copy()
        p = self.columns.shape[1]
        for c in range(p):
            common[c, p] = common[p, c] = self.columns[:, c] @ right[:, self.layout.predictor[c]]
        cross = tuple(
            np.concatenate([block[:, :p], self.sums_by_level(f, right)[:, None]], axis=1)
            for f, block in enumerate(products.cross)
        )
        return replace(products, common=common, cross=cross)

    def sums_by_level(self, f: int, values: Predictors) -> Float[Array, "k J"]:
        """Z_f' v by level."""
        factor = self.layout.factors[f]
        out = np.empty((factor.columns.shape[1], factor.levels))
        for a, k in enumerate(predictors_of(factor)):
            out[a] = np.bincount(factor.codes, factor.columns[:, a] * values[:, k], factor.levels)
        return out

    def predictors(
        self, common: CommonEffects, effects: tuple[Float[Array, "_ _"], ...]
    ) -> Predictors:
        """Eta from coefficients of the centred columns and, by factor, effects (J, k)."""
        out = self.layout.known.copy()
        for c, k in enumerate(self.layout.predictor):
            out[:, k] += self.columns[:, c] * common[c]
        for factor, b in zip(self.layout.factors, effects, strict=True):
            for a, k in enumerate(predictors_of(factor)):
                out[:, k] += factor.columns[:, a] * b[factor.codes, a]
        return out


def _centre(layout: DesignLayout) -> Centre:
    """The centre of the common columns, with a response of zero."""
    response = np.zeros(layout.known.shape)
    return Centre.of(RowBatch(response, layout.columns, (), None, layout.predictor))


def between(
    z: Float[Array, "n a"],
    k: Int[NDArray[np.int64], "a"],
    weights: Blocks,
    x: Float[Array, "n b"],
    m: Int[NDArray[np.int64], "b"],
) -> Float[Array, "a b"]:
    """Z' W X, where k and m are the predictors of the columns of z and x."""
    out = np.empty((z.shape[1], x.shape[1]))
    columns = [(j, np.flatnonzero(m == j)) for j in np.unique(m)]
    right = [(j, there, x[:, there]) for j, there in columns]
    for i in np.unique(k):
        here = np.flatnonzero(k == i)
        left = z[:, here].T
        for j, there, each in right:
            out[here[:, None], there] = left @ (weights[:, i, j, None] * each)
    return out


def predictors_of(factor: GroupingFactor) -> ColumnPredictors:
    """The predictor that each column of a factor adds to."""
    if factor.predictor is None:
        return np.zeros(factor.columns.shape[1], dtype=np.int64)
    return factor.predictor
