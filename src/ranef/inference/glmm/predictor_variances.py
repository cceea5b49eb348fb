"""The posterior covariance of each row's linear predictors, from the selected inverse.

    C_i = [x_i z_i] V [x_i z_i]'      (K, K)

V is the covariance of all coefficients. Only its blocks for coefficients that occur together in
some row are needed, and these the selected inverse has.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ranef.inference.glmm.arrays import Array, Blocks, PerRow
from ranef.inference.glmm.reweighted_products import ReweightedProducts, predictors_of
from ranef.inference.pwls.cross_products import GroupingFactor
from ranef.inference.pwls.selected_inverse import SelectedInverse
from ranef.numerics.shapes import Bool, Float, Int

# Indices of coefficients.
Places = Int[NDArray[np.int64], "q"]


def predictor_covariances(found: SelectedInverse, rows: ReweightedProducts) -> Blocks:
    """Covariances of the predictors, at one value of theta.

    Args:
        found: selected inverse of the system, with all blocks.
        rows: whose cross-products were solved.
    """
    layout = rows.layout
    n, k = layout.known.shape
    out = np.zeros((n, k, k))
    blocks = _CoefficientCovariances(found, rows)
    _add_common(out, blocks)
    for f, factor in enumerate(layout.factors):
        for kc, which, x in blocks.by_predictor:
            for ka, each in _by_column(blocks, f, which, x):
                out[:, ka, kc] += each
                out[:, kc, ka] += each
        for h, other in enumerate(layout.factors[: f + 1]):
            both = factor.levels == other.levels == 1
            for ka, kb, each in _of_all(blocks, f, h) if both else _of_levels(blocks, f, h):
                out[:, ka, kb] += each
                if h != f:
                    out[:, kb, ka] += each
    return out


def _by_column(
    blocks: "_CoefficientCovariances", f: int, which: Places, x: Float[Array, "n q"]
) -> Iterator[tuple[int, PerRow]]:
    """By predictor, covariances of a factor's contribution with that of common effects.

    `which` are places of common effects, and x are their columns.
    """
    factor = blocks.layout.factors[f]
    if factor.levels == 1:
        for k, z, here in _split(factor):
            yield k, _row_products(z @ blocks.common_of_all(f)[here][:, which], x)
        return
    for a, k in enumerate(predictors_of(factor)):
        yield int(k), factor.columns[:, a] * blocks.with_common(f, a, which, x)


def _of_all(blocks: "_CoefficientCovariances", f: int, h: int) -> Iterator[tuple[int, int, PerRow]]:
    """By pair of predictors, covariances of two factors that have one level each."""
    block = np.stack([blocks.between(f, a, h, slice(1))[0] for a in range(blocks.widths[f])])
    for ka, z, own in _split(blocks.layout.factors[f]):
        moved = z @ block[own]
        for kb, x, other in _split(blocks.layout.factors[h]):
            yield ka, kb, _row_products(moved[:, other], x)


def _of_levels(
    blocks: "_CoefficientCovariances", f: int, h: int
) -> Iterator[tuple[int, int, PerRow]]:
    """By pair of predictors, covariances of two factors at the levels of each row."""
    factor, other = blocks.layout.factors[f], blocks.layout.factors[h]
    if factor.levels == 1:
        yield from ((ka, kb, each) for kb, ka, each in _of_levels(blocks, h, f))
        return
    for a, ka in enumerate(predictors_of(factor)):
        beside = blocks.between(f, a, h)
        for kb, x, here in _split(other):
            yield int(ka), kb, factor.columns[:, a] * _row_products(beside[:, here], x)


def _row_products(a: Float[Array, "n k"], b: Float[Array, "n k"]) -> PerRow:
    """The inner product of two matrices' rows."""
    return np.einsum("nk,nk->n", a, b)


def _split(
    factor: GroupingFactor,
) -> list[tuple[int, Float[Array, "n _"], slice | Bool[NDArray[np.bool_], "k"]]]:
    """For each predictor, the factor's columns that add to it, and their places."""
    own = predictors_of(factor)
    if (own == own[0]).all():
        return [(int(own[0]), factor.columns, slice(None))]
    return [(int(k), factor.columns[:, own == k], own == k) for k in np.unique(own)]


def _by_predictor(rows: ReweightedProducts) -> list[tuple[int, Places, Float[Array, "n q"]]]:
    """For each predictor, the places of its common columns, and these columns."""
    predictor = rows.layout.predictor
    own = [(int(k), np.flatnonzero(predictor == k)) for k in np.unique(predictor)]
    if len(own) == 1:
        return [(*own[0], rows.columns)]
    return [(k, which, rows.columns[:, which]) for k, which in own]


def _add_common(out: Blocks, blocks: "_CoefficientCovariances") -> None:
    """Adds the covariances of the common effects' contributions."""
    for k, which, x in blocks.by_predictor:
        moved = x @ blocks.common[which]
        for m, others, other in blocks.by_predictor:
            out[:, k, m] += _row_products(moved[:, others], other)


class _CoefficientCovariances:
    """Blocks of V for coefficients that occur together in a row, at the levels of each row."""

    def __init__(self, found: SelectedInverse, rows: ReweightedProducts) -> None:
        system = found.system
        self.found, self.layout = found, rows.layout
        self.by_predictor = _by_predictor(rows)
        self.last = found.last[0]
        self.random, self.size = system.remainder.layout.random, len(self.last) - 1
        self.common = self.last[self.random : self.size, self.random : self.size]
        self.stage = {stage.factor: s for s, stage in enumerate(system.stages)}
        self.slice = {each.factor: each for each in system.remainder.layout.slices}
        self.widths = [factor.columns.shape[1] for factor in self.layout.factors]
        self.place: dict[int, NDArray[np.integer]] = {}
        for f, factor in enumerate(self.layout.factors):
            if f in self.stage:
                self.place[f] = system.stages[self.stage[f]].place[factor.codes]
            else:
                own = self.slice[f]
                self.place[f] = own.start + factor.codes.astype(np.int64) * own.width

    def with_common(self, f: int, a: int, which: Places, x: Float[Array, "n q"]) -> PerRow:
        """Covariances of coefficient a of factor f with x times common effects."""
        columns = self.random + which
        if f in self.stage:
            block = self.found.blocks[self.stage[f]][2][a, columns, 0].T
            return _row_products(block[self.place[f]], x)
        return _row_products(self.last[:, columns][self.place[f] + a], x)

    def common_of_all(self, f: int) -> Float[Array, "k p"]:
        """Covariances of the coefficients of a one-level factor with the common effects."""
        which, start = slice(self.random, self.size), int(self.place[f][0])
        if f in self.stage:
            return self.found.blocks[self.stage[f]][2][:, which, 0, start]
        return self.last[start : start + self.widths[f], which]

    def between(self, f: int, a: int, h: int, which: slice = slice(None)) -> Float[Array, "n k"]:
        """Covariances of coefficient a of factor f with all of factor h, for some rows."""
        at, to = self.place[f][which], self.place[h][which]
        every = to[:, None] + np.arange(self.widths[h])
        if f not in self.stage:
            if h in self.stage:
                return self.found.blocks[self.stage[h]][2][:, at + a, 0, to].T
            return self.last[at[:, None] + a, every]
        s = self.stage[f]
        own, later, last = self.found.blocks[s]
        if f == h:
            return own[a][:, 0, at].T
        if h not in self.stage:
            return last[a][every, 0, at[:, None]]
        t = self.stage[h]
        if t < s:
            return self.found.blocks[t][1][s - t - 1][:, a, 0, to].T
        return later[t - s - 1][a][:, 0, at].T
