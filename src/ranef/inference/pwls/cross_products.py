"""Rows compressed to cross-products, which is all that a Gaussian model needs of them.

For eta = X beta + sum_f Z_f b_f, a response y and weights W, with J_f levels and k_f columns
of factor f and q = p + 1,

    [X y]' W [X y]     (q, q)
    Z_f' W Z_f         one block per level,                     (k, k, J)
    Z_f' W [X y]       likewise,                                (k, q, J)
    Z_f' W Z_h         one block per pair of levels that meet,  (k, k', m)

They are sums over rows: batches and partitions of the rows add. Levels are the last axis,
so that the arithmetic of one level runs along all of them at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]

# Rows whose products are held at once; they stay in a processor's cache. Numbers that they
# may be where there are many columns.
_CHUNK, _NUMBERS = 32_768, 20_000_000
# Columns from which a sparse product is faster than a count for each.
_SEVERAL = 12


@dataclass(frozen=True)
class GroupingFactor:
    """Coefficients that vary by level: eta_i += columns_i . b[codes_i].

    Attributes:
        codes: (n,) integers below `levels`.
        columns: (n, k).
        levels: J.
        predictor: (k,) which predictor each column adds to; None for the first.
    """

    codes: NDArray[Any]
    columns: Array
    levels: int
    predictor: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class RowBatch:
    """A batch of rows.

    Attributes:
        response: (n,), or (n, K) where each row has K predictors; a known offset is taken
            off beforehand. Under a working model this is the working response.
        common: (n, p).
        factors: with the same factors, and numbers of levels, in every batch.
        weights: (n,) or, for K predictors, (n, K, K) symmetric and non-negative definite;
            None where every row counts the same.
        predictor: (p,) which predictor each common column adds to; None for the first.
        variance: (n,) of the response, where it is known by its mean; None where it is known.
    """

    response: Array
    common: Array
    factors: Sequence[GroupingFactor] = ()
    weights: Array | None = None
    predictor: NDArray[np.int64] | None = None
    variance: Array | None = None


@dataclass(frozen=True)
class Centre:
    """Constants that are taken off the columns before they are multiplied.

    A predictor with a constant column can have any constant taken off its other columns
    and off the response: its intercept takes them up. Without it a column at 1e9 that
    varies by one would be lost in its own square.

    Attributes:
        constant: (K,) place of each predictor's constant column, -1 where it has none.
        value: (K,) of that column.
        common: (p,) taken off the common columns.
        response: (K,) taken off the response.
    """

    constant: NDArray[np.int64]
    value: Array
    common: Array
    response: Array

    @classmethod
    def of(cls, rows: RowBatch, varying: frozenset[int] = frozenset()) -> "Centre":
        """The means of the batch, for predictors that have a constant column.

        Args:
            rows: the first batch.
            varying: columns that are constant in it and not in all others.
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

    def transform(self, predictor: NDArray[np.int64]) -> tuple[Array, Array]:
        """T (p, p) and t (p,): the coefficients of centred columns are T beta - t."""
        t, off = np.eye(len(self.common)), np.zeros(len(self.common))
        for k, place in enumerate(self.constant):
            if place >= 0:
                own = predictor == k
                t[place, own] += self.common[own] / self.value[k]
                off[place] = self.response[k] / self.value[k]
        return t, off


@dataclass(frozen=True)
class LevelPairs:
    """Z_f' W Z_h over the pairs of levels that meet in some row.

    Attributes:
        left, right: (m,) levels of f and of h, in the order of f and then h.
        values: (k, k', m).
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    values: Array


@dataclass(frozen=True)
class CrossProducts:
    """The sums, for columns from which `centre` was taken.

    Attributes:
        rows: how many there are, counted once for each predictor.
        log_weights: log determinant of W.
        predictor: (p,) the predictor of each common column.
        common: (q, q), the response last.
        own, cross: by factor, (k, k, J) and (k, q, J).
        pairs: by factors (f, h), f before h.
    """

    rows: int
    log_weights: float
    centre: Centre
    predictor: NDArray[np.int64]
    common: Array
    own: tuple[Array, ...]
    cross: tuple[Array, ...]
    pairs: dict[tuple[int, int], LevelPairs]

    @property
    def levels(self) -> tuple[int, ...]:
        """J of each factor."""
        return tuple(block.shape[-1] for block in self.own)

    @property
    def widths(self) -> tuple[int, ...]:
        """K of each factor: its columns."""
        return tuple(len(block) for block in self.own)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays by name, of which `at` makes it again."""
        centre = self.centre
        out: dict[str, NDArray[Any]] = {
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
    def at(cls, arrays: Mapping[str, NDArray[Any]]) -> "CrossProducts":
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
        """Of rows that count as so much of a row each."""
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
        """Of both batches of rows; they must have been centred alike."""
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
    """Of one batch of rows, one pass over them.

    Args:
        rows: the batch.
        centre: of the first batch, so that the batches can be added; its means by default.
    """
    centre = centre or Centre.of(rows)
    predictor = _predictor(rows.predictor, rows.common.shape[1])
    y = _two_dimensional(rows.response) - centre.response
    n, k = y.shape
    x = rows.common - centre.common
    roots, log_weights = _roots(rows.weights, n, k)
    q, widths = x.shape[1] + 1, [f.columns.shape[1] for f in rows.factors]
    common = np.zeros((q, q))
    tables = [np.zeros((f.levels, w * (w + q))) for f, w in zip(rows.factors, widths, strict=True)]
    keys = pair_keys(rows.factors)
    met = {
        at: np.zeros((widths[at[0]] * widths[at[1]], len(seen))) for at, (seen, _) in keys.items()
    }
    # At least as many rows as levels, or clearing the table would be most of the work.
    size = max([_CHUNK, *(2 * f.levels for f in rows.factors)])
    widest = max([w * (w + q) for f, w in zip(rows.factors, widths, strict=True) if f.levels > 1]
                 + [widths[f] * widths[h] for f, h in keys] + [1])  # fmt: skip
    size = min(size, max(_NUMBERS // widest, 1_024))
    for start in range(0, n, size):
        part = slice(start, start + size)
        for row in range(k):
            xy = _scaled(x[part], y[part], predictor, roots, part, row)
            common += xy.T @ xy
            columns = [
                _weighted(f.columns[part], _predictor(f.predictor, w), roots, part, row)
                for f, w in zip(rows.factors, widths, strict=True)
            ]
            for factor, z, table in zip(rows.factors, columns, tables, strict=True):
                _add_by_level(table, factor.codes[part], z, xy)
            for (f, h), (_, inverse) in keys.items():
                products = np.einsum("na,nb->abn", columns[f], columns[h])
                _add_by_pair(met[f, h], inverse[part], products.reshape(-1, products.shape[-1]))
    if rows.variance is not None:
        # E y^2 is the square of the mean and the variance.
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


def _two_dimensional(response: Array) -> Array:
    return response if response.ndim == 2 else response[:, None]


def _predictor(given: NDArray[np.int64] | None, size: int) -> NDArray[np.int64]:
    return np.zeros(size, dtype=np.int64) if given is None else given


def _roots(weights: Array | None, n: int, k: int) -> tuple[Array | None, float]:
    """(n, K, K) R with R'R = W, so that each row becomes K rows of weight one; log det W."""
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
    columns: Array, predictor: NDArray[np.int64], roots: Array | None, part: slice, row: int
) -> Array:
    if roots is None:
        return columns
    return columns * roots[part, row][:, predictor]


def _scaled(
    x: Array,
    y: Array,
    predictor: NDArray[np.int64],
    roots: Array | None,
    part: slice,
    row: int,
) -> Array:
    """[x y] of one of the K rows that stand for each."""
    if roots is None:
        return np.concatenate([x, y], axis=1)
    response = (roots[part, row] * y).sum(axis=1, keepdims=True)
    return np.concatenate([_weighted(x, predictor, roots, part, row), response], axis=1)


def _add_by_level(table: Array, codes: NDArray[Any], z: Array, xy: Array) -> None:
    """Add z_i [z_i xy_i] of every row to its level's line of the table."""
    k, n = z.shape[1], len(z)
    both = np.concatenate([z, xy], axis=1)
    if len(table) == 1:
        table += (z.T @ both).reshape(1, -1)
        return
    products = (z[:, :, None] * both[:, None, :]).reshape(n, k * both.shape[1])
    places = sparse.csc_array((np.ones(n), codes, np.arange(n + 1)), shape=(len(table), n))
    table += places @ products


def _add_by_pair(table: Array, places: NDArray[Any], products: Array) -> None:
    """Add products (c, n) of every row to its pair's column of the table (c, m)."""
    if len(products) < _SEVERAL:
        for total, each in zip(table, products, strict=True):
            total += np.bincount(places, each, len(total))
        return
    n = products.shape[1]
    adding = sparse.csc_array((np.ones(n), places, np.arange(n + 1)), shape=(table.shape[1], n))
    table += (adding @ products.T).T


def pair_keys(factors: Sequence[GroupingFactor]) -> dict[tuple[int, int], tuple[NDArray, NDArray]]:
    """For factors f before h: pairs of levels that meet, as one number, and each row's place."""
    out = {}
    for h in range(len(factors)):
        for f in range(h):
            key = factors[f].codes.astype(np.int64) * factors[h].levels + factors[h].codes
            out[f, h] = np.unique(key, return_inverse=True)
    return out


def _merged(a: LevelPairs, b: LevelPairs, levels: int) -> LevelPairs:
    key = np.concatenate([a.left, b.left]) * levels + np.concatenate([a.right, b.right])
    seen, inverse = np.unique(key, return_inverse=True)
    values = np.concatenate([a.values, b.values], axis=-1)
    flat = [np.bincount(inverse, each, len(seen)) for each in values.reshape(-1, len(key))]
    summed = np.array(flat, dtype=np.float64).reshape((*values.shape[:2], len(seen)))
    return LevelPairs(seen // levels, seen % levels, summed)
