"""Averages of a log density whose derivatives are written out, and integrals over levels.

They are those of ``expected_log_density``, by the same rule of quadrature, in NumPy: nothing is
compiled. A compiled program takes seconds to make, and each of its calls some tenths of a
millisecond beyond the arithmetic, which is what some hundred rows take here in all.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.families.row_density import RowDensity
from ranef.inference.glmm.level_quadrature import LevelIntegrals, LevelQuadrature
from ranef.numerics.gauss_hermite import nodes_of, rule

Array = NDArray[np.float64]

# Predictors at quadrature points that are worked on at once: 128 KB each of some ten intermediate
# arrays, which stay in a processor's cache.
_CHUNK = 16_384
# The sd of a predictor given those before it below which it is a combination of them.
LEAST_PIVOT = 1e-12


class AnalyticExpectedLogDensity:
    """Of the rows of one response.

    Args:
        density: the rows.
        n: how many.
        k: their predictors.
    """

    def __init__(self, density: RowDensity, n: int, k: int) -> None:
        self.density = density
        self._points, self._weights = rule(k, nodes_of(k))
        self._slices = _slices(n, len(self._weights) * k)
        self._parts = [density.take(rows) for rows in self._slices]

    def of(
        self, numbers: Mapping[str, Any], mean: Array, spread: Array
    ) -> tuple[float, Array, Array]:
        """As of any family: the sum of E log p, and averages of slope and curvature."""
        total, slope, second = self._averaged(numbers, mean, spread, 2)
        return float(total.sum()), slope, -second

    def settle(self, spread: Array) -> None:
        """As many points are always taken."""

    def at(self, numbers: Mapping[str, Any], eta: Array) -> float:
        """Sum over rows of log p at predictors that are known, (n, K)."""
        with np.errstate(all="ignore"):
            return float(self.density.derivatives(eta[None], numbers, 0)[0].sum())

    def by_number(self, numbers: Mapping[str, Any], mean: Array, spread: Array) -> dict[str, Array]:
        """The derivative of the sum of E log p in each number."""
        out: dict[str, Array] = {}
        if not numbers:
            return out
        with np.errstate(all="ignore"):
            for etas, weights, density in self._by_part(mean, spread):
                _add(out, density.by_number(etas, numbers, weights[:, None]))
        return out

    def third(self, numbers: Mapping[str, Any], mean: Array, spread: Array) -> Array:
        """(n, K) E of the third derivative in each predictor."""
        return self._averaged(numbers, mean, spread, 3)[3]

    def integrals(
        self, over: LevelQuadrature, base: Array, root: float, numbers: Mapping[str, Any]
    ) -> LevelIntegrals:
        """As of any family: log integrals over the effects of levels."""
        codes, levels, u = over.codes, len(over.centre), over.u
        z = root * over.column
        values, slopes = np.empty((len(u), len(base))), np.empty((len(u), *base.shape))
        parts = [(rows, self.density.take(rows)) for rows in _slices(len(base), len(u))]
        with np.errstate(all="ignore"):
            for rows, density in parts:
                eta = _moved(base[rows], over.place, z[rows] * u[:, codes[rows]])
                values[:, rows], slopes[:, rows] = density.derivatives(eta, numbers, 1)
            densities = over.log_weights - 0.5 * u**2
            for own, each in zip(densities, values, strict=True):
                own += np.bincount(codes, each, levels)
            largest = densities.max(axis=0)
            share = np.exp(densities - largest)
            total = share.sum(axis=0)
            share, logs = share / total, largest + np.log(total)
            mean = (share * u).sum(axis=0)
            variance = (share * (u - mean) ** 2).sum(axis=0)
            weights = share[:, codes]
            slope = np.einsum("mn,mnk->nk", weights, slopes)
            by_number: dict[str, Array] = {}
            for rows, density in parts if numbers else ():
                eta = _moved(base[rows], over.place, z[rows] * u[:, codes[rows]])
                _add(by_number, density.by_number(eta, numbers, weights[:, rows]))
        return LevelIntegrals(float(logs.sum()), mean, variance, slope, by_number)

    def _averaged(
        self, numbers: Mapping[str, Any], mean: Array, spread: Array, order: int
    ) -> list[Array]:
        """Averages of log p of each row and of its derivatives up to `order`, 3 at most."""
        found = []
        with np.errstate(all="ignore"):
            for etas, weights, density in self._by_part(mean, spread):
                found.append(density.averaged(etas, numbers, weights, order))
        if len(found) == 1:
            return list(found[0])
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def _by_part(self, mean: Array, spread: Array) -> Iterator[tuple[Array, Array, RowDensity]]:
        """By part of the rows, predictors at the points (m, n, K), weights (m,), and density."""
        known = not spread.any()
        points, weights = self._points, self._weights
        if known:
            points, weights = np.zeros_like(points[:1]), np.ones(1)
        roots = spread if known else root_of(spread)
        for rows, density in zip(self._slices, self._parts, strict=True):
            if mean.shape[1] == 1:
                yield mean[rows] + roots[rows, :, 0] * points[:, :, None], weights, density
            else:
                moved = roots[rows] @ points.T
                yield mean[rows] + moved.transpose(2, 0, 1), weights, density


def _slices(n: int, each: int) -> list[slice]:
    """Rows of which so many numbers each are worked on at once."""
    step = max(1, _CHUNK // each)
    return [slice(at, at + step) for at in range(0, max(n, 1), step)]


def _add(sums: dict[str, Array], found: Mapping[str, Array]) -> None:
    """Add to the sums, by name, what one part of the rows gives."""
    for name, each in found.items():
        sums[name] = np.asarray(sums.get(name, 0.0) + each)


def _moved(base: Array, place: int, by: Array) -> Array:
    """Predictors (n, K), one of them moved by (m, n): (m, n, K)."""
    out = np.repeat(base[None], len(by), axis=0)
    out[:, :, place] += by
    return out


def root_of(spread: Array) -> Array:
    """L (n, K, K) lower triangular with L L' = spread, which may be singular."""
    if spread.shape[1] == 1:
        return np.sqrt(np.maximum(spread, 0.0))
    left, out = spread.copy(), np.zeros_like(spread)
    for j in range(spread.shape[1]):
        pivot = np.sqrt(np.maximum(left[:, j, j], 0.0))
        known = pivot > LEAST_PIVOT
        below = left[:, j + 1 :, j] / np.where(known, pivot, 1.0)[:, None]
        below[~known] = 0.0
        out[:, j, j], out[:, j + 1 :, j] = pivot, below
        left[:, j + 1 :, j + 1 :] -= below[:, :, None] * below[:, None, :]
    return out
