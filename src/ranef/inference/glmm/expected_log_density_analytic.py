"""Averages of a log density whose derivatives are written out, and integrals over levels.

They are the averages of ``expected_log_density``, by the same quadrature rule, in NumPy. A compiled
program takes seconds to make, and each of its calls takes some tenths of a millisecond besides its
arithmetic. That is as long as the whole computation takes here for some hundred rows.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ranef.families.row_density import RowDensity
from ranef.inference.glmm.arrays import Array, Blocks, FamilyValues, Predictors
from ranef.inference.glmm.level_quadrature import LevelIntegrals, LevelQuadrature
from ranef.numerics.gauss_hermite import nodes_of, rule
from ranef.numerics.shapes import Float

# Number of predictors at quadrature points that are handled at a time: 128 KB for each of about ten
# intermediate arrays, which then stay in a processor's cache.
_CHUNK = 16_384
# A predictor whose sd given the earlier ones is below this is a combination of them.
LEAST_PIVOT = 1e-12


class AnalyticExpectedLogDensity:
    """Averages over the rows of one response, by written-out derivatives in NumPy.

    Args:
        density: the rows.
        n: number of rows.
        k: number of predictors.
    """

    def __init__(self, density: RowDensity, n: int, k: int) -> None:
        self.density = density
        self._points, self._weights = rule(k, nodes_of(k))
        self._slices = _slices(n, len(self._weights) * k)
        self._densities = [density.take(rows) for rows in self._slices]

    def of(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> tuple[float, Predictors, Blocks]:
        """As `ExpectedLogDensity.of`: the sum of E log p, and averages of slope and curvature."""
        total, slope, second = self._averaged(numbers, mean, covariance, 2)
        return float(total.sum()), slope, -second

    def settle(self, covariance: Blocks) -> None:
        """Does nothing: here the number of nodes is fixed."""

    def at(self, numbers: FamilyValues, eta: Predictors) -> float:
        """The sum over rows of log p at known predictors."""
        with np.errstate(all="ignore"):
            return float(self.density.derivatives(eta[None], numbers, 0)[0].sum())

    def by_number(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks
    ) -> dict[str, Array]:
        """Derivatives of the sum of E log p in each shared family parameter, by name."""
        out: dict[str, Array] = {}
        if not numbers:
            return out
        with np.errstate(all="ignore"):
            for etas, weights, density in self._by_batch(mean, covariance):
                _add(out, density.by_number(etas, numbers, weights[:, None]))
        return out

    def third(self, numbers: FamilyValues, mean: Predictors, covariance: Blocks) -> Predictors:
        """E of the third derivative in each predictor."""
        return self._averaged(numbers, mean, covariance, 3)[3]

    def integrals(
        self, over: LevelQuadrature, base: Predictors, root: float, numbers: FamilyValues
    ) -> LevelIntegrals:
        """As `ExpectedLogDensity.integrals`: log integrals over the effects of levels."""
        codes, levels, u = over.codes, len(over.centre), over.u
        z = root * over.column
        values, slopes = np.empty((len(u), len(base))), np.empty((len(u), *base.shape))
        batches = [(rows, self.density.take(rows)) for rows in _slices(len(base), len(u))]
        with np.errstate(all="ignore"):
            for rows, density in batches:
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
            for rows, density in batches if numbers else ():
                eta = _moved(base[rows], over.place, z[rows] * u[:, codes[rows]])
                _add(by_number, density.by_number(eta, numbers, weights[:, rows]))
        return LevelIntegrals(float(logs.sum()), mean, variance, slope, by_number)

    def _averaged(
        self, numbers: FamilyValues, mean: Predictors, covariance: Blocks, order: int
    ) -> list[Float[Array, "_ ..."]]:
        """Averages of each row's log p and of its derivatives up to `order`, 3 at most."""
        found = []
        with np.errstate(all="ignore"):
            for etas, weights, density in self._by_batch(mean, covariance):
                found.append(density.averaged(etas, numbers, weights, order))
        if len(found) == 1:
            return list(found[0])
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    def _by_batch(
        self, mean: Predictors, covariance: Blocks
    ) -> Iterator[tuple[Float[Array, "m _ K"], Float[Array, "m"], RowDensity]]:
        """By batch of rows: predictors at the m points, weights, and density."""
        known = not covariance.any()
        points, weights = self._points, self._weights
        if known:
            points, weights = np.zeros_like(points[:1]), np.ones(1)
        roots = covariance if known else root_of(covariance)
        for rows, density in zip(self._slices, self._densities, strict=True):
            if mean.shape[1] == 1:
                yield mean[rows] + roots[rows, :, 0] * points[:, :, None], weights, density
            else:
                moved = roots[rows] @ points.T
                yield mean[rows] + moved.transpose(2, 0, 1), weights, density


def _slices(n: int, each: int) -> list[slice]:
    """Batches of the n rows, with `each` numbers per row."""
    step = max(1, _CHUNK // each)
    return [slice(at, at + step) for at in range(0, max(n, 1), step)]


def _add(sums: dict[str, Array], found: Mapping[str, Array]) -> None:
    """Adds what one batch of rows gives to the sums, by name."""
    for name, each in found.items():
        sums[name] = np.asarray(sums.get(name, 0.0) + each)


def _moved(base: Predictors, place: int, by: Float[Array, "m n"]) -> Float[Array, "m n K"]:
    """The predictors with the one at `place` shifted."""
    out = np.repeat(base[None], len(by), axis=0)
    out[:, :, place] += by
    return out


def root_of(covariance: Blocks) -> Blocks:
    """Cholesky factors L with L L' = covariance, which may be singular."""
    if covariance.shape[1] == 1:
        return np.sqrt(np.maximum(covariance, 0.0))
    left, out = covariance.copy(), np.zeros_like(covariance)
    for j in range(covariance.shape[1]):
        pivot = np.sqrt(np.maximum(left[:, j, j], 0.0))
        known = pivot > LEAST_PIVOT
        below = left[:, j + 1 :, j] / np.where(known, pivot, 1.0)[:, None]
        below[~known] = 0.0
        out[:, j, j], out[:, j + 1 :, j] = pivot, below
        left[:, j + 1 :, j + 1 :] -= below[:, :, None] * below[:, None, :]
    return out
