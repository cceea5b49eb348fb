"""The covariance of each row's predictors, from blocks of the inverse.

    C_i = [x_i z_i] V [x_i z_i]'      (K, K)

V is the covariance of all coefficients; of it only blocks are needed whose coefficients meet
in some row, and these the selected inverse has.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.inference.selected_inverse import Covariances
from ranef.inference.weighted import Weighted, predictors_of

Array = NDArray[np.float64]


def spreads(found: Covariances, rows: Weighted) -> Array:
    """(n, K, K) for the rows whose cross-products were solved, at one value of theta."""
    layout = rows.layout
    n, k = layout.known.shape
    out = np.zeros((n, k, k))
    parts = _Blocks(found, rows)
    _add_common(out, parts, rows)
    for f, factor in enumerate(layout.factors):
        own = predictors_of(factor)
        for a, ka in enumerate(own):
            z = factor.columns[:, a]
            for kc, x in _by_predictor(rows):
                each = z * parts.with_common(f, a, x)
                out[:, ka, kc] += each
                out[:, kc, ka] += each
            for h, other in enumerate(layout.factors[: f + 1]):
                for b, kb in enumerate(predictors_of(other)):
                    each = z * other.columns[:, b] * parts.between(f, a, h, b)
                    out[:, ka, kb] += each
                    if h != f:
                        out[:, kb, ka] += each
    return out


def _by_predictor(rows: Weighted) -> list[tuple[int, Array]]:
    """The common columns that each predictor has, the others zero: (n, p)."""
    layout = rows.layout
    every = range(layout.known.shape[1])
    if len(every) == 1:
        return [(0, rows.columns)] if rows.columns.shape[1] else []
    return [
        (k, np.where(layout.predictor == k, rows.columns, 0.0))
        for k in every
        if (layout.predictor == k).any()
    ]


def _add_common(out: Array, parts: "_Blocks", rows: Weighted) -> None:
    columns = _by_predictor(rows)
    for k, x in columns:
        moved = x @ parts.common
        for m, other in columns:
            out[:, k, m] += np.einsum("np,np->n", moved, other)


class _Blocks:
    """Covariances of coefficients that meet in a row, (n,) at the levels of each row."""

    def __init__(self, found: Covariances, rows: Weighted) -> None:
        system = found.system
        self.found, self.layout = found, rows.layout
        self.last = found.last[0]
        self.random, self.size = system.remainder.layout.random, len(self.last) - 1
        self.common = self.last[self.random : self.size, self.random : self.size]
        self.stage = {stage.factor: s for s, stage in enumerate(system.stages)}
        self.part = {part.factor: part for part in system.remainder.layout.parts}
        self.place: dict[int, NDArray[Any]] = {}
        for f, factor in enumerate(self.layout.factors):
            if f in self.stage:
                self.place[f] = system.stages[self.stage[f]].place[factor.codes]
            else:
                part = self.part[f]
                self.place[f] = part.start + factor.codes.astype(np.int64) * part.width

    def with_common(self, f: int, a: int, x: Array) -> Array:
        """Of coefficient a of factor f with what x (n, p) makes of the common ones."""
        which = slice(self.random, self.size)
        if f in self.stage:
            block = self.found.blocks[self.stage[f]][2][a, which, 0]
            return np.einsum("np,np->n", block.T[self.place[f]], x)
        return np.einsum("np,np->n", self.last[self.place[f] + a, which], x)

    def between(self, f: int, a: int, h: int, b: int) -> Array:
        """Of coefficient a of factor f and b of factor h."""
        if f not in self.stage:
            if h in self.stage:
                return self.between(h, b, f, a)
            return self.last[self.place[f] + a, self.place[h] + b]
        s = self.stage[f]
        own, later, last = self.found.blocks[s]
        if f == h:
            return own[a, b, 0, self.place[f]]
        if h not in self.stage:
            return last[a, self.place[h] + b, 0, self.place[f]]
        if self.stage[h] < s:
            return self.between(h, b, f, a)
        return later[self.stage[h] - s - 1][a, b, 0, self.place[f]]
