"""Checks that samplers of group effects and factors read from a file are consistent.

The samplers index arrays by positions that come from the file. A damaged or forged file is refused
here, before such a position is used.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.errors import FileError
from ranef.inference.base import LevelDraws
from ranef.inference.block_ascent.factor_draws import FactorDraws
from ranef.inference.block_ascent.matrix_factorization import CombinedDraws
from ranef.inference.pwls import crossed_elimination
from ranef.inference.pwls.effect_draws import EffectSampler, SharedFactorization
from ranef.numerics.shapes import Shaped
from ranef.program.program import Varying
from ranef.terms.base import LevelSites


def refuse_unsound(
    found: LevelDraws | None, grouped: Mapping[Varying, LevelSites], draws: int
) -> None:
    """Refuse a sampler whose parts do not match each other, the model or the other draws.

    Args:
        found: the sampler of group effects, or None if the file has none.
        grouped: the sites of group effects that are drawn by it, by term and grouping.
        draws: number of draws of all other sites.

    Raises:
        FileError: if they do not match.
    """
    if isinstance(found, CombinedDraws):
        factors, own = found.factors, set(found.factors.sites)
        mine = [g for g in grouped.values() if own.issuperset(g.sites)]
        whole = factors.draws == draws and factors.chains >= 1 and draws % factors.chains == 0
        if not whole or not all(_fits(factors, each) for each in mine):
            raise FileError("what its factors are drawn from does not fit together")
        grouped = {key: g for key, g in grouped.items() if not own.issuperset(g.sites)}
        found = found.others
    if found is None and not grouped:
        return
    sound = (
        isinstance(found, EffectSampler)
        and found.draws == draws
        and found.draws % max(found.chains, 1) == 0
        and _fits_model(found, grouped)
        and _is_whole(np.concatenate([cell.members for cell in found.cells]))
        and _system(found)
        and all(_cell(found, cell) for cell in found.cells)
        and _drift(found)
    )
    if not sound:
        raise FileError("what its group effects are drawn from does not fit together")


def _fits(factors: FactorDraws, grouped: LevelSites) -> bool:
    """Whether the means and roots of factors have the shapes of their sites."""
    shape = (grouped.levels, grouped.width)
    return all(
        mean.shape == shape and root.shape == (*shape, grouped.width)
        for mean, root in (factors.sides[site] for site in grouped.sites)
    )


def _fits_model(found: EffectSampler, grouped: Mapping[Varying, LevelSites]) -> bool:
    """Whether every site has a place within the columns of a factor with its number of levels."""
    places = {place.site: place for place in found.places}
    inside = all(
        0 <= p.factor < len(found.levels)
        and 0 <= p.start <= p.start + p.count <= found.widths[p.factor]
        and int(np.prod(p.shape)) == p.count
        for p in found.places
    )
    return inside and all(
        site in places and found.levels[places[site].factor] == each.levels
        for each in grouped.values()
        for site in each.sites
    )


def _is_whole(places: Shaped[NDArray, "n"]) -> bool:
    """Whether `places` is a permutation of 0, 1, ..., as integers."""
    whole = np.array_equal(np.sort(places), np.arange(len(places)))
    return places.dtype.kind == "i" and bool(whole)


def _within(places: Shaped[NDArray, "n"], size: int) -> bool:
    """Whether all of `places` are integers from 0 to size - 1."""
    inside = not len(places) or 0 <= int(places.min()) <= int(places.max()) < size
    return places.dtype.kind == "i" and inside


def _system(found: EffectSampler) -> bool:
    """Whether the eliminated and remaining factors make up all factors, with valid indices."""
    system, layout = found.system, found.system.remainder
    kept = [part.factor for part in layout.slices]
    parts = all(
        (part.levels, part.width) == (found.levels[part.factor], found.widths[part.factor])
        and 0 <= part.start <= part.place.stop <= layout.random
        for part in layout.slices
    )
    if isinstance(system, crossed_elimination.CrossedElimination):
        return (
            parts
            and sorted([system.factor, *kept]) == [*range(len(found.levels))]
            and _met(system, found.levels[system.factor], found.widths[system.factor])
        )
    own = [stage.factor for stage in system.stages]
    return (
        parts
        and sorted([*own, *kept]) == [*range(len(found.levels))]
        and all(
            len(stage.order) == found.levels[stage.factor]
            and _is_whole(stage.order)
            and len(stage.parents) == len(own) - s - 1
            and all(
                len(p) == len(stage.order) and _within(p, found.levels[f])
                for p, f in zip(stage.parents, own[s + 1 :], strict=True)
            )
            for s, stage in enumerate(system.stages)
        )
    )


def _met(system: crossed_elimination.CrossedElimination, levels: int, width: int) -> bool:
    """Whether the sparse cross-products of the eliminated factor have valid indices and shapes."""
    met = system.cross_blocks
    return (
        met.r == system.remainder.random
        and met.starts.dtype.kind == "i"
        and len(met.starts) == levels + 1
        and met.starts[0] == 0
        and bool((np.diff(met.starts) >= 0).all())
        and met.starts[-1] == len(met.places)
        and met.values.shape == (width, len(met.places))
        and _within(met.places, met.r)
    )


def _drift(found: EffectSampler) -> bool:
    """Whether the drift of effects with the hyperparameters has the shapes of draws and factors."""
    drift = found.drift
    if drift is None:
        return True
    d = drift.away.shape[-1]
    shapes = [(d, *size) for size in zip(found.levels, found.widths, strict=True)]
    return drift.away.shape == (found.draws, d) and [s.shape for s in drift.slopes] == shapes


def _cell(found: EffectSampler, cell: SharedFactorization) -> bool:
    """Whether the arrays of one shared factorization have the shapes of the system."""
    given, count = cell.conditionals, len(cell.members)
    system, size = found.system, found.system.remainder.size
    if isinstance(system, crossed_elimination.CrossedElimination):
        order, most = [system.factor], size - system.remainder.random
    else:
        order, most = [stage.factor for stage in system.stages], size
    ends = [most + sum(found.widths[f] for f in order[s:]) for s in range(len(order))]
    return (
        given.sigma.shape == (count,)
        and given.last.shape == (count, size)
        and len(given.roots) == len(found.widths)
        and all(
            root.shape in ((1, k, k), (count, k, k))
            for root, k in zip(given.roots, found.widths, strict=True)
        )
        and len(given.every) == len(order)
        and all(
            every.shape[:2] == (found.widths[f], end)
            and every.shape[2] in (1, count)
            and every.shape[3] == found.levels[f]
            for every, f, end in zip(given.every, order, ends, strict=True)
        )
    )
