"""Posterior moments and draws of the coefficients of a mixed model, given draws of theta.

The laws of total expectation and variance mix the conditional posteriors over the draws of the
hyperparameters theta:

    E b = E_theta E[b | theta, y],   var b = E_theta var[b | theta, y] + var_theta E[b | theta, y]

If a factorization is cheap, every draw of theta gets its own. Otherwise the draws are grouped
into some tens of cells of similar theta (``hyperparameter_cells``), and all draws of a cell share
one factorization at the mean of the cell. Within a cell the conditional means follow a regression
surface (``conditional_mean_regression``). The surface keeps the posterior correlation of the
coefficients with theta, for example that of the effects of an ordinal model with its thresholds, in
moments and in draws.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.inference.lmm.conditional_mean_regression import MeanSurface, SurfaceProducts
from ranef.inference.lmm.conditional_posterior import ConditionalPosterior
from ranef.inference.lmm.hyperparameter_cells import ThetaCell, cells_of
from ranef.inference.lmm.model import (
    BoundedEffect,
    RandomEffectsTerm,
    common_by_site,
    effects_by_site,
)
from ranef.inference.pwls.effect_draws import (
    EffectDrift,
    EffectSampler,
    SharedFactorization,
    SitePlacement,
)
from ranef.inference.pwls.solver import Solution
from ranef.numerics.blas_threads import side_by_side, threads_for
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Cost of a solution below which cells are solved in sequence: the solution would be finished
# before threads had been synchronised.
_QUICK = 300_000
# Largest number of values of group effects, draws times effects, held in memory: 3.2 GB.
_REALISED = 400_000_000


class LazySites(Mapping[str, Array]):
    """Draws by site, "chains draws ..." each; those of group effects from their first access on."""

    def __init__(self, ready: Mapping[str, Array], later: "CoefficientPosterior") -> None:
        self._ready, self._later = dict(ready), later
        self._names = [*ready, *later.group_sites]

    def __getitem__(self, name: str) -> Array:
        if name not in self._ready:
            if name not in self._later.group_sites:
                raise KeyError(name)
            self._ready.update(self._later.group_draws())
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class CoefficientPosterior:
    """The posterior of all coefficients, mixed over draws of the hyperparameters.

    Attributes:
        marginal: the conditional posterior of the coefficients given the hyperparameters.
        x: draws of the hyperparameters.
        seed: seed of the draws of coefficients, which do not depend on the order of access.
        chains: number of chains; their draws follow each other along the first axis of `x`.
    """

    marginal: ConditionalPosterior
    x: Float[Array, "draws d"]
    seed: int
    chains: int = 1

    @property
    def group_sites(self) -> list[str]:
        """Names of the sites of all group effects."""
        return [name for g in self.marginal.mixed.groupings for name, _ in g.sites]

    @cached_property
    def _cells(self) -> list[ThetaCell]:
        """The partition of the draws into sets that are solved together."""
        return cells_of(self.x, self.marginal)

    @cached_property
    def _surface(self) -> MeanSurface | None:
        """The regression surface of the conditional means within cells."""
        return MeanSurface.through(self.x, self._cells)

    def moments(self) -> dict[str, tuple[Array, Array]]:
        """Posterior mean and sd of all coefficients by site, each of the shape of the site."""
        mixed = self.marginal.mixed
        factors = len(mixed.solver.products.widths)
        derived = [g for g in mixed.groupings if g.derived is not None]
        sums = [_MomentSums(self._surface) for _ in range(factors + 2 + len(derived))]

        def known(cell: ThetaCell) -> list[tuple[Array, Array]]:
            """Conditional means and variances, in this order: the effects of each factor, the
            common effects, their derived coefficients, the derived coefficients of groupings."""
            with np.errstate(all="ignore"):
                solution, sigma = self.marginal.solve(cell.x)
                covariance = solution.common_covariance
                variance = np.diagonal(covariance, axis1=1, axis2=2)
                rows = mixed.derived.matrix if mixed.derived else np.zeros((0, mixed.solver.p))
                combined = np.einsum("mp,bpq,mq->bm", rows, covariance, rows, optimize=True)
                square = sigma[:, None, None] ** 2
                return [
                    *(
                        (effects, variances * sigma[:, None, None] ** 2)
                        for effects, variances in zip(
                            solution.effects, solution.effect_variances, strict=True
                        )
                    ),
                    (solution.common, variance * sigma[:, None] ** 2),
                    (solution.common @ rows.T, combined * sigma[:, None] ** 2),
                    *(_derived(grouping, solution, square) for grouping in derived),
                ]

        largest = mixed.solver.largest
        with threads_for(largest):
            if self.marginal.cost < _QUICK:
                every = [known(cell) for cell in self._cells]
            else:
                every = side_by_side(known, self._cells, largest)
            for place, (cell, found) in enumerate(zip(self._cells, every, strict=True)):
                for total, (means, variances) in zip(sums, found, strict=True):
                    total.add(place, means, variances, len(cell.members) / len(cell.x))
        mean, sd = sums[factors].moments()
        means, sds = common_by_site(mixed, mean), common_by_site(mixed, sd)
        for grouping in mixed.groupings:
            mean, sd = sums[grouping.factor].moments()
            means.update(effects_by_site(grouping, mean))
            sds.update(effects_by_site(grouping, sd))
        made = [mixed.derived, *(grouping.derived for grouping in derived)]
        for each, total in zip(made, sums[factors + 1 :], strict=True):
            if each is not None:
                mean, sd = total.moments()
                means.update(each.by_name(mean))
                sds.update(each.by_name(sd))
        return {name: (means[name], sds[name]) for name in means}

    def sites(self, hyper: Mapping[str, Float[Array, "chains _draws ..."]]) -> LazySites:
        """Draws of all sites, from those of the hyperparameters `hyper`."""
        return LazySites({**hyper, **self._drawn[1]}, self)

    @property
    def effects(self) -> EffectSampler:
        """The sampler of the group effects of any levels."""
        return self._drawn[0]

    @cached_property
    def _drawn(self) -> tuple[EffectSampler, dict[str, Array]]:
        """The sampler of the group effects, and draws of the common effects by site."""
        mixed = self.marginal.mixed
        solver, surface = mixed.solver, self._surface
        common = np.empty((len(self.x), solver.p))
        common_slopes, effect_slopes = (
            SurfaceProducts(surface),
            [SurfaceProducts(surface) for _ in solver.products.widths],
        )
        cells = []
        with threads_for(solver.largest):
            for place, cell in enumerate(self._cells):
                solution, sigma = self.marginal.solve(cell.x)
                rng = np.random.default_rng([self.seed, 1, place])
                sigma = np.broadcast_to(sigma, (len(cell.members),))
                remainder = solution.remainder_draws(rng, sigma)
                common[cell.members] = solution.common_of(remainder)
                cells.append(
                    SharedFactorization(cell.members, solution.conditionals(sigma, remainder))
                )
                if surface is not None:
                    common_slopes.add(place, solution.common)
                    for slopes, means in zip(effect_slopes, solution.effects, strict=True):
                        slopes.add(place, means)
        drift = None
        if surface is not None:
            common += surface.away @ common_slopes.total
            drift = EffectDrift(surface.away, tuple(slopes.total for slopes in effect_slopes))
        # A bounded effect lies close to its mean, whose draws stay inside the bounds.
        hyper = self.marginal.sites(self.x)
        for mixture in mixed.mixtures:
            if isinstance(mixture, BoundedEffect):
                common[:, mixture.column] = hyper[mixture.name]
        by_chain = common.reshape(self.chains, len(common) // self.chains, solver.p)
        places = tuple(place for g in mixed.groupings for place in places_of(g))
        levels, widths = solver.products.levels, solver.products.widths
        made = EffectSampler(
            solver.system.bare(),
            tuple(cells),
            places,
            tuple(int(j) for j in levels),
            tuple(int(k) for k in widths),
            self.chains,
            self.seed,
            solver.largest,
            drift,
        )
        return made, common_by_site(mixed, by_chain)

    def group_draws(self) -> dict[str, Float[Array, "chains _draws ..."]]:
        """Draws of every group effect by site.

        Raises:
            OptionError: if the draws would take too much memory.
        """
        products = self.marginal.mixed.solver.products
        count = sum(j * k for j, k in zip(products.levels, products.widths, strict=True))
        if count * len(self.x) > _REALISED:
            raise OptionError(
                f"{len(self.x):,} draws of {count:,} group effects take "
                f"{8e-9 * count * len(self.x):,.0f} GB; fit with draws={_REALISED // count:,} "
                "or fewer to have them, or read means and sds from ranef()"
            )
        groupings = self.marginal.mixed.groupings
        return self.effects.at({n: np.arange(g.levels) for g in groupings for n, _ in g.sites})


def _derived(
    grouping: RandomEffectsTerm, solution: Solution, square: Float[Array, "B 1 1"]
) -> tuple[Float[Array, "B levels m"], Float[Array, "B levels m"]]:
    """Means and variances of a grouping's derived coefficients; `square` is sigma^2."""
    assert grouping.derived is not None
    own = solution.effects[grouping.factor]
    whole = np.zeros((len(grouping.derived.matrix), own.shape[-1]))
    whole[:, grouping.columns] = grouping.derived.matrix
    return own @ whole.T, solution.combined_variances(grouping.factor, whole) * square


def places_of(grouping: RandomEffectsTerm) -> Iterator[SitePlacement]:
    """Yield the placement of each site of a grouping among the columns of its factor."""
    start = grouping.columns.start
    for (name, count), shape in zip(grouping.sites, grouping.shapes, strict=True):
        yield SitePlacement(name, grouping.factor, start, count, shape, grouping.shared)
        start += count


class _MomentSums:
    """Weighted sums over values of the hyperparameters, from which mean and sd are computed.

    Squares are taken about the first conditional mean, so that a small variance about a large
    mean does not cancel.
    """

    def __init__(self, surface: MeanSurface | None) -> None:
        self.share, self.first, self.mean, self.square = 0.0, np.zeros(0), 0.0, 0.0
        self.slopes = SurfaceProducts(surface)

    def add(
        self,
        place: int,
        means: Float[Array, "B *shape"],
        variances: Float[Array, "B *shape"],
        share: float,
    ) -> None:
        """Add the cell with index `place`.

        Args:
            place: index of the cell.
            means: conditional means.
            variances: conditional variances.
            share: weight of each of the B values.
        """
        if not self.share:
            self.first = means[0].copy()
        away = means - self.first
        self.share += share * len(means)
        self.mean = self.mean + share * away.sum(axis=0)
        self.square = self.square + share * (variances + away**2).sum(axis=0)
        self.slopes.add(place, away)

    def moments(self) -> tuple[Array, Array]:
        """Mean and sd of the mixture."""
        away = np.asarray(self.mean) / self.share
        variance = np.asarray(self.square) / self.share - away**2 + self.slopes.variances()
        return self.first + away, np.sqrt(np.maximum(variance, 0.0))
