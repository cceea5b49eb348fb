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
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Levels = NDArray[np.int64]


@dataclass(frozen=True)
class EliminationStage:
    """One factor of the chain, with its levels sorted so that children of a parent are adjacent.

    Attributes:
        factor: index of the factor.
        order: the level at each position.
        own: cross-products of each level with itself.
        later: by later factor of the chain, cross-products of each level with the parent in that
            factor.
        parents: by later factor, the position of each level's parent.
        starts: by later factor, the position of the first child of each parent.
        columns: cross-products with the remaining coefficients.
    """

    factor: int
    order: Int[Levels, "_levels"]
    own: Float[Array, "_k _k 1 _levels"]
    later: tuple[Float[Array, "_k _l 1 _levels"], ...]
    parents: tuple[Int[Levels, "_levels"], ...]
    starts: tuple[Int[Levels, "_parents"], ...]
    columns: Float[Array, "_k _Q 1 _levels"]

    @cached_property
    def every(self) -> Float[Array, "k _m 1 levels"]:
        """[A, C] before any elimination, with k + ... + Q columns."""
        return np.concatenate([self.own, *self.later, self.columns], axis=1)

    @cached_property
    def place(self) -> Int[Levels, "levels"]:
        """The position of each level, the inverse of `order`."""
        out = np.empty(len(self.order), dtype=np.int64)
        out[self.order] = np.arange(len(out))
        return out

    def above(
        self, later: Sequence[Float[Array, "_l draws _parents"]]
    ) -> list[Float[Array, "_l draws _levels"]]:
        """Coefficients of each level's parents, by later factor in chain order.

        `later` holds the coefficients of the later factors, the last factor first.
        """
        pairs = zip(self.parents, reversed(later), strict=True)
        return [b[:, :, place] for place, b in pairs]


@dataclass(frozen=True)
class EffectConditionals:
    """What determines the conditional distributions of the effects of single levels.

    Attributes:
        roots: Lambda of each factor.
        every: by eliminated factor, [A, C] at the time of its elimination, with k + ... + Q
            columns, for all values of the hyperparameters together (1) or for each of them (B).
        sigma: residual sd of each draw. There are B draws unless B is 1.
        last: draws of the remaining coefficients, the last of them the constant -1.
    """

    roots: tuple[Float[Array, "_B _k _k"], ...]
    every: tuple[Float[Array, "_k _m _B _levels"], ...]
    sigma: Float[Array, "_draws"]
    last: Float[Array, "_draws _Q"]


@dataclass(frozen=True)
class NestedElimination:
    """An `Elimination` of nested factors: stages in order, and the system that remains after them.

    Attributes:
        stages: the eliminated factors.
        remainder: layout of the remaining coefficients.
        matrix: cross-products of the remaining coefficients before any elimination.
    """

    takes_batches: ClassVar[bool] = True
    has_row_covariances: ClassVar[bool] = True

    stages: tuple[EliminationStage, ...]
    remainder: SchurLayout
    matrix: Float[Array, "_Q Q"]

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

    def factorize(
        self, roots: Sequence[Float[Array, "B _k _k"]], penalty: Float[Array, "B q q"]
    ) -> "NestedFactorization":
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
            to_later = [half[:, a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
            h = half[:, edges[-1] :]
            for i, t in enumerate(range(s + 1, count)):
                starts = stage.starts[i]

                def less(b: Array, a: Array = to_later[i], starts: NDArray = starts) -> Array:
                    return batched_linalg.segments(batched_linalg.per_level(a, b), starts)

                own[t] = own[t] - less(to_later[i])
                for j in range(i + 1, len(to_later)):
                    later[t][j - i - 1] = later[t][j - i - 1] - less(to_later[j])
                columns[t] = columns[t] - less(h)
            g = g - batched_linalg.gram(h, h)
        rest = {span.factor: roots[span.factor] for span in self.remainder.slices}
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

    def family(
        self, levels: Mapping[int, Int[Levels, "_levels"]]
    ) -> dict[int, Int[Levels, "_levels"]]:
        """The given levels of the chain's factors and all their ancestors."""
        out: dict[int, Levels] = {}
        for stage in self.stages:
            asked = [self.parents(f, own)[stage.factor] for f, own in out.items()]
            asked += [levels[stage.factor]] if stage.factor in levels else []
            if asked:
                out[stage.factor] = np.unique(np.concatenate(asked))
        return dict(reversed(out.items()))

    def parents(
        self, factor: int, levels: Int[Levels, "levels"]
    ) -> dict[int, Int[Levels, "levels"]]:
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
        levels: Int[Levels, "levels"],
        conditionals: EffectConditionals,
        above: Iterable[Float[Array, "_l draws levels"]],
        noise: Float[Array, "k draws levels"],
    ) -> Float[Array, "k draws levels"]:
        """Exact draws, by factorizing these levels anew."""
        s = self._stage(factor)
        places = self.stages[s].place[levels]
        every = np.ascontiguousarray(conditionals.every[s][..., places])
        step = StageFactor.of(conditionals.roots[factor], every)
        rest = step.outer(list(above), conditionals.last) + conditionals.sigma[:, None] * noise
        return step.effects(rest[:, None])[:, 0]


@dataclass(frozen=True)
class StageFactor:
    """The factorization of levels of one stage at B values of the hyperparameters.

    Attributes:
        root: Lambda.
        every: [A, C], with k + ... + Q columns.
        lower: Cholesky factor L of Lambda' A Lambda + I.
        half: L^-1 Lambda' [A, C].
    """

    root: Float[Array, "k k #B 1"]
    every: Float[Array, "k m #B levels"]
    lower: Float[Array, "k k B levels"]
    half: Float[Array, "k m B levels"]

    @classmethod
    def of(
        cls, root: Float[Array, "#B k k"], every: Float[Array, "k m #B levels"]
    ) -> "StageFactor":
        """From Lambda and [A, C] of all levels or of some."""
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

    def effects(self, rest: Float[Array, "k m B levels"]) -> Float[Array, "k m B levels"]:
        """Lambda L'^-1 rest: the effects b from `outer`."""
        return batched_linalg.times(self.root, batched_linalg.backward(self.lower, rest))

    def outer(
        self, above: Sequence[Float[Array, "_l draws levels"]], last: Float[Array, "draws Q"]
    ) -> Float[Array, "_k draws levels"]:
        """Right-hand side -half_C c for known later coefficients c.

        Args:
            above: by later stage, coefficients of each level's parent.
            last: remaining coefficients. The constant -1 at their end brings in the response.

        Returns:
            The side from which `effects` computes the conditional means.
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
    def log_det_random(self) -> Float[Array, "B"]:
        """Log |Lambda' Z'WZ Lambda + I|."""
        out = self.remainder.log_det_random
        for step in self.steps:
            k = np.arange(step.width)
            # The product of all pivots could overflow, so their logarithms are added.
            out = out + 2 * np.log(step.lower[k, k]).sum(axis=(0, 2))
        return out

    def conditionals(
        self,
        roots: tuple[Float[Array, "_B _k _k"], ...],
        sigma: Float[Array, "draws"],
        last: Float[Array, "draws Q"],
    ) -> EffectConditionals:
        """The conditional distributions of the effects, given draws `last` of the remainder."""
        return EffectConditionals(roots, tuple(step.every for step in self.steps), sigma, last)

    def effects(self) -> tuple[dict[int, Float[Array, "B _levels _k"]], Float[Array, "B Q"]]:
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


def dense(products: CrossProducts, remainder: SchurLayout) -> Float[Array, "Q Q"]:
    """The cross-products among the remaining coefficients as a dense matrix."""
    out = np.zeros((remainder.size, remainder.size))
    r = remainder.random
    out[r:, r:] = products.common
    for span in remainder.slices:
        place = span.start + np.arange(span.levels)[:, None] * span.width + np.arange(span.width)
        own = products.own[span.factor].transpose(2, 0, 1)
        out[place[:, :, None], place[:, None, :]] = own
        across = (
            products.cross[span.factor].transpose(2, 0, 1).reshape(-1, products.common.shape[0])
        )
        out[span.place, r:], out[r:, span.place] = across, across.T
        for other in remainder.slices:
            if other.start > span.start:
                pairs = pairs_of(products, span.factor, other.factor)
                a = span.start + pairs.left * span.width + np.arange(span.width)[:, None]
                b = other.start + pairs.right * other.width + np.arange(other.width)[:, None]
                out[a[:, None], b[None]] = pairs.values
                out[b[None], a[:, None]] = pairs.values
    return out


def _columns(
    products: CrossProducts, factor: int, remainder: SchurLayout
) -> Float[Array, "k Q levels"]:
    """Cross-products of each level of a factor with the remaining coefficients."""
    k, levels = products.widths[factor], products.levels[factor]
    out = np.zeros((k, remainder.size, levels))
    out[:, remainder.random :] = products.cross[factor]
    for span in remainder.slices:
        pairs = pairs_of(products, factor, span.factor)
        for c in range(span.width):
            out[:, span.start + pairs.right * span.width + c, pairs.left] = pairs.values[:, c]
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

    A factor with a level that no row has, because rows are held out, counts as not nested: the
    elimination requires that every level of either factor occurs.
    """
    pairs = pairs_of(products, f, h)
    once = np.array_equal(pairs.left, np.arange(products.levels[f]))
    return once and len(np.unique(pairs.right)) == products.levels[h]


def _family_order(
    products: CrossProducts, chain: Sequence[int]
) -> tuple[list[Int[Levels, "_levels"]], list[dict[int, Int[Levels, "_levels"]]]]:
    """For each factor of a chain, an order of its levels and the parent of each level.

    The order makes the children of each parent adjacent. Parents are indexed by later position in
    the chain.
    """
    parents = [
        {t: pairs_of(products, f, chain[t]).right for t in range(s + 1, len(chain))}
        for s, f in enumerate(chain)
    ]
    orders: list[Levels] = [np.arange(0)] * len(chain)
    for s in reversed(range(len(chain))):
        levels = products.levels[chain[s]]
        if s + 1 == len(chain):
            orders[s] = np.arange(levels)
            continue
        place = np.empty(len(orders[s + 1]), dtype=np.int64)
        place[orders[s + 1]] = np.arange(len(place))
        orders[s] = np.argsort(place[parents[s][s + 1]], kind="stable")
    return orders, parents
