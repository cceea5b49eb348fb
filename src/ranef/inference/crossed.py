"""Elimination of the largest of several crossed factors, whose levels meet few of the others'.

As in ``elimination``, but the cross-products with the remaining factors are sparse: a row of
them for each level j, its columns the coefficients that j meets. What remains is dense, so
the memory is three matrices of the remaining coefficients squared, and the time their cube.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference import levelwise
from ranef.inference.crossproducts import CrossProducts
from ranef.inference.elimination import dense, pairs_of
from ranef.inference.meetings import Meetings
from ranef.inference.remainder import Factorized, Remainder

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Crossed:
    """The largest factor, and the others beside it.

    Attributes:
        factor: the one that is eliminated.
        own: (k, k, 1, J).
        columns: (k, q, 1, J) cross-products with the common columns and the response.
        meetings: with the remaining coefficients.
        matrix: (Q, Q) what remains.
    """

    factor: int
    own: Array
    columns: Array
    meetings: Meetings
    remainder: Remainder
    matrix: Array

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
            Meetings(
                np.searchsorted(flat_level, np.arange(levels[factor] + 1)),
                flat_place[order],
                flat_level,
                np.concatenate(values, axis=1)[:, order],
                remainder.random,
            ),
            remainder,
            dense(products, remainder),
        )

    @property
    def cells(self) -> int:
        """As of a chain; factoring the dense matrix counts by its time."""
        return (
            self.own.size
            + self.columns.size
            + 4 * self.meetings.values.size
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
        reduce = _forward_root(lower, root)
        g = self.matrix.copy()
        self.meetings.subtract_gram(g[:r, :r], reduce)
        g[:r, r:] -= self.meetings.turned(reduce, half[:, k:, 0])
        g[r:, :r] = g[:r, r:].T
        g[r:, r:] -= levelwise.gram(half[:, k:], half[:, k:])[0]
        rest = {part.factor: roots[part.factor] for part in self.remainder.parts}
        remainder = self.remainder.factorize(g[None], rest, penalty)
        return CrossedEliminated(self, root, every, lower, half, reduce, remainder)


def _forward_root(lower: Array, root: Array) -> Array:
    """L^-1 Lambda' of every level, (k, k, J)."""
    turned = levelwise.transposed(root)
    return levelwise.forward(lower, np.broadcast_to(turned, lower.shape))[:, :, 0]


@dataclass(frozen=True)
class CrossedEliminated:
    """The whole system at one value of the hyperparameters; `reduce` is L^-1 Lambda'."""

    crossed: Crossed
    root: Array
    every: Array
    lower: Array
    half: Array
    reduce: Array
    remainder: Factorized

    @property
    def log_det_random(self) -> Array:
        """(1,) log |Lambda' Z'WZ Lambda + I|."""
        k = np.arange(len(self.root))
        return self.remainder.log_det_random + 2 * np.log(self.lower[k, k]).sum(axis=(0, 2))

    def outer(self, last: Array, half: Array, root: Array) -> Array:
        """What the remainder's coefficients leave, (k, M, J)."""
        r = self.remainder.layout.random
        out = -levelwise.combine(half, np.ascontiguousarray(last[:, r:]))
        return out - self.crossed.meetings.times(root, np.ascontiguousarray(last[:, :r].T))

    def effects(
        self,
        sigma: Array | None = None,
        noise: Mapping[int, Array] | None = None,
        remainder: Array | None = None,
    ) -> tuple[dict[int, Array], Array]:
        """As `Eliminated.effects`."""
        last = self.remainder.coefficients if remainder is None else remainder
        rest = self.outer(last, self.half[:, len(self.root) :], self.reduce)
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

    def _spread(self, root: Array, half: Array) -> Array:
        """X V X' of every level, (k, k, 1, J), for X = [root v, half]."""
        meetings, v = self.system.crossed.meetings, self.last[0]
        r = meetings.r
        out = levelwise.quadratic(half, self.last[:, r:, r:])[:, :, 0]
        mixed = meetings.times(root, np.ascontiguousarray(v[:r, r:]))
        crossings = np.einsum("aqj,cqj->acj", mixed, half[:, :, 0])
        out = out + crossings + crossings.transpose(1, 0, 2)
        return (out + meetings.spread(root, v[:r, :r]))[:, :, None]

    def variances(self) -> tuple[dict[int, Array], Array]:
        """As `Covariances.variances`."""
        system = self.system
        k = len(system.root)
        at = np.arange(k)
        back = levelwise.backward(system.lower, system.half[:, k:])
        reach = levelwise.times(system.root, back)
        whole = np.einsum("baj,bcj->acj", system.reduce, system.reduce)
        own = self._spread(whole, reach)[at, at] + whole[at, at][:, None]
        out = {system.crossed.factor: own.transpose(1, 2, 0)}
        last = np.diagonal(self.last, axis1=1, axis2=2)
        for part in system.remainder.layout.parts:
            out[part.factor] = last[:, part.place].reshape(1, part.levels, part.width)
        return out, last

    def derivatives(self) -> dict[int, tuple[Array, Array]]:
        """As `Covariances.derivatives`."""
        system = self.system
        k = len(system.root)
        out = system.remainder.derivatives(self.inverse)
        own = system.half[:, :k]
        reduced = system.every - levelwise.times(levelwise.transposed(own), system.half)
        left = np.eye(k)[:, :, None] - np.einsum("baj,bcj->acj", own[:, :, 0], system.reduce)
        spread = self._spread(left, reduced[:, k:])
        information = (reduced[:, :k] - spread)[:, :, 0].sum(axis=-1)
        score = system.outer(system.remainder.coefficients, reduced[:, k:], left)[:, 0]
        root = system.root[..., 0, 0]
        out[system.crossed.factor] = (2 * information @ root, -2 * (score @ score.T) @ root)
        return out
