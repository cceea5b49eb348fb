"""Sparse cross-products of the eliminated factor's levels with the remaining coefficients.

Level s of the eliminated factor has cross-products v_s, "k R", with the R coefficients of the
remaining factors, and few columns of v_s are nonzero. For a matrix R_s, "k k", of each level and a
symmetric V, "R R", two sums are needed at every evaluation:

    gram(R) = sum_s v_s' R_s' R_s v_s,        congruence(R, V)_s = R_s v_s V v_s' R_s'.

The first is linear in W_s = R_s' R_s, and v_s V v_s' is linear in V. The coefficients of both are
the products v_s[e, f] v_s[h, g] of two elements of v_s, which do not depend on the
hyperparameters. If there are few of them, they are kept as sparse matrices, one for each e and h,
with a row for each element of V and a column for each level. Either sum is then a
matrix-vector product.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef.inference.pwls import batched_linalg
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Largest number of products, and of elements of V, up to which the products are kept in memory.
_KEPT = 10_000_000
# Rows of gram(R) that are computed at once if the products are not kept.
_STRIPE = 1_024
# Pairs of nonzero columns that are formed at once, of levels with equally many of them.
_GATHERED = 2_000_000


@dataclass(frozen=True)
class SparseCrossBlocks:
    """The nonzero columns of v_s of all levels, in compressed row format.

    Attributes:
        starts: the columns of level s are at positions starts[s] to starts[s + 1].
        places: the remaining coefficient of each column, sorted within each level.
        level: the level of each column.
        values: the columns of v.
        r: number R of coefficients of the remaining factors.
    """

    starts: Int[Indices, "_levels_and_one"]
    places: Int[Indices, "_m"]
    level: Int[Indices, "_m"]
    values: Float[Array, "_k _m"]
    r: int

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.starts) - 1

    def at(self, levels: Int[Indices, "levels"]) -> "SparseCrossBlocks":
        """The blocks of these levels, in their order."""
        counts = np.diff(self.starts)[levels]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        level = np.repeat(np.arange(len(levels)), counts)
        own = np.arange(starts[-1]) - starts[level] + self.starts[levels][level]
        return SparseCrossBlocks(starts, self.places[own], level, self.values[:, own], self.r)

    def left(
        self,
        last: Float[Array, "draws Q"],
        half: Float[Array, "k q 1 levels"],
        root: Float[Array, "k k levels"],
    ) -> Float[Array, "k draws levels"]:
        """Right-hand side -half c - R_s v_s b for known later coefficients.

        Args:
            last: draws of [b, c]: remaining factors' coefficients b, common effects and response
                c.
            half: columns of the common effects and the response.
            root: R.
        """
        out = -batched_linalg.combine(half, np.ascontiguousarray(last[:, self.r :]))
        return out - self.times(root, np.ascontiguousarray(last[:, : self.r].T))

    @cached_property
    def _kept(self) -> bool:
        """Whether the products of pairs of elements are kept in memory."""
        counts = np.diff(self.starts)
        pairs = int((counts * (counts + 1) // 2).sum()) * len(self.values) ** 2
        return pairs <= _KEPT and self.r**2 <= _KEPT

    def times(
        self, root: Float[Array, "k k levels"], b: Float[Array, "R m"]
    ) -> Float[Array, "k m levels"]:
        """R_s v_s b of every level."""
        return np.stack([(self._sparse(met) @ b).T for met in self._met(root)])

    def turned(
        self, root: Float[Array, "k k levels"], b: Float[Array, "k m levels"]
    ) -> Float[Array, "R m"]:
        """Sum over levels of v_s' R_s' b_s."""
        pairs = zip(self._met(root), b, strict=True)
        return np.asarray(sum(self._sparse(met).T @ each.T for met, each in pairs))

    def subtract_gram(self, g: Float[Array, "R R"], root: Float[Array, "k k levels"]) -> None:
        """Subtract gram(R) from g in place."""
        if not self._kept:
            self._subtract_stripes(g, self._met(root))
            return
        w = np.einsum("abj,acj->bcj", root, root)
        k = len(w)
        upper = sum(self._products[e][h] @ w[e, h] for e in range(k) for h in range(k))
        upper = np.asarray(upper).reshape(self.r, self.r)
        g -= upper
        g -= upper.T

    def congruence(
        self, root: Float[Array, "k k levels"], v: Float[Array, "R R"]
    ) -> Float[Array, "k k levels"]:
        """R_s v_s V v_s' R_s' of every level, for a symmetric V."""
        k = len(self.values)
        if not self._kept:
            return self._congruence_of_pairs(self._met(root), v)
        flat = np.ascontiguousarray(v).reshape(-1)
        half = np.empty((k, k, self.levels))
        for e in range(k):
            for h in range(k):
                half[e, h] = self._products[e][h].T @ flat
        both = half + half.transpose(1, 0, 2)
        return np.einsum("aej,ehj,chj->acj", root, both, root, optimize=True)

    @cached_property
    def _products(self) -> list[list[sparse.csr_array]]:
        """By e and h, the products v_s[e, f] v_s[h, g], as a matrix with a column for each level.

        Each pair f < g is there once and f = g with factor 1/2. Adding the transpose of a sum
        over pairs therefore completes it.
        """
        pairs = list(self._pairs(0))
        level, first, second = (np.concatenate(each) for each in zip(*pairs, strict=True))
        at = (self.places[first] * self.r + self.places[second], level)
        share = np.where(first == second, 0.5, 1.0)
        k, shape = len(self.values), (self.r**2, self.levels)

        def product(e: int, h: int) -> sparse.csr_array:
            each = share * self.values[e, first] * self.values[h, second]
            found = sparse.coo_array((each, at), shape=shape)
            # There are no duplicates. The flag saves SciPy a sort that looks for them.
            found.has_canonical_format = True
            return found.tocsr()

        return [[product(e, h) for h in range(k)] for e in range(k)]

    def _met(self, root: Float[Array, "k k levels"]) -> Float[Array, "k m"]:
        """The nonzero columns of R_s v_s."""
        at = root[:, :, None, self.level]
        return batched_linalg.times(at, self.values[:, None, None])[:, 0, 0]

    def _sparse(self, met: Float[Array, "m"]) -> sparse.csr_array:
        """The sparse matrix "levels R" with the elements `met`."""
        return sparse.csr_array((met, self.places, self.starts), shape=(self.levels, self.r))

    def _pairs(self, offset: int) -> Iterator[tuple[Indices, Indices, Indices]]:
        """Yield pairs of nonzero columns of the same level, some levels at a time.

        Args:
            offset: 0 to include pairs of a column with itself, 1 to leave them out.

        Yields:
            The level of each pair, and the positions of its first and second column.
        """
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

    def _subtract_stripes(self, g: Float[Array, "R R"], met: Float[Array, "k m"]) -> None:
        """Subtract gram(R) from g, `_STRIPE` rows at a time, for met = R_s v_s."""
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

    def _congruence_of_pairs(
        self, met: Float[Array, "k m"], v: Float[Array, "R R"]
    ) -> Float[Array, "k k levels"]:
        """As `congruence`, from met = R_s v_s and some pairs of columns at a time."""
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
