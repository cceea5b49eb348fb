"""Weighted cross-products of the rows, which are sufficient statistics of a Gaussian mixed model.

The linear predictor is eta = X beta + sum_f Z_f b_f, with p common columns X, and with k columns
for each level of grouping factor f. For a response y, weights W and q = p + 1, the
cross-products are

    [X y]' W [X y]     "q q"
    Z_f' W Z_f         "k k levels": one block for each level of f
    Z_f' W [X y]       "k q levels": one block for each level of f
    Z_f' W Z_h         "k l pairs": one block for each pair of levels of f and h that share a row

They are sums over rows, so the cross-products of batches or partitions of the rows add up. Levels
lie along the last axis, so that NumPy operations are vectorised over all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Rows in one chunk of the accumulation, few enough for the products to stay in the cache.
_CHUNK = 32_768
# Upper bound on the numbers of an array of products of every row. With many columns it reduces the
# size of a chunk.
_NUMBERS = 20_000_000
# Number of product columns from which one sparse matrix product is faster than a `bincount` for
# each column.
_SEVERAL = 12


@dataclass(frozen=True)
class GroupingFactor:
    """A grouping factor and its columns: it adds columns_i . b[codes_i] to eta_i.

    Attributes:
        codes: level of each row, an integer below `levels`.
        columns: columns whose coefficients vary by level.
        levels: number of levels.
        predictor: index of the linear predictor to which each column belongs; None if all belong
            to the first.
    """

    codes: Int[NDArray[np.integer], "n"]
    columns: Float[Array, "n k"]
    levels: int
    predictor: Int[Indices, "k"] | None = None


@dataclass(frozen=True)
class RowBatch:
    """A batch of rows of a (working) Gaussian mixed model with K linear predictors.

    Attributes:
        response: the response less known offsets, or the working response.
        common: columns of the common (fixed) effects.
        factors: the grouping factors, the same in every batch, with the same numbers of levels.
        weights: a number or, for K predictors, a symmetric and positive semidefinite matrix for
            each row; None for weights of one.
        predictor: index of the linear predictor to which each common column belongs; None if all
            belong to the first.
        variance: variance of an uncertain response whose expectation is `response`; None if the
            response is known. With it, the weights must be numbers, not matrices.
    """

    response: Float[Array, "n"] | Float[Array, "n K"]
    common: Float[Array, "n p"]
    factors: Sequence[GroupingFactor] = ()
    weights: Float[Array, "n"] | Float[Array, "n K K"] | None = None
    predictor: Int[Indices, "p"] | None = None
    variance: Float[Array, "n"] | None = None


@dataclass(frozen=True)
class Centre:
    """Constants subtracted from the columns and the response before products are formed.

    In a linear predictor with a constant column, subtracting constants from the other columns
    and from the response only changes the intercept. Centring avoids cancellation: without it
    a column with values near 1e9 and a standard deviation of one would lose all its digits when
    squared.

    Attributes:
        constant: index of the constant column of each predictor, -1 if it has none.
        value: value of that column.
        common: constants subtracted from the common columns.
        response: constants subtracted from the response.
    """

    constant: Int[Indices, "K"]
    value: Float[Array, "K"]
    common: Float[Array, "p"]
    response: Float[Array, "K"]

    @classmethod
    def of(cls, rows: RowBatch, varying: frozenset[int] = frozenset()) -> "Centre":
        """The means of a batch, for predictors that have a constant column; zeros for others.

        Args:
            rows: the first batch.
            varying: indices of columns that are constant in this batch but not in every batch.
        """
        y, x = _two_dimensional(rows.response), rows.common
        predictor = _predictor(rows.predictor, x.shape[1])
        constant = np.full(y.shape[1], -1)
        steady = (x == x[:1]).all(axis=0) & (x[0] != 0) if len(x) else np.zeros(x.shape[1], bool)
        steady[list(varying)] = False
        for j in np.flatnonzero(steady)[::-1]:
            constant[predictor[j]] = j
        known = constant >= 0
        value = np.where(known, x[0, constant] if x.size else 1.0, 1.0)
        common = np.where(known[predictor], x.mean(axis=0) if len(x) else 0.0, 0.0)
        common[constant[known]] = 0.0
        return cls(constant, value, common, np.where(known, y.mean(axis=0), 0.0))

    def transform(
        self, predictor: Int[Indices, "p"]
    ) -> tuple[Float[Array, "p p"], Float[Array, "p"]]:
        """T and t, such that the coefficients of the centred columns are T beta - t."""
        t, off = np.eye(len(self.common)), np.zeros(len(self.common))
        for k, place in enumerate(self.constant):
            if place >= 0:
                own = predictor == k
                t[place, own] += self.common[own] / self.value[k]
                off[place] = self.response[k] / self.value[k]
        return t, off


@dataclass(frozen=True)
class LevelPairs:
    """The nonzero blocks of Z_f' W Z_h: one for each pair of levels that share a row.

    Attributes:
        left, right: levels of f and of h, sorted by f, then by h.
        values: the blocks.
    """

    left: Int[Indices, "pairs"]
    right: Int[Indices, "pairs"]
    values: Float[Array, "k l pairs"]


@dataclass(frozen=True)
class CrossProducts:
    """The cross-products of centred rows.

    Attributes:
        rows: number of rows times number of linear predictors.
        log_weights: log determinant of W.
        centre: constants that were subtracted from the columns and the response.
        predictor: index of the linear predictor to which each common column belongs.
        common: [X y]' W [X y].
        own: Z_f' W Z_f of each factor.
        cross: Z_f' W [X y] of each factor.
        pairs: Z_f' W Z_h by factors (f, h) with f < h.
    """

    rows: int
    log_weights: float
    centre: Centre
    predictor: Int[Indices, "p"]
    common: Float[Array, "q q"]
    own: tuple[Float[Array, "_k _k _levels"], ...]
    cross: tuple[Float[Array, "_k q _levels"], ...]
    pairs: dict[tuple[int, int], LevelPairs]

    @property
    def levels(self) -> tuple[int, ...]:
        """Number of levels of each factor."""
        return tuple(block.shape[-1] for block in self.own)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of columns k of each factor."""
        return tuple(len(block) for block in self.own)

    def arrays(self) -> dict[str, NDArray[np.number]]:
        """All fields as arrays by name, for storage; `at` is the inverse."""
        centre = self.centre
        out: dict[str, NDArray[np.number]] = {
            "products/common": self.common,
            "products/predictor": self.predictor,
            "products/counts": np.array([self.rows, self.log_weights]),
            "products/constant": centre.constant,
            "products/value": centre.value,
            "products/taken": centre.common,
            "products/response": centre.response,
        }
        for f, (own, cross) in enumerate(zip(self.own, self.cross, strict=True)):
            out[f"products/own/{f}"], out[f"products/cross/{f}"] = own, cross
        for (f, h), pairs in self.pairs.items():
            for name in ("left", "right", "values"):
                out[f"products/pairs/{f}/{h}/{name}"] = getattr(pairs, name)
        return out

    @classmethod
    def at(cls, arrays: Mapping[str, NDArray]) -> "CrossProducts":
        """The cross-products stored as `arrays`."""
        rows, log_weights = arrays["products/counts"]
        centre = (arrays[f"products/{n}"] for n in ("constant", "value", "taken", "response"))
        count = sum(name.startswith("products/own/") for name in arrays)
        met = (n.split("/")[2:4] for n in arrays if n.endswith("/left"))
        return cls(
            int(rows),
            float(log_weights),
            Centre(*centre),
            arrays["products/predictor"],
            arrays["products/common"],
            tuple(arrays[f"products/own/{f}"] for f in range(count)),
            tuple(arrays[f"products/cross/{f}"] for f in range(count)),
            {
                (int(f), int(h)): LevelPairs(
                    *(arrays[f"products/pairs/{f}/{h}/{n}"] for n in ("left", "right", "values"))
                )
                for f, h in met
            },
        )

    def scaled(self, share: float) -> "CrossProducts":
        """The cross-products for the likelihood to the power `share`.

        All sums, the number of rows and log det W are multiplied by `share`.
        """
        return CrossProducts(
            round(share * self.rows),
            share * self.log_weights,
            self.centre,
            self.predictor,
            share * self.common,
            tuple(share * block for block in self.own),
            tuple(share * block for block in self.cross),
            {
                key: LevelPairs(pairs.left, pairs.right, share * pairs.values)
                for key, pairs in self.pairs.items()
            },
        )

    def __add__(self, other: "CrossProducts") -> "CrossProducts":
        """The cross-products of both batches of rows, which must have the same `centre`."""
        return CrossProducts(
            self.rows + other.rows,
            self.log_weights + other.log_weights,
            self.centre,
            self.predictor,
            self.common + other.common,
            tuple(a + b for a, b in zip(self.own, other.own, strict=True)),
            tuple(a + b for a, b in zip(self.cross, other.cross, strict=True)),
            {
                key: _merged(pairs, other.pairs[key], self.levels[key[1]])
                for key, pairs in self.pairs.items()
            },
        )


def cross_products(rows: RowBatch, centre: Centre | None = None) -> CrossProducts:
    """The cross-products of one batch, by one pass over its rows.

    Args:
        rows: the batch.
        centre: constants to subtract, those of the first batch if batches are to be added; the
            means of this batch by default.
    """
    centre = centre or Centre.of(rows)
    predictor = _predictor(rows.predictor, rows.common.shape[1])
    y = _two_dimensional(rows.response) - centre.response
    n, k = y.shape
    x = rows.common - centre.common
    roots, log_weights = _roots(rows.weights)
    q, widths = x.shape[1] + 1, [f.columns.shape[1] for f in rows.factors]
    common = np.zeros((q, q))
    tables = [np.zeros((f.levels, w * (w + q))) for f, w in zip(rows.factors, widths, strict=True)]
    keys = pair_keys(rows.factors)
    met = {
        at: np.zeros((widths[at[0]] * widths[at[1]], len(seen))) for at, (seen, _) in keys.items()
    }
    # A chunk has at least twice as many rows as there are levels, if `_NUMBERS` allows it. With
    # fewer rows most of the time would go into adding tables that have a row for every level.
    size = max([_CHUNK, *(2 * f.levels for f in rows.factors)])
    widest = max([w * (w + q) for f, w in zip(rows.factors, widths, strict=True) if f.levels > 1]
                 + [widths[f] * widths[h] for f, h in keys] + [1])  # fmt: skip
    size = min(size, max(_NUMBERS // widest, 1_024))
    for start in range(0, n, size):
        chunk = slice(start, start + size)
        for row in range(k):
            xy = _scaled(x[chunk], y[chunk], predictor, roots, chunk, row)
            common += xy.T @ xy
            columns = [
                _weighted(f.columns[chunk], _predictor(f.predictor, w), roots, chunk, row)
                for f, w in zip(rows.factors, widths, strict=True)
            ]
            for factor, z, table in zip(rows.factors, columns, tables, strict=True):
                _add_by_level(table, factor.codes[chunk], z, xy)
            for (f, h), (_, inverse) in keys.items():
                products = np.einsum("na,nb->abn", columns[f], columns[h])
                _add_by_pair(met[f, h], inverse[chunk], products.reshape(-1, products.shape[-1]))
    if rows.variance is not None:
        # E[y^2] = E[y]^2 + var(y).
        common[-1, -1] += float(
            np.sum(rows.variance * (1.0 if rows.weights is None else rows.weights))
        )
    own, cross = [], []
    for table, w in zip(tables, widths, strict=True):
        block = np.ascontiguousarray(table.T).reshape(w, w + q, -1)
        own.append(np.ascontiguousarray(block[:, :w]))
        cross.append(np.ascontiguousarray(block[:, w:]))
    pairs = {
        (f, h): LevelPairs(
            seen // rows.factors[h].levels,
            seen % rows.factors[h].levels,
            met[f, h].reshape(widths[f], widths[h], -1),
        )
        for (f, h), (seen, _) in keys.items()
    }
    return CrossProducts(
        n * k, log_weights, centre, predictor, common, tuple(own), tuple(cross), pairs
    )


def _two_dimensional(response: Array) -> Float[Array, "n K"]:
    return response if response.ndim == 2 else response[:, None]


def _predictor(own: Int[Indices, "m"] | None, size: int) -> Int[Indices, "m"]:
    """The predictor of each of `size` columns, the first one by default."""
    return np.zeros(size, dtype=np.int64) if own is None else own


def _roots(
    weights: Float[Array, "n"] | Float[Array, "n K K"] | None,
) -> tuple[Float[Array, "n K K"] | None, float]:
    """Square roots R with R'R = W, and log det W.

    Multiplied by R, a row with K predictors becomes K rows of weight one.
    """
    if weights is None:
        return None, 0.0
    if weights.ndim == 1:
        return np.sqrt(weights)[:, None, None], float(np.log(weights).sum())
    values, vectors = np.linalg.eigh(weights)
    values = np.maximum(values, 0.0)
    with np.errstate(divide="ignore"):
        log_weights = float(np.log(values).sum())
    return np.sqrt(values)[:, :, None] * vectors.transpose(0, 2, 1), log_weights


def _weighted(
    columns: Float[Array, "chunk m"],
    predictor: Int[Indices, "m"],
    roots: Float[Array, "n K K"] | None,
    chunk: slice,
    row: int,
) -> Float[Array, "chunk m"]:
    """Columns of a chunk times row number `row` of R."""
    if roots is None:
        return columns
    return columns * roots[chunk, row][:, predictor]


def _scaled(
    x: Float[Array, "chunk p"],
    y: Float[Array, "chunk K"],
    predictor: Int[Indices, "p"],
    roots: Float[Array, "n K K"] | None,
    chunk: slice,
    row: int,
) -> Float[Array, "chunk q"]:
    """[x y] of a chunk times row number `row` of R."""
    if roots is None:
        return np.concatenate([x, y], axis=1)
    response = (roots[chunk, row] * y).sum(axis=1, keepdims=True)
    return np.concatenate([_weighted(x, predictor, roots, chunk, row), response], axis=1)


def _add_by_level(
    table: Float[Array, "levels m"],
    codes: Int[NDArray[np.integer], "chunk"],
    z: Float[Array, "chunk k"],
    xy: Float[Array, "chunk q"],
) -> None:
    """Add the products z_i [z_i xy_i] of every row i to the table's row of its level."""
    k, n = z.shape[1], len(z)
    both = np.concatenate([z, xy], axis=1)
    if len(table) == 1:
        table += (z.T @ both).reshape(1, -1)
        return
    products = (z[:, :, None] * both[:, None, :]).reshape(n, k * both.shape[1])
    places = sparse.csc_array((np.ones(n), codes, np.arange(n + 1)), shape=(len(table), n))
    table += places @ products


def _add_by_pair(
    table: Float[Array, "m pairs"],
    places: Int[Indices, "chunk"],
    products: Float[Array, "m chunk"],
) -> None:
    """Add the products of every row to the column of its pair in the table."""
    if len(products) < _SEVERAL:
        for total, each in zip(table, products, strict=True):
            total += np.bincount(places, each, len(total))
        return
    n = products.shape[1]
    adding = sparse.csc_array((np.ones(n), places, np.arange(n + 1)), shape=(table.shape[1], n))
    table += (adding @ products.T).T


def pair_keys(
    factors: Sequence[GroupingFactor],
) -> dict[tuple[int, int], tuple[Int[Indices, "_pairs"], Int[Indices, "n"]]]:
    """The pairs of levels that occur together, for factors f < h.

    Returns:
        By (f, h), the sorted keys of the pairs that occur, level of f times number of levels of h
        plus level of h; and the index of each row's pair among them.
    """
    out = {}
    for h in range(len(factors)):
        for f in range(h):
            key = factors[f].codes.astype(np.int64) * factors[h].levels + factors[h].codes
            out[f, h] = np.unique(key, return_inverse=True)
    return out


def _merged(a: LevelPairs, b: LevelPairs, levels: int) -> LevelPairs:
    """The sum of two sets of blocks, with `levels` the number of levels of the right factor."""
    key = np.concatenate([a.left, b.left]) * levels + np.concatenate([a.right, b.right])
    seen, inverse = np.unique(key, return_inverse=True)
    values = np.concatenate([a.values, b.values], axis=-1)
    flat = [np.bincount(inverse, each, len(seen)) for each in values.reshape(-1, len(key))]
    summed = np.array(flat, dtype=np.float64).reshape((*values.shape[:2], len(seen)))
    return LevelPairs(seen // levels, seen % levels, summed)
