"""Elimination of the largest of several crossed factors, whose levels meet few of the others'.

As in ``elimination``, but the cross-products with the remaining factors are sparse: a row of
them for each level j, its columns the coefficients that j meets. What remains is dense, so
the memory is three matrices of the remaining coefficients squared, and the time their cube.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef.inference import levelwise
from ranef.inference.crossproducts import CrossProducts
from ranef.inference.elimination import dense, pairs_of
from ranef.inference.remainder import Factorized, Remainder

Array = NDArray[np.float64]

# Columns of a sparse product, and pairs of coefficients, that are held at once; and how many
# pairs are kept from one evaluation to the next.
_STRIPE, _GATHERED, _KEPT = 1_024, 2_000_000, 10_000_000


@dataclass(frozen=True)
class MetPairs:
    """Pairs of remaining coefficients that one level meets.

    Attributes:
        level: (m,).
        first, second: places in `Crossed.places`.
        places: of their element in the flattened dense matrix.
    """

    level: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["MetPairs"]) -> "MetPairs":
        if len(parts) == 1:
            return parts[0]
        names = ("level", "first", "second", "places")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class Crossed:
    """The largest factor, and the others beside it.

    Attributes:
        factor: the one that is eliminated.
        own: (k, k, 1, J).
        columns: (k, q, 1, J) cross-products with the common columns and the response.
        starts, places: by level, which remaining coefficients it meets, (J + 1,) and (m,).
        level: (m,) the level of each of `places`.
        values: (k, m) cross-products with them.
        matrix: (Q, Q) what remains.
    """

    factor: int
    own: Array
    columns: Array
    starts: NDArray[np.int64]
    places: NDArray[np.int64]
    level: NDArray[np.int64]
    values: Array
    remainder: Remainder
    matrix: Array
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, products: CrossProducts, factor: int, rest: Sequence[int]) -> "Crossed":
        levels, widths = products.levels, products.widths
        remainder = Remainder.of(
            [(f, levels[f], widths[f]) for f in rest], len(products.common) - 1
        )
        level, places, values = [], [], []
        for part in remainder.parts:
            pairs = pairs_of(products, factor, part.factor)
            for c in range(part.width):
                level.append(pairs.left)
                places.append(part.start + pairs.right * part.width + c)
                values.append(pairs.values[:, c])
        flat_level, flat_place = np.concatenate(level), np.concatenate(places)
        order = np.lexsort((flat_place, flat_level))
        flat_level = flat_level[order]
        return cls(
            factor,
            products.own[factor][:, :, None],
            products.cross[factor][:, :, None],
            np.searchsorted(flat_level, np.arange(levels[factor] + 1)),
            flat_place[order],
            flat_level,
            np.concatenate(values, axis=1)[:, order],
            remainder,
            dense(products, remainder),
        )

    @property
    def cells(self) -> int:
        """As of a chain; factoring the dense matrix counts by its time."""
        return (
            self.own.size
            + self.columns.size
            + 4 * self.values.size
            + self.remainder.size**3 // 1_000
        )

    def factorize(self, roots: Sequence[Array], penalty: Array) -> "CrossedEliminated":
        """At one value of the hyperparameters: roots (1, k, k), penalty (1, p + 1, p + 1)."""
        k, r = len(self.own), self.remainder.random
        root = np.ascontiguousarray(roots[self.factor].transpose(1, 2, 0))[..., None]
        every = np.concatenate([self.own, self.columns], axis=1)
        scaled = levelwise.times(levelwise.transposed(root), every)
        d = levelwise.times(levelwise.transposed(root), levelwise.transposed(scaled[:, :k]))
        d[np.arange(k), np.arange(k)] += 1.0
        lower = levelwise.cholesky(d)
        half = levelwise.forward(lower, scaled)
        met = root[..., 0, 0].T @ self.values
        met = levelwise.forward(lower[..., self.level], met[:, None, None])[:, 0, 0]
        g = self.matrix.copy()
        self._subtract_gram(g[:r, :r], met)
        h = half[:, k:, 0]
        across = sum(self.sparse(met[a]).T @ h[a].T for a in range(k))
        g[:r, r:] -= across
        g[r:, :r] = g[:r, r:].T
        g[r:, r:] -= levelwise.gram(half[:, k:], half[:, k:])[0]
        rest = {part.factor: roots[part.factor] for part in self.remainder.parts}
        remainder = self.remainder.factorize(g[None], rest, penalty)
        return CrossedEliminated(self, root, every, lower, half, met, remainder)

    def sparse(self, values: Array) -> sparse.csr_array:
        shape = (len(self.starts) - 1, self.remainder.random)
        return sparse.csr_array((values, self.places, self.starts), shape=shape)

    def pairs(self) -> Iterator["MetPairs"]:
        """Every two coefficients that one level meets, kept where they are not too many."""
        if "pairs" in self._cache:
            yield from self._cache["pairs"]
            return
        counts = np.diff(self.starts)
        total = int((counts * (counts - 1) // 2).sum())
        made = self._pairs(counts)
        if total <= _KEPT:
            self._cache["pairs"] = list(made)
            made = iter(self._cache["pairs"])
        yield from made

    def _pairs(self, counts: NDArray[np.int64]) -> Iterator["MetPairs"]:
        size, held, parts = self.remainder.size, 0, []
        for m in np.unique(counts):
            one, other = np.triu_indices(m, 1)
            alike = np.flatnonzero(counts == m)
            step = max(1, _GATHERED // max(1, len(one)))
            for start in range(0, len(alike) if len(one) else 0, step):
                levels = alike[start : start + step]
                first = (self.starts[levels][:, None] + one).ravel()
                second = (self.starts[levels][:, None] + other).ravel()
                places = self.places[first] * size + self.places[second]
                parts.append(MetPairs(np.repeat(levels, len(one)), first, second, places))
                held += len(first)
                if held >= _GATHERED:
                    yield MetPairs.joined(parts)
                    held, parts = 0, []
        if parts:
            yield MetPairs.joined(parts)

    def _subtract_gram(self, g: Array, met: Array) -> None:
        """G - met' met, a stripe of columns at a time."""
        k, r = len(met), len(g)
        starts = np.concatenate([self.starts[:-1] + a * len(self.places) for a in range(k)])
        stacked = sparse.csr_array(
            (met.ravel(), np.tile(self.places, k), np.append(starts, met.size)),
            shape=(k * (len(self.starts) - 1), r),
        )
        turned = stacked.T.tocsr()
        for start in range(0, r, _STRIPE):
            stripe = slice(start, min(r, start + _STRIPE))
            product = (turned[stripe] @ stacked).tocoo()
            g[stripe][product.row, product.col] -= product.data


@dataclass(frozen=True)
class CrossedEliminated:
    """The whole system at one value of the hyperparameters; `met` is L^-1 Lambda' values."""

    crossed: Crossed
    root: Array
    every: Array
    lower: Array
    half: Array
    met: Array
    remainder: Factorized

    @property
    def log_det_random(self) -> Array:
        """(1,) log |Lambda' Z'WZ Lambda + I|."""
        k = np.arange(len(self.root))
        return self.remainder.log_det_random + 2 * np.log(self.lower[k, k]).sum(axis=(0, 2))

    def _outer(self, last: Array, half: Array, met: Array) -> Array:
        """What the remainder's coefficients leave, (k, M, J)."""
        r = self.remainder.layout.random
        out = -levelwise.combine(half, np.ascontiguousarray(last[:, r:]))
        b = np.ascontiguousarray(last[:, :r].T)
        for a in range(len(out)):
            out[a] -= (self.crossed.sparse(met[a]) @ b).T
        return out

    def effects(
        self,
        sigma: Array | None = None,
        noise: Mapping[int, Array] | None = None,
        remainder: Array | None = None,
    ) -> tuple[dict[int, Array], Array]:
        """As `Eliminated.effects`."""
        last = self.remainder.coefficients if remainder is None else remainder
        rest = self._outer(last, self.half[:, len(self.root) :], self.met)
        if noise is not None and sigma is not None:
            rest = rest + sigma[:, None] * noise[self.crossed.factor]
        b = levelwise.times(self.root, levelwise.backward(self.lower, rest[:, None]))[:, 0]
        out = {self.crossed.factor: b.transpose(1, 2, 0)}
        for part in self.remainder.layout.parts:
            out[part.factor] = last[:, part.place].reshape(len(last), part.levels, part.width)
        return out, last


class CrossedCovariances:
    """As `Covariances`: V_jj = Lambda D^-1 Lambda' + R_j V R_j', V gathered where j meets it."""

    def __init__(self, system: CrossedEliminated, *, common: bool) -> None:
        self.system = system
        self.inverse = system.remainder.inverse(common=common)
        self.last = system.remainder.covariance(self.inverse)

    def _spread(self, met: Array, half: Array) -> Array:
        """X V X' of every level, (k, k, 1, J), for X = [met, half]."""
        crossed, k = self.system.crossed, len(met)
        r, levels = self.system.remainder.layout.random, len(crossed.starts) - 1
        v = self.last[0]
        out = levelwise.quadratic(half, self.last[:, r:, r:])[:, :, 0]
        beside = np.ascontiguousarray(v[:r, r:])
        diagonal = np.diagonal(v)[crossed.places]
        mixed = np.stack([(crossed.sparse(met[a]) @ beside).T for a in range(k)])
        crossings = np.einsum("aqj,cqj->acj", mixed, half[:, :, 0])
        out = out + crossings + crossings.transpose(1, 0, 2)
        flat = v.reshape(-1)
        for a in range(k):
            for c in range(a + 1):
                out[a, c] += np.bincount(crossed.level, met[a] * met[c] * diagonal, levels)
        for pairs in crossed.pairs():
            found = flat[pairs.places]
            for a in range(k):
                for c in range(a + 1):
                    each = met[a, pairs.first] * met[c, pairs.second]
                    if a == c:
                        each *= 2.0
                    else:
                        each += met[a, pairs.second] * met[c, pairs.first]
                    out[a, c] += np.bincount(pairs.level, each * found, levels)
        for a in range(k):
            for c in range(a):
                out[c, a] = out[a, c]
        return out[:, :, None]

    def variances(self) -> tuple[dict[int, Array], Array]:
        """As `Covariances.variances`."""
        system = self.system
        k = len(system.root)
        at = np.arange(k)
        reach = levelwise.times(system.root, levelwise.backward(system.lower, system.half[:, k:]))
        lower = system.lower[..., system.crossed.level]
        met = levelwise.backward(lower, system.met[:, None, None])
        met = levelwise.times(system.root, met)[:, 0, 0]
        unit = np.zeros_like(system.lower)
        unit[at, at] = 1.0
        root_half = levelwise.times(
            system.root, levelwise.transposed(levelwise.forward(system.lower, unit))
        )
        plain = (root_half**2).sum(axis=1)
        own = self._spread(met, reach)[at, at] + plain
        out = {system.crossed.factor: own.transpose(1, 2, 0)}
        last = np.diagonal(self.last, axis1=1, axis2=2)
        for part in system.remainder.layout.parts:
            out[part.factor] = last[:, part.place].reshape(1, part.levels, part.width)
        return out, last

    def derivatives(self) -> dict[int, tuple[Array, Array]]:
        """As `Covariances.derivatives`."""
        system = self.system
        crossed, k = system.crossed, len(system.root)
        out = system.remainder.derivatives(self.inverse)
        own = system.half[:, :k]
        reduced = system.every - levelwise.times(levelwise.transposed(own), system.half)
        met = crossed.values - np.einsum("cam,cm->am", own[:, :, 0, crossed.level], system.met)
        spread = self._spread(met, reduced[:, k:])
        information = (reduced[:, :k] - spread)[:, :, 0].sum(axis=-1)
        score = system._outer(system.remainder.coefficients, reduced[:, k:], met)[:, 0]
        root = system.root[..., 0, 0]
        out[crossed.factor] = (2 * information @ root, -2 * (score @ score.T) @ root)
        return out
