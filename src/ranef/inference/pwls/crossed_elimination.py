"""Elimination of the largest of several crossed factors, with sparse cross-products.

The algebra is that of ``nested_elimination`` for a single factor, but its cross-products with the
remaining factors are sparse: each level occurs together with few levels of the other factors. The
Schur complement of the remaining coefficients is dense. Memory is therefore three square matrices
of their number, and time grows with its cube.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls import batched_linalg
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.inference.pwls.nested_elimination import EffectConditionals, dense, pairs_of
from ranef.inference.pwls.schur_complement import SchurFactor, SchurLayout
from ranef.inference.pwls.sparse_cross_blocks import SparseCrossBlocks
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Levels = NDArray[np.int64]


@dataclass(frozen=True)
class CrossedElimination:
    """An `Elimination` of one factor, and the system that remains.

    Attributes:
        factor: index of the eliminated factor.
        own: cross-products of each of its levels with itself.
        columns: cross-products with the common columns and the response.
        cross_blocks: sparse cross-products with the coefficients of the remaining factors.
        remainder: layout of the remaining coefficients.
        matrix: cross-products of the remaining coefficients before the elimination.
    """

    takes_batches: ClassVar[bool] = False
    has_row_covariances: ClassVar[bool] = False

    factor: int
    own: Float[Array, "_k _k 1 _levels"]
    columns: Float[Array, "_k _q 1 _levels"]
    cross_blocks: SparseCrossBlocks
    remainder: SchurLayout
    matrix: Float[Array, "_Q Q"]

    @classmethod
    def of(cls, products: CrossProducts, factor: int, rest: Sequence[int]) -> "CrossedElimination":
        """The elimination of `factor`; the factors `rest` remain."""
        levels, widths = products.levels, products.widths
        remainder = SchurLayout.of(
            [(f, levels[f], widths[f]) for f in rest], len(products.common) - 1
        )
        level, places, values = [], [], []
        for span in remainder.slices:
            pairs = pairs_of(products, factor, span.factor)
            for c in range(span.width):
                level.append(pairs.left)
                places.append(span.start + pairs.right * span.width + c)
                values.append(pairs.values[:, c])
        flat_level, flat_place = np.concatenate(level), np.concatenate(places)
        order = np.lexsort((flat_place, flat_level))
        flat_level = flat_level[order]
        return cls(
            factor,
            products.own[factor][:, :, None],
            products.cross[factor][:, :, None],
            SparseCrossBlocks(
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
        """Cost of an evaluation in array elements.

        The cost of factorizing the dense matrix is converted by its time.
        """
        return (
            self.own.size
            + self.columns.size
            + 4 * self.cross_blocks.values.size
            + self.remainder.size**3 // 1_000
        )

    def factorize(
        self, roots: Sequence[Float[Array, "1 _k _k"]], penalty: Float[Array, "1 q q"]
    ) -> "CrossedFactorization":
        """The factorization at one value of the hyperparameters, B = 1."""
        k, r = len(self.own), self.remainder.random
        found = _EliminatedLevels.of(roots[self.factor], self.every)
        columns = found.half[:, k:]
        g = self.matrix.copy()
        self.cross_blocks.subtract_gram(g[:r, :r], found.reduce)
        g[:r, r:] -= self.cross_blocks.turned(found.reduce, columns[:, :, 0])
        g[r:, :r] = g[:r, r:].T
        g[r:, r:] -= batched_linalg.gram(columns, columns)[0]
        rest = {span.factor: roots[span.factor] for span in self.remainder.slices}
        remainder = self.remainder.factorize(g[None], rest, penalty)
        return CrossedFactorization(self, found, remainder)

    @cached_property
    def every(self) -> Float[Array, "k _m 1 levels"]:
        """[own, columns] of each level, with k + q columns."""
        return np.concatenate([self.own, self.columns], axis=1)

    def bare(self) -> "CrossedElimination":
        """The same elimination with no other cross-products than the sparse ones."""
        own, columns = self.own[..., :0], self.columns[..., :0]
        return replace(self, own=own, columns=columns, matrix=self.matrix[:0])

    def family(
        self, levels: Mapping[int, Int[Levels, "_levels"]]
    ) -> dict[int, Int[Levels, "_levels"]]:
        """The given levels of the eliminated factor, sorted; they have no ancestors."""
        return {f: np.unique(own) for f, own in levels.items() if f == self.factor}

    def parents(
        self, factor: int, levels: Int[Levels, "levels"]
    ) -> dict[int, Int[Levels, "levels"]]:
        """Empty, because no factor is eliminated later."""
        return {}

    def drawn(
        self,
        factor: int,
        levels: Int[Levels, "levels"],
        conditionals: EffectConditionals,
        above: Iterable[Float[Array, "_l draws levels"]],
        noise: Float[Array, "k draws levels"],
    ) -> Float[Array, "k draws levels"]:
        """Exact draws, by factorizing these levels anew."""
        every = np.ascontiguousarray(conditionals.every[0][..., levels])
        found = _EliminatedLevels.of(conditionals.roots[factor], every)
        half = found.half[:, len(every) :]
        rest = self.cross_blocks.at(levels).left(conditionals.last, half, found.reduce)
        return found.effects(rest + conditionals.sigma[:, None] * noise)


@dataclass(frozen=True)
class _EliminatedLevels:
    """The factorization of levels of the eliminated factor.

    Attributes:
        root: Lambda.
        every: cross-products with itself, common columns and response: k + q columns.
        lower: Cholesky factor L of Lambda' A Lambda + I.
        half: L^-1 Lambda' `every`.
        reduce: L^-1 Lambda'.
    """

    root: Float[Array, "k k 1 1"]
    every: Float[Array, "k m 1 levels"]
    lower: Float[Array, "k k 1 levels"]
    half: Float[Array, "k m 1 levels"]
    reduce: Float[Array, "k k levels"]

    @classmethod
    def of(
        cls, root: Float[Array, "1 k k"], every: Float[Array, "k m 1 levels"]
    ) -> "_EliminatedLevels":
        """From Lambda and the cross-products of all levels or of some."""
        k = len(every)
        root = np.ascontiguousarray(root.transpose(1, 2, 0))[..., None]
        turned = batched_linalg.transposed(root)
        scaled = batched_linalg.times(turned, every)
        d = batched_linalg.times(turned, batched_linalg.transposed(scaled[:, :k]))
        d[np.arange(k), np.arange(k)] += 1.0
        lower = batched_linalg.cholesky(d)
        reduce = batched_linalg.forward(lower, np.broadcast_to(turned, lower.shape))[:, :, 0]
        return cls(root, every, lower, batched_linalg.forward(lower, scaled), reduce)

    def effects(self, rest: Float[Array, "k draws levels"]) -> Float[Array, "k draws levels"]:
        """Lambda L'^-1 rest."""
        return batched_linalg.times(self.root, batched_linalg.backward(self.lower, rest[:, None]))[
            :, 0
        ]


@dataclass(frozen=True)
class CrossedFactorization:
    """The factorization of the whole system at one value of the hyperparameters.

    Attributes:
        crossed: the elimination.
        levels: the factorization of the eliminated levels.
        remainder: the factorization of the Schur complement.
    """

    crossed: CrossedElimination
    levels: _EliminatedLevels
    remainder: SchurFactor

    @property
    def log_det_random(self) -> Float[Array, "1"]:
        """Log |Lambda' Z'WZ Lambda + I|."""
        lower, k = self.levels.lower, np.arange(len(self.levels.root))
        return self.remainder.log_det_random + 2 * np.log(lower[k, k]).sum(axis=(0, 2))

    def conditionals(
        self,
        roots: tuple[Float[Array, "1 _k _k"], ...],
        sigma: Float[Array, "draws"],
        last: Float[Array, "draws Q"],
    ) -> EffectConditionals:
        """The conditional distributions of the effects, given draws `last` of the remainder."""
        return EffectConditionals(roots, (self.levels.every,), sigma, last)

    def effects(self) -> tuple[dict[int, Float[Array, "1 _levels _k"]], Float[Array, "1 Q"]]:
        """The solution by back-substitution."""
        last, levels = self.remainder.coefficients, self.levels
        half = levels.half[:, len(levels.root) :]
        b = levels.effects(self.crossed.cross_blocks.left(last, half, levels.reduce))
        out = {self.crossed.factor: b.transpose(1, 2, 0)}
        return {**out, **self.remainder.layout.effects(last)}, last

    def covariances(self, *, common: bool) -> "CrossedCovariances":
        """Blocks of the posterior covariance; with `common`, common effects are uncertain."""
        return CrossedCovariances(self, common=common)


class CrossedCovariances:
    """Blocks of the posterior covariance of the coefficients, in units of sigma^2.

    As in `SelectedInverse`, cov(b_j, b_j) = Lambda D^-1 Lambda' + R_j V R_j', where V is the
    covariance of the remaining coefficients and R_j has few nonzero columns. V itself is dense.

    Args:
        system: the factorization.
        common: whether common effects are uncertain; otherwise they are held fixed.

    Attributes:
        system: the factorization.
        inverse: "1 m m", inverse of the Schur complement.
        last: "1 Q Q", covariance V of the remaining coefficients.
    """

    def __init__(self, system: CrossedFactorization, *, common: bool) -> None:
        self.system = system
        self.inverse = system.remainder.inverse(common=common)
        self.last = system.remainder.covariance(self.inverse)

    def _congruence(
        self, root: Float[Array, "k k levels"], half: Float[Array, "k q 1 levels"]
    ) -> Float[Array, "k k 1 levels"]:
        """X V X' of every level, for X = [root v, half]."""
        blocks, v = self.system.crossed.cross_blocks, self.last[0]
        r = blocks.r
        out = batched_linalg.quadratic(half, self.last[:, r:, r:])[:, :, 0]
        mixed = blocks.times(root, np.ascontiguousarray(v[:r, r:]))
        crossings = np.einsum("aqj,cqj->acj", mixed, half[:, :, 0])
        out = out + crossings + crossings.transpose(1, 0, 2)
        return (out + blocks.congruence(root, v[:r, :r]))[:, :, None]

    def _eliminated(self) -> Float[Array, "k k 1 levels"]:
        """The covariance matrix of the eliminated effects of each level."""
        levels = self.system.levels
        back = batched_linalg.backward(levels.lower, levels.half[:, len(levels.root) :])
        reach = batched_linalg.times(levels.root, back)
        whole = np.einsum("baj,bcj->acj", levels.reduce, levels.reduce)
        return self._congruence(whole, reach) + whole[:, :, None]

    def variances(self) -> tuple[dict[int, Float[Array, "1 _levels _k"]], Float[Array, "1 Q"]]:
        """Variances of the effects by factor, and of the remainder."""
        system = self.system
        at = np.arange(len(system.levels.root))
        out = {system.crossed.factor: self._eliminated()[at, at].transpose(1, 2, 0)}
        last = np.diagonal(self.last, axis1=1, axis2=2)
        for span in system.remainder.layout.slices:
            out[span.factor] = last[:, span.place].reshape(1, span.levels, span.width)
        return out, last

    def combined(
        self, factor: int, combinations: Float[Array, "m k"]
    ) -> Float[Array, "1 levels m"]:
        """Variances of linear combinations of each level's effects."""
        if factor != self.system.crossed.factor:
            slices = self.system.remainder.layout.slices
            span = next(p for p in slices if p.factor == factor)
            return span.combined(self.last, combinations)
        blocks = self._eliminated()
        return np.einsum("mk,klbj,ml->bjm", combinations, blocks, combinations, optimize=True)

    def derivatives(self) -> dict[int, tuple[Float[Array, "_k _k"], Float[Array, "_k _k"]]]:
        """By factor, d log det / d Lambda and d residual / d Lambda."""
        system, levels = self.system, self.system.levels
        k = len(levels.root)
        out = system.remainder.derivatives(self.inverse)
        own = levels.half[:, :k]
        reduced = levels.every - batched_linalg.times(batched_linalg.transposed(own), levels.half)
        left = np.eye(k)[:, :, None] - np.einsum("baj,bcj->acj", own[:, :, 0], levels.reduce)
        explained = self._congruence(left, reduced[:, k:])
        information = (reduced[:, :k] - explained)[:, :, 0].sum(axis=-1)
        last = system.remainder.coefficients
        score = system.crossed.cross_blocks.left(last, reduced[:, k:], left)[:, 0]
        root = levels.root[..., 0, 0]
        out[system.crossed.factor] = (2 * information @ root, -2 * (score @ score.T) @ root)
        return out
