"""Posterior draws of the group effects of any subset of levels.

    b_j = E[b_j | c] + sigma Lambda L_j'^-1 z_j,    z_j ~ N(0, I)

for level j and draws c of the coefficients that are not eliminated; L_j is the Cholesky factor
of `nested_elimination`. The noise z_j depends on the seed and the level alone, and levels are
processed in tiles of a fixed size. A draw therefore does not depend, not even in its rounding, on
which other levels are requested.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls.crossed_elimination import CrossedElimination
from ranef.inference.pwls.nested_elimination import EffectConditionals, NestedElimination
from ranef.numerics.blas_threads import side_by_side, threads_for
from ranef.numerics.counter_rng import CounterRNG
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Levels = NDArray[np.int64]

# Number of levels that are processed at once.
_TILE = 512


@dataclass(frozen=True)
class SharedFactorization:
    """Draws that share a factorization.

    Attributes:
        members: indices of the draws.
        conditionals: the conditional distributions of their effects.
    """

    members: Int[NDArray[np.int64], "_draws"]
    conditionals: EffectConditionals


@dataclass(frozen=True)
class SitePlacement:
    """The position of a site's values among the effects of a factor.

    Attributes:
        site: name of the site.
        factor: index of the factor.
        start: its first column in the factor.
        count: number of its columns.
        shape: shape of its values for one level.
        shared: whether all rows share the single level of the factor. The site then has no axis
            for levels.
    """

    site: str
    factor: int
    start: int
    count: int
    shape: tuple[int, ...]
    shared: bool = False

    def of(self, effects: Float[Array, "draws levels k"]) -> Float[Array, "draws levels ..."]:
        """Its values, an array of `shape` for each level, from the effects of the factor."""
        own = effects[..., self.start : self.start + self.count]
        return own.reshape((*effects.shape[:-1], *self.shape))


@dataclass(frozen=True)
class EffectDrift:
    """Linear dependence of effects on the hyperparameters within a cell of draws.

    Draws of a cell share one factorization. Their conditional means differ by the product of
    features of the hyperparameters and slopes.

    Attributes:
        away: m features of the hyperparameters less their mean in the cell.
        slopes: by factor, derivative of the effects in each feature.
    """

    away: Float[Array, "_draws _m"]
    slopes: tuple[Float[Array, "_m _levels _k"], ...]

    def of(self, factor: int, levels: Int[Levels, "levels"]) -> Float[Array, "_draws levels _k"]:
        """The shift of the effects of some levels.

        It is computed element by element, so that it does not depend on the other levels.
        """
        own = self.slopes[factor][:, levels]
        out = np.zeros((len(self.away), *own.shape[1:]))
        for away, slope in zip(self.away.T, own, strict=True):
            out += away[:, None, None] * slope
        return out


@dataclass(frozen=True)
class EffectSampler:
    """Draws the effects of any levels, given draws of hyperparameters and remaining coefficients.

    Attributes:
        system: the elimination by which the cells were factorized.
        cells: a partition of the draws into sets that share a factorization.
        places: the position of each site.
        levels: number of levels of each factor.
        widths: number of columns k of each factor.
        chains: number of chains; their draws follow each other.
        seed: seed of the noise.
        largest: upper bound on the columns of a dense matrix, which decides the use of threads.
        drift: shift of the effects within cells. None if every draw has its own factorization, and
            in files that were written before it existed.
    """

    # Not `Elimination`: a saved fit may hold one of these two classes and no other.
    system: NestedElimination | CrossedElimination
    cells: tuple[SharedFactorization, ...]
    places: tuple[SitePlacement, ...]
    levels: tuple[int, ...]
    widths: tuple[int, ...]
    chains: int
    seed: int
    largest: int
    drift: EffectDrift | None = None

    @property
    def draws(self) -> int:
        """Number of draws."""
        return sum(len(cell.members) for cell in self.cells)

    def at(
        self, levels: Mapping[str, Int[Levels, "_levels"]]
    ) -> dict[str, Float[Array, "chains _draws ..."]]:
        """Draws of the effects of some levels.

        Args:
            levels: by site, the levels, in any order.

        Returns:
            By site, draws with an axis of levels, except for shared sites, and those of its shape.
        """
        asked = [place for place in self.places if place.site in levels]
        wanted = {
            f: np.unique(np.concatenate([levels[p.site] for p in asked if p.factor == f]))
            for f in dict.fromkeys(place.factor for place in asked)
        }
        found = self.by_factor(wanted)
        out = {}
        for place in asked:
            draws = _taken(place.of(found[place.factor]), wanted[place.factor], levels[place.site])
            draws = draws[:, 0] if place.shared else draws
            out[place.site] = draws.reshape(
                self.chains, len(draws) // self.chains, *draws.shape[1:]
            )
        return out

    def by_factor(
        self, levels: Mapping[int, Int[Levels, "_levels"]]
    ) -> dict[int, Float[Array, "draws _levels _k"]]:
        """By factor, draws of the effects of these levels."""
        family = self.system.family(levels)
        found: dict[int, Array] = {}
        with threads_for(self.largest):
            for factor, own in family.items():
                found[factor] = self._eliminated(factor, own, family, found)
        out = {
            factor: _taken(found[factor], family[factor], own)
            if factor in found
            else self._remaining(factor, own)
            for factor, own in levels.items()
        }
        if self.drift is None:
            return out
        return {factor: b + self.drift.of(factor, levels[factor]) for factor, b in out.items()}

    def _remaining(
        self, factor: int, levels: Int[Levels, "levels"]
    ) -> Float[Array, "draws levels k"]:
        """Draws of a factor that is not eliminated."""
        out = np.empty((self.draws, len(levels), self.widths[factor]))
        position = self.system.remainder.slice_of(factor)
        for cell in self.cells:
            out[cell.members] = position.of(cell.conditionals.last)[:, levels]
        return out

    def _eliminated(
        self,
        factor: int,
        levels: Int[Levels, "levels"],
        family: Mapping[int, Int[Levels, "_levels"]],
        found: Mapping[int, Float[Array, "draws _levels _k"]],
    ) -> Float[Array, "draws levels k"]:
        """Draws of an eliminated factor.

        Args:
            factor: index of the factor.
            levels: sorted levels to draw.
            family: by factor, the levels that are drawn in all, as from `system.family`.
            found: draws of the factors before this one in `family`.
        """
        out = np.empty((self.draws, len(levels), self.widths[factor]))
        size = min(_TILE, self.levels[factor])

        def draw(start: int) -> None:
            own = levels[start : start + size]
            tile = np.pad(own, (0, size - len(own)), mode="edge")
            noise = self._noise(factor, own, size)
            parents = [
                (found[f], np.searchsorted(family[f], own))
                for f, own in self.system.parents(factor, tile).items()
            ]
            for cell in self.cells:
                above = (_levels_last(b[cell.members][:, place]) for b, place in parents)
                z = noise[:, cell.members]
                b = self.system.drawn(factor, tile, cell.conditionals, above, z)
                out[cell.members, start : start + len(own)] = b.transpose(1, 2, 0)[:, : len(own)]

        side_by_side(draw, range(0, len(levels), size), self.largest)
        return out

    def _noise(
        self, factor: int, levels: Int[Levels, "levels"], size: int
    ) -> Float[Array, "k draws {size}"]:
        """Standard normal noise of these levels, followed by zeros."""
        out = np.zeros((self.widths[factor], self.draws, size))
        noise = CounterRNG(self.seed, factor).of(levels, out.shape[0] * self.draws)
        each = noise.reshape(len(levels), *out.shape[:2])
        out[..., : len(levels)] = each.transpose(1, 2, 0)
        return out


def _levels_last(b: Float[Array, "draws levels k"]) -> Float[Array, "k draws levels"]:
    return np.ascontiguousarray(b.transpose(2, 0, 1))


def _taken(
    draws: Float[Array, "draws have ..."], have: Int[Levels, "have"], want: Int[Levels, "want"]
) -> Float[Array, "draws want ..."]:
    """The draws of the levels `want`, out of draws of the sorted levels `have`."""
    if np.array_equal(have, want):
        return draws
    return draws[:, np.searchsorted(have, want)]
