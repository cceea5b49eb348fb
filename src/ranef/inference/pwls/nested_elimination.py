"""Block Cholesky elimination of a chain of nested grouping factors, level by level.

Each level of a factor in the chain lies within one level of the next factor. The cross-products
of every factor therefore stay block-diagonal after the factors before it have been eliminated.
For one level of a factor with relative root Lambda, let A be its own cross-products and C those
with everything that is eliminated later or remains. The elimination of this level computes

    D = Lambda' A Lambda + I = L L',  half = L^-1 Lambda' [A, C],

and subtracts half_C' half_C, with the columns half_C that belong to C, from the cross-products
of everything that comes later. Cross-products with the remaining coefficients (other factors,
common effects, response) are held as dense columns. All arrays have an axis for B values of the
hyperparameters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls import batched_linalg
from ranef.inference.pwls.cross_products import CrossProducts, LevelPairs
from ranef.inference.pwls.schur_complement import SchurFactor, SchurLayout
from ranef.inference.pwls.selected_inverse import SelectedInverse

Array = NDArray[np.float64]


@dataclass(frozen=True)
class EliminationStage:
    """One factor of the chain, with its levels sorted so that children of a parent are adjacent.

    Attributes:
        factor: index of the factor.
        order: (J,) the level at each position.
        own: (k, k, 1, J) cross-products of each level with itself.
        later: by later factor of the chain, cross-products of each level with the parent in that
            factor, (k, k', 1, J).
        parents: by later factor, the position of each level's parent, (J,).
        starts: by later factor, the position of the first child of each parent, (J',).
        columns: (k, Q, 1, J) cross-products with the remaining coefficients.
    """

    factor: int
    order: NDArray[np.int64]
    own: Array
    later: tuple[Array, ...]
    parents: tuple[NDArray[np.int64], ...]
    starts: tuple[NDArray[np.int64], ...]
    columns: Array

    @cached_property
    def every(self) -> Array:
        """[A, C] before any elimination, (k, k + ... + Q, 1, J)."""
        return np.concatenate([self.own, *self.later, self.columns], axis=1)

    @cached_property
    def place(self) -> NDArray[np.int64]:
        """(J,) the position of each level, the inverse of `order`."""
        out = np.empty(len(self.order), dtype=np.int64)
        out[self.order] = np.arange(len(out))
        return out

    def above(self, later: Sequence[Array]) -> list[Array]:
        """Coefficients of each level's parents, (k', M, J) by later factor in chain order.

        `later` holds the coefficients (k', M, J') of the later factors, the last factor first.
        """
        pairs = zip(self.parents, reversed(later), strict=True)
        return [b[:, :, place] for place, b in pairs]


@dataclass(frozen=True)
class EffectConditionals:
    """What determines the conditional distributions of the effects of single levels.

    Attributes:
        roots: Lambda of each factor, (B, k, k), at B values of the hyperparameters.
        every: by eliminated factor, [A, C] at the time of its elimination,
            (k, k + ... + Q, 1 or B, J).
        sigma: (M,) residual sd of each draw; M equals B unless B is 1.
        last: (M, Q) draws of the remaining coefficients, the last of them the constant -1.
    """

    roots: tuple[Array, ...]
    every: tuple[Array, ...]
    sigma: Array
    last: Array


@dataclass(frozen=True)
class NestedElimination:
    """An `Elimination` of nested factors: stages in order, and the system that remains after them.

    Attributes:
        stages: the eliminated factors.
        remainder: layout of the remaining coefficients.
        matrix: (Q, Q) cross-products of the remaining coefficients before any elimination.
    """

    takes_batches: ClassVar[bool] = True
    has_row_covariances: ClassVar[bool] = True

    stages: tuple[EliminationStage, ...]
    remainder: SchurLayout
    matrix: Array

    @classmethod
    def of(
        cls, products: CrossProducts, chain: Sequence[int], rest: Sequence[int]
    ) -> "NestedElimination":
        """The elimination of the factors `chain`, each nested in the next ones; `rest` remain."""
        levels, widths = products.levels, products.widths
        remainder = SchurLayout.of(
            [(f, levels[f], widths[f]) for f in rest], len(products.common) - 1
        )
        orders, parents = _family_order(products, chain)
        stages = []
        for s, f in enumerate(chain):
            order = orders[s]
            later, places, starts = [], [], []
            for t in range(s + 1, len(chain)):
                values = pairs_of(products, f, chain[t]).values[..., order]
                later.append(values[:, :, None])
                place = np.empty(levels[chain[t]], dtype=np.int64)
                place[orders[t]] = np.arange(levels[chain[t]])
                places.append(place[parents[s][t][order]])
                starts.append(np.flatnonzero(np.diff(places[-1], prepend=-1)))
            stages.append(
                EliminationStage(
                    f,
                    order,
                    products.own[f][:, :, None, order],
                    tuple(later),
                    tuple(places),
                    tuple(starts),
                    _columns(products, f, remainder)[:, :, None, order],
                )
            )
        return cls(tuple(stages), remainder, dense(products, remainder))

    @property
    def cells(self) -> int:
        """Cost of an evaluation: array elements held for one value of the hyperparameters."""
        return (
            sum(
                stage.own.size + stage.columns.size + sum(x.size for x in stage.later)
                for stage in self.stages
            )
            + len(self.matrix) ** 2
        )

    def factorize(self, roots: Sequence[Array], penalty: Array) -> "NestedFactorization":
        """The factorization, stage by stage, at B values of the hyperparameters at once."""
        batch = len(penalty)
        count = len(self.stages)
        own = [stage.own for stage in self.stages]
        later = [list(stage.later) for stage in self.stages]
        columns = [stage.columns for stage in self.stages]
        g = np.repeat(self.matrix[None], batch, axis=0)
        steps = []
        for s, stage in enumerate(self.stages):
            every = np.concatenate([own[s], *later[s], columns[s]], axis=1) if s else stage.every
            steps.append(StageFactor.of(roots[stage.factor], every))
            half, k = steps[-1].half, len(every)
            if s + 1 == count:
                h = half[:, k:]
                g = g - batched_linalg.gram(h, h)
                continue
            widths = [own[t].shape[1] for t in range(s + 1, count)]
            edges = np.cumsum([k, *widths])
            parts = [half[:, a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
            h = half[:, edges[-1] :]
            for i, t in enumerate(range(s + 1, count)):
                starts = stage.starts[i]

                def less(b: Array, a: Array = parts[i], starts: NDArray = starts) -> Array:
                    return batched_linalg.segments(batched_linalg.per_level(a, b), starts)

                own[t] = own[t] - less(parts[i])
                for j in range(i + 1, len(parts)):
                    later[t][j - i - 1] = later[t][j - i - 1] - less(parts[j])
                columns[t] = columns[t] - less(h)
            g = g - batched_linalg.gram(h, h)
        rest = {part.factor: roots[part.factor] for part in self.remainder.parts}
        return NestedFactorization(
            self.stages, tuple(steps), self.remainder.factorize(g, rest, penalty)
        )

    def bare(self) -> "NestedElimination":
        """The same elimination without cross-products."""
        stages = tuple(
            replace(
                stage,
                own=stage.own[..., :0],
                later=tuple(pairs[..., :0] for pairs in stage.later),
                columns=stage.columns[..., :0],
            )
            for stage in self.stages
        )
        return NestedElimination(stages, self.remainder, self.matrix[:0])

    def _stage(self, factor: int) -> int:
        return [stage.factor for stage in self.stages].index(factor)

    def family(self, levels: Mapping[int, NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
        """The given levels of the chain's factors and all their ancestors."""
        out: dict[int, NDArray[np.int64]] = {}
        for stage in self.stages:
            asked = [self.parents(f, own)[stage.factor] for f, own in out.items()]
            asked += [levels[stage.factor]] if stage.factor in levels else []
            if asked:
                out[stage.factor] = np.unique(np.concatenate(asked))
        return dict(reversed(out.items()))

    def parents(self, factor: int, levels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """By later factor of the chain, the level in which each of `levels` is nested."""
        s = self._stage(factor)
        stage = self.stages[s]
        places = stage.place[levels]
        return {
            later.factor: later.order[parents[places]]
            for later, parents in zip(self.stages[s + 1 :], stage.parents, strict=True)
        }

    def drawn(
        self,
        factor: int,
        levels: NDArray[np.int64],
        given: EffectConditionals,
        above: Iterable[Array],
        noise: Array,
    ) -> Array:
        """Exact draws (k, M, J), by factorizing the given levels anew."""
        s = self._stage(factor)
        places = self.stages[s].place[levels]
        every = np.ascontiguousarray(given.every[s][..., places])
        step = StageFactor.of(given.roots[factor], every)
        rest = step.outer(list(above), given.last) + given.sigma[:, None] * noise
        return step.effects(rest[:, None])[:, 0]


@dataclass(frozen=True)
class StageFactor:
    """The factorization of levels of one stage at B values of the hyperparameters.

    Attributes:
        root: (k, k, B, 1) Lambda.
        every: (k, k + ... + Q, 1 or B, J) [A, C].
        lower: (k, k, B, J) Cholesky factor L of Lambda' A Lambda + I.
        half: (k, k + ... + Q, B, J) L^-1 Lambda' [A, C].
    """

    root: Array
    every: Array
    lower: Array
    half: Array

    @classmethod
    def of(cls, root: Array, every: Array) -> "StageFactor":
        """From Lambda (B, k, k) and [A, C] of all levels or of some."""
        k = len(every)
        root = np.ascontiguousarray(root.transpose(1, 2, 0))[..., None]
        scaled = batched_linalg.times(batched_linalg.transposed(root), every)
        d = batched_linalg.times(
            batched_linalg.transposed(root), batched_linalg.transposed(scaled[:, :k])
        )
        d[np.arange(k), np.arange(k)] += 1.0
        lower = batched_linalg.cholesky(d)
        return cls(root, every, lower, batched_linalg.forward(lower, scaled))

    @property
    def width(self) -> int:
        """Number of columns k."""
        return len(self.root)

    def effects(self, rest: Array) -> Array:
        """Lambda L'^-1 rest, for rest (k, m, B, J): the effects b from `outer`."""
        return batched_linalg.times(self.root, batched_linalg.backward(self.lower, rest))

    def outer(self, above: Sequence[Array], last: Array) -> Array:
        """Right-hand side -half_C c for given later coefficients c.

        Args:
            above: by later stage, coefficients of each level's parent, (k', M, J).
            last: (M, Q) remaining coefficients. The constant -1 at their end brings in the
                response.

        Returns:
            (k, M, J), from which `effects` computes the conditional means.
        """
        out = -batched_linalg.combine(self.half[:, self.half.shape[1] - last.shape[1] :], last)
        start = self.width
        for b in above:
            for c in range(len(b)):
                out -= self.half[:, start + c] * b[c]
            start += len(b)
        return out


@dataclass(frozen=True)
class NestedFactorization:
    """The factorization of the whole system at B values of the hyperparameters.

    Attributes:
        stages: the eliminated factors in order.
        steps: the factorization of each stage.
        remainder: the factorization of the Schur complement.
    """

    stages: tuple[EliminationStage, ...]
    steps: tuple[StageFactor, ...]
    remainder: SchurFactor

    @property
    def log_det_random(self) -> Array:
        """(B,) log |Lambda' Z'WZ Lambda + I|."""
        out = self.remainder.log_det_random
        for step in self.steps:
            k = np.arange(step.width)
            # The product of all pivots could overflow, so their logarithms are added.
            out = out + 2 * np.log(step.lower[k, k]).sum(axis=(0, 2))
        return out

    def given(self, roots: tuple[Array, ...], sigma: Array, last: Array) -> EffectConditionals:
        """The conditional distributions of the effects, given draws `last` of the remainder."""
        return EffectConditionals(roots, tuple(step.every for step in self.steps), sigma, last)

    def effects(self) -> tuple[dict[int, Array], Array]:
        """The solution by back-substitution, from the last stage to the first."""
        last = self.remainder.coefficients
        found: list[Array] = []
        out: dict[int, Array] = {}
        for step, stage in zip(reversed(self.steps), reversed(self.stages), strict=True):
            b = step.effects(step.outer(stage.above(found), last)[:, None])[:, 0]
            found.append(b)
            out[stage.factor] = np.empty((b.shape[1], b.shape[2], b.shape[0]))
            out[stage.factor][:, stage.order] = b.transpose(1, 2, 0)
        return {**out, **self.remainder.layout.effects(last)}, last

    def covariances(self, *, common: bool) -> SelectedInverse:
        """The selected inverse; with `common`, common effects are uncertain."""
        return SelectedInverse(self, common=common)


def dense(products: CrossProducts, remainder: SchurLayout) -> Array:
    """The cross-products among the remaining coefficients as a dense matrix, (Q, Q)."""
    out = np.zeros((remainder.size, remainder.size))
    r = remainder.random
    out[r:, r:] = products.common
    for part in remainder.parts:
        place = part.start + np.arange(part.levels)[:, None] * part.width + np.arange(part.width)
        own = products.own[part.factor].transpose(2, 0, 1)
        out[place[:, :, None], place[:, None, :]] = own
        across = (
            products.cross[part.factor].transpose(2, 0, 1).reshape(-1, products.common.shape[0])
        )
        out[part.place, r:], out[r:, part.place] = across, across.T
        for other in remainder.parts:
            if other.start > part.start:
                pairs = pairs_of(products, part.factor, other.factor)
                a = part.start + pairs.left * part.width + np.arange(part.width)[:, None]
                b = other.start + pairs.right * other.width + np.arange(other.width)[:, None]
                out[a[:, None], b[None]] = pairs.values
                out[b[None], a[:, None]] = pairs.values
    return out


def _columns(products: CrossProducts, factor: int, remainder: SchurLayout) -> Array:
    """Cross-products of each level of a factor with the remaining coefficients, (k, Q, J)."""
    k, levels = products.widths[factor], products.levels[factor]
    out = np.zeros((k, remainder.size, levels))
    out[:, remainder.random :] = products.cross[factor]
    for part in remainder.parts:
        pairs = pairs_of(products, factor, part.factor)
        for c in range(part.width):
            out[:, part.start + pairs.right * part.width + c, pairs.left] = pairs.values[:, c]
    return out


def pairs_of(products: CrossProducts, f: int, h: int) -> LevelPairs:
    """The blocks of Z_f' W Z_h for any two factors, sorted by the level of f."""
    if f < h:
        return products.pairs[f, h]
    turned = products.pairs[h, f]
    order = np.argsort(turned.right, kind="stable")
    return LevelPairs(
        turned.right[order], turned.left[order], turned.values.transpose(1, 0, 2)[..., order]
    )


def nested(products: CrossProducts, f: int, h: int) -> bool:
    """Whether f is nested in h: each level of f occurs with exactly one level of h.

    Levels that no row has, such as those that rows held out take with them, make no factor nested:
    the elimination takes it that every level of either factor occurs.
    """
    pairs = pairs_of(products, f, h)
    once = np.array_equal(pairs.left, np.arange(products.levels[f]))
    return once and len(np.unique(pairs.right)) == products.levels[h]


def _family_order(
    products: CrossProducts, chain: Sequence[int]
) -> tuple[list[NDArray[np.int64]], list[dict[int, NDArray[np.int64]]]]:
    """For each factor of a chain, an order of its levels and the parent of each level.

    The order makes the children of each parent adjacent. Parents are given by later position in
    the chain, (J,).
    """
    parents = [
        {t: pairs_of(products, f, chain[t]).right for t in range(s + 1, len(chain))}
        for s, f in enumerate(chain)
    ]
    orders: list[NDArray[np.int64]] = [np.arange(0)] * len(chain)
    for s in reversed(range(len(chain))):
        levels = products.levels[chain[s]]
        if s + 1 == len(chain):
            orders[s] = np.arange(levels)
            continue
        place = np.empty(len(orders[s + 1]), dtype=np.int64)
        place[orders[s + 1]] = np.arange(len(place))
        orders[s] = np.argsort(place[parents[s][s + 1]], kind="stable")
    return orders, parents
