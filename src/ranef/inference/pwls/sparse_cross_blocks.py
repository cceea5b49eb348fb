"""Remaining coefficients that the levels of the eliminated factor meet, two by two.

For level s with cross-products v_s (k, r), of which few columns are not zero, a root R_s
(k, k) of its own, and V (r, r),

    gram(R) = sum_s v_s' R_s' R_s v_s,        spread(R, V)_s = R_s v_s V v_s' R_s'.

Both are linear in V, or in W_s = R_s' R_s, with products v_ef v_hg as coefficients, which do
not depend on the hyperparameters. Where they are few they are kept as sparse matrices, one
for each e and h, with a row for each element of V: one product by a vector is either sum.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef.inference.pwls import batched_linalg

Array = NDArray[np.float64]

# Pairs, and elements of V, for which the products are kept; otherwise columns of a sparse
# product, and pairs, that are held at once.
_KEPT, _STRIPE, _GATHERED = 10_000_000, 1_024, 2_000_000


@dataclass(frozen=True)
class SparseCrossBlocks:
    """Which coefficients each level meets, and the cross-products.

    Attributes:
        starts, places: by level, the coefficients it meets in order, (J + 1,) and (m,).
        level: (m,) the level of each of `places`.
        values: (k, m) v.
        r: number of coefficients.
    """

    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    level: NDArray[np.int64]
    values: Array
    r: int

    @property
    def levels(self) -> int:
        return len(self.starts) - 1

    def at(self, levels: NDArray[np.int64]) -> "SparseCrossBlocks":
        """Those of some levels, in their order."""
        counts = np.diff(self.starts)[levels]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        level = np.repeat(np.arange(len(levels)), counts)
        own = np.arange(starts[-1]) - starts[level] + self.starts[levels][level]
        return SparseCrossBlocks(starts, self.places[own], level, self.values[:, own], self.r)

    def left(self, last: Array, half: Array, root: Array) -> Array:
        """-half c - R_s v_s b: (k, M, J) for last = [b, c] (M, r + q), half (k, q, 1, J)."""
        out = -batched_linalg.combine(half, np.ascontiguousarray(last[:, self.r :]))
        return out - self.times(root, np.ascontiguousarray(last[:, : self.r].T))

    @cached_property
    def _kept(self) -> bool:
        counts = np.diff(self.starts)
        pairs = int((counts * (counts + 1) // 2).sum()) * len(self.values) ** 2
        return pairs <= _KEPT and self.r**2 <= _KEPT

    def times(self, root: Array, b: Array) -> Array:
        """R_s v_s b: (k, M, J) for root (k, k, J), b (r, M)."""
        return np.stack([(self._sparse(met) @ b).T for met in self._met(root)])

    def turned(self, root: Array, b: Array) -> Array:
        """Sum_s v_s' R_s' b_s: (r, M) for root (k, k, J), b (k, M, J)."""
        pairs = zip(self._met(root), b, strict=True)
        return np.asarray(sum(self._sparse(met).T @ each.T for met, each in pairs))

    def subtract_gram(self, g: Array, root: Array) -> None:
        """G - gram(R), in place, for g (r, r), root (k, k, J)."""
        if not self._kept:
            self._subtract_stripes(g, self._met(root))
            return
        w = np.einsum("abj,acj->bcj", root, root)
        k = len(w)
        upper = sum(self._products[e][h] @ w[e, h] for e in range(k) for h in range(k))
        upper = np.asarray(upper).reshape(self.r, self.r)
        g -= upper
        g -= upper.T

    def congruence(self, root: Array, v: Array) -> Array:
        """R_s v_s V v_s' R_s', (k, k, J), for root (k, k, J), symmetric v (r, r)."""
        k = len(self.values)
        if not self._kept:
            return self._spread_stripes(self._met(root), v)
        flat = np.ascontiguousarray(v).reshape(-1)
        half = np.empty((k, k, self.levels))
        for e in range(k):
            for h in range(k):
                half[e, h] = self._products[e][h].T @ flat
        both = half + half.transpose(1, 0, 2)
        return np.einsum("aej,ehj,chj->acj", root, both, root, optimize=True)

    @cached_property
    def _products(self) -> list[list[sparse.csr_array]]:
        """By e and h, (r * r, J): v_ef v_hg, each pair f < g once, f = g by half."""
        parts = list(self._pairs(0))
        level, first, second = (np.concatenate(each) for each in zip(*parts, strict=True))
        at = (self.places[first] * self.r + self.places[second], level)
        share = np.where(first == second, 0.5, 1.0)
        k, shape = len(self.values), (self.r**2, self.levels)

        def product(e: int, h: int) -> sparse.csr_array:
            each = share * self.values[e, first] * self.values[h, second]
            found = sparse.coo_array((each, at), shape=shape)
            # No pair is there twice; without being told so SciPy would sort them to find out.
            found.has_canonical_format = True
            return found.tocsr()

        return [[product(e, h) for h in range(k)] for e in range(k)]

    def _met(self, root: Array) -> Array:
        """R_s v_s where s meets it, (k, m)."""
        at = root[:, :, None, self.level]
        return batched_linalg.times(at, self.values[:, None, None])[:, 0, 0]

    def _sparse(self, met: Array) -> sparse.csr_array:
        return sparse.csr_array((met, self.places, self.starts), shape=(self.levels, self.r))

    def _pairs(self, offset: int) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
        """Level, and places in `places`, of every two that it meets; for offset 0 of one twice."""
        counts = np.diff(self.starts)
        for m in np.unique(counts):
            one, other = np.triu_indices(m, offset)
            alike = np.flatnonzero(counts == m)
            step = max(1, _GATHERED // max(1, len(one)))
            for start in range(0, len(alike) if len(one) else 0, step):
                levels = alike[start : start + step]
                first = (self.starts[levels][:, None] + one).ravel()
                second = (self.starts[levels][:, None] + other).ravel()
                yield np.repeat(levels, len(one)), first, second

    def _subtract_stripes(self, g: Array, met: Array) -> None:
        """A stripe of columns at a time."""
        k = len(met)
        starts = np.concatenate([self.starts[:-1] + a * len(self.places) for a in range(k)])
        stacked = sparse.csr_array(
            (met.ravel(), np.tile(self.places, k), np.append(starts, met.size)),
            shape=(k * self.levels, self.r),
        )
        turned = stacked.T.tocsr()
        for start in range(0, self.r, _STRIPE):
            stripe = slice(start, min(self.r, start + _STRIPE))
            product = (turned[stripe] @ stacked).tocoo()
            g[stripe][product.row, product.col] -= product.data

    def _spread_stripes(self, met: Array, v: Array) -> Array:
        """Some pairs at a time."""
        k = len(met)
        out = np.zeros((k, k, self.levels))
        diagonal = np.diagonal(v)[self.places]
        for a in range(k):
            for c in range(a + 1):
                out[a, c] = np.bincount(self.level, met[a] * met[c] * diagonal, self.levels)
        for level, first, second in self._pairs(1):
            found = v[self.places[first], self.places[second]]
            for a in range(k):
                for c in range(a + 1):
                    each = met[a, first] * met[c, second] + met[a, second] * met[c, first]
                    out[a, c] += np.bincount(level, each * found, self.levels)
        for a in range(k):
            for c in range(a):
                out[c, a] = out[a, c]
        return out
