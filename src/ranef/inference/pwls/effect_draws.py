"""Draws of group effects, of the levels that are asked for alone.

    b_j = E[b_j | c] + sigma Lambda_j L_j'^-1 z_j,    z_j ~ N(0, I)

given draws of all that is not eliminated, c. The noise z_j belongs to the level, and levels go
through the arithmetic in tiles of one size: so a draw does not depend on which others are made.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls.crossed_elimination import CrossedElimination
from ranef.inference.pwls.nested_elimination import EffectConditionals, NestedElimination
from ranef.numerics.blas_threads import side_by_side, threads_for
from ranef.numerics.counter_rng import CounterRNG

Array = NDArray[np.float64]
Levels = NDArray[np.int64]

# Levels that go through the arithmetic at once.
_TILE = 512


@dataclass(frozen=True)
class SharedFactorization:
    """Draws that share a factorization: which they are, and what is given of them."""

    members: NDArray[np.int64]
    given: EffectConditionals


@dataclass(frozen=True)
class SitePlacement:
    """Where the values of a site lie: `count` columns of a factor from `start`, of one level.

    Where all rows share the factor's one level, the site has no axis of levels.
    """

    site: str
    factor: int
    start: int
    count: int
    shape: tuple[int, ...]
    shared: bool = False

    def of(self, effects: Array) -> Array:
        """Its values (..., J, *shape) in the effects (..., J, k) of the factor."""
        own = effects[..., self.start : self.start + self.count]
        return own.reshape((*effects.shape[:-1], *self.shape))


@dataclass(frozen=True)
class EffectDrift:
    """How the effects of draws that share a cell move with their hyperparameters.

    Attributes:
        away: (draws, m), features of the hyperparameters less their mean in the cell.
        slopes: by factor, (m, J, k).
    """

    away: Array
    slopes: tuple[Array, ...]

    def of(self, factor: int, levels: Levels) -> Array:
        """(draws, len, k). No sum is over levels, so each is the same whatever others there are."""
        own = self.slopes[factor][:, levels]
        out = np.zeros((len(self.away), *own.shape[1:]))
        for away, slope in zip(self.away.T, own, strict=True):
            out += away[:, None, None] * slope
        return out


@dataclass(frozen=True)
class EffectSampler:
    """The effects of every level, given draws of the hyperparameters and of the remainder.

    Attributes:
        system: that the cells were factorized by.
        cells: every draw is a member of one.
        places: of the sites.
        levels, widths: J and k of each factor.
        chains: that the draws lie in, one after the other.
        seed: of the noise.
        largest: columns that a dense matrix has at most.
        drift: where draws share a cell; None where each has one of its own, and in files of before.
    """

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
        return sum(len(cell.members) for cell in self.cells)

    def at(self, levels: Mapping[str, Levels]) -> dict[str, Array]:
        """Draws of the effects of some levels, (chain, draw, len, ...), by site."""
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

    def by_factor(self, levels: Mapping[int, Levels]) -> dict[int, Array]:
        """Draws of the effects of the levels of each factor, (draws, len, k)."""
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

    def _remaining(self, factor: int, levels: Levels) -> Array:
        out = np.empty((self.draws, len(levels), self.widths[factor]))
        for cell in self.cells:
            out[cell.members] = self.system.remainder.part(factor).of(cell.given.last)[:, levels]
        return out

    def _eliminated(
        self, factor: int, levels: Levels, family: Mapping[int, Levels], found: Mapping[int, Array]
    ) -> Array:
        """Of a factor of which `levels` are drawn, those before it in `family` being `found`."""
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
                b = self.system.drawn(factor, tile, cell.given, above, z)
                out[cell.members, start : start + len(own)] = b.transpose(1, 2, 0)[:, : len(own)]

        side_by_side(draw, range(0, len(levels), size), self.largest)
        return out

    def _noise(self, factor: int, levels: Levels, size: int) -> Array:
        """(k, draws, size), zero beyond the levels."""
        out = np.zeros((self.widths[factor], self.draws, size))
        noise = CounterRNG(self.seed, factor).of(levels, out.shape[0] * self.draws)
        each = noise.reshape(len(levels), *out.shape[:2])
        out[..., : len(levels)] = each.transpose(1, 2, 0)
        return out


def _levels_last(b: Array) -> Array:
    """(k, M, J) of (M, J, k)."""
    return np.ascontiguousarray(b.transpose(2, 0, 1))


def _taken(draws: Array, have: Levels, want: Levels) -> Array:
    """Of draws (draws, J, ...) of the levels `have`, which are in order, those of `want`."""
    if np.array_equal(have, want):
        return draws
    return draws[:, np.searchsorted(have, want)]
