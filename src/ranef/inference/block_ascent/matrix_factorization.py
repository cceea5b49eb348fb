"""Variational matrix factorization beside linear terms, by block coordinate ascent.

    y_i = u[a_i]' v[b_i] + x_i' beta + sum_f z_fi' b_f[j] + e_i,   e_i ~ N(0, sigma^2 / w_i)

The approximation is q(u) q(v) q(tau) q(rest), where tau are the sds of u, and the rest are the
common effects beta, the group effects b and their hyperparameters theta. Each factor of q is
updated to its optimum given the others, which raises the ELBO. ``factor_posterior`` has the updates
of u, v and tau. Given q(u) and q(v), the rest is a Gaussian mixed model of y - E u'v, whose
residual sum of squares grows by the variance of u'v. During the search theta is at its mode
(``lmm_step``); at the end the method ``exact`` computes the posterior of the rest.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors, registry
from ranef.errors import OptionError
from ranef.inference.base import Draws, LevelDraws, Method
from ranef.inference.block_ascent.factor_draws import FactorDraws, LazyFactorDraws
from ranef.inference.block_ascent.factor_posterior import RatingsTable, TermPosterior
from ranef.inference.block_ascent.lmm_step import LMMUpdate
from ranef.inference.glmm.arrays import PerRow, SiteValues
from ranef.lazy import Array as JaxArray
from ranef.priors import handlers
from ranef.program.problem import Batch, Problem, RunProgram
from ranef.program.training import Rows
from ranef.progress import progress_bar
from ranef.terms.blocks import LinearBlock

# Mean and variance of u'v in each row.
RowMoments = tuple[PerRow, PerRow]

# Sweeps over u, v and tau in a round.
_SWEEPS = 4
# Maximal number of rounds.
_ROUNDS = 200
# Rounds in which tau stays at its large start. While the residual is large, a weak component looks
# like noise; tau would go to zero and recover slowly.
_HELD = 3
# Rounds that search for the mode of theta even if that is expensive.
_PATIENT = (*range(6), 8, 16, 32, 64, 128)
# The search ends when the root mean square change of E u'v in a round is below this share of the
# root mean square posterior sd of u'v.
_MOVED = 0.003


@dataclass(frozen=True)
class CombinedDraws:
    """Draws of requested levels, as `LevelDraws`, from two sources with different sites.

    Attributes:
        factors: draws of u and v.
        others: draws of the group effects, or None if there are none by level.
    """

    factors: FactorDraws
    others: LevelDraws | None

    @property
    def draws(self) -> int:
        """Number of draws, all chains together."""
        return self.factors.draws

    def at(self, levels: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Draws of the levels (m,) of each site in `levels`, (chain, draw, m, ...)."""
        own = set(self.factors.sites)
        rest = {name: places for name, places in levels.items() if name not in own}
        found = dict(self.others.at(rest)) if self.others is not None and rest else {}
        return {**found, **self.factors.at({n: p for n, p in levels.items() if n in own})}


class MatrixFactorization:
    """Block ascent for one problem with matrix factorization terms.

    Args:
        problem: a model for which `applies` holds.
        settings: options of the method ``svi``.
        seed: seed of the start and of the draws.

    Raises:
        OptionError: for an option that applies to stochastic gradient steps only.
    """

    def __init__(self, problem: Problem, settings: Mapping[str, Any], seed: int) -> None:
        self.problem, self.seed = problem, seed
        for name in ("optimizer", "batch_size", "checkpoint"):
            if settings[name] is not None:
                raise OptionError(
                    f"{next(iter(problem.bilinear))} beside linear terms is found in closed form, "
                    f"where there is nothing for {name}= to do; leave it out"
                )
        sweeps = settings["steps"]
        self.sweeps = _SWEEPS if sweeps is None else min(_SWEEPS, sweeps)
        self.rounds = _ROUNDS if sweeps is None else -(-sweeps // self.sweeps)
        normal = problem.normal()
        assert normal is not None
        self.normal = normal
        self.blocks = problem.unit_blocks()
        self.tables = {
            label: RatingsTable(term, normal.weights) for label, term in problem.bilinear.items()
        }
        self.q: dict[str, TermPosterior] = {}
        self.trace: list[tuple[float, int]] = []
        self.steps = 0
        self.interrupted = self.settled = False

    def run(self, progress: bool) -> None:
        """Runs rounds until E u'v hardly changes, `_ROUNDS` are done or the user interrupts.

        Args:
            progress: whether to show a bar on standard error.
        """
        n = len(self.normal.value)
        moments = {label: (np.zeros(n), np.zeros(n)) for label in self.tables}
        sites: SiteValues = {}
        nearly = False
        bar = progress_bar("svi", "rounds", shown=progress, total=self.rounds)
        with bar:
            try:
                for number in range(self.rounds):
                    known = self._linear_problem(moments)
                    # The scales converge early, so that expensive ones are searched for in some
                    # rounds only.
                    patient = number in _PATIENT or nearly
                    rest = LMMUpdate.of(known, sites, patient=patient)
                    sites = rest.sites
                    if self.q:
                        bound = rest.evidence + sum(q.bound for q in self.q.values())
                        self.trace.append((bound, self.steps))
                    held = number < min(_HELD, self.rounds - 1)
                    nearly = self._sweep(rest, known, moments, held=held) < _MOVED and not held
                    bar.update(1)
                    # Without a search for the scales in this round, confirm in one with a search.
                    if nearly and patient:
                        self.settled = True
                        return
            except KeyboardInterrupt:
                if not self.q:
                    raise
                self.interrupted = True

    def _sweep(
        self,
        rest: LMMUpdate,
        known: Problem,
        moments: dict[str, RowMoments],
        *,
        held: bool,
    ) -> float:
        """Updates the factors of all terms, and `moments` in place.

        Args:
            rest: the linear terms given the factors.
            known: the problem with known factors.
            moments: mean and variance of u'v in each row, by label.
            held: whether tau stays as it is.

        Returns:
            The root mean square change of E u'v over the root mean square sd of u'v, the largest
            of all terms.
        """
        moved = 0.0
        residual = rest.residuals(next(known.batches()), known)[0]
        beta = 1 / rest.sigma**2
        for place, (label, table) in enumerate(self.tables.items()):
            own = residual + moments[label][0]
            q = self.q.get(label)
            if q is None:
                prior = self.problem.priors[self.problem.bilinear[label].scale]
                q = TermPosterior.begin(table, prior, own, [self.seed, 4, place])
            for _ in range(self.sweeps):
                q = table.sweep(q, own, beta, held=held)
            self.q[label] = q
            before, moments[label] = moments[label][0], table.moments(q)
            mean, variance = moments[label]
            moved = max(moved, math.sqrt(np.mean((mean - before) ** 2) / np.mean(variance)))
            residual = own - mean
        self.steps += self.sweeps
        return moved

    def _linear_problem(self, moments: Mapping[str, RowMoments]) -> Problem:
        """The problem of the linear terms, with E u'v known and the variance of u'v added."""
        n, none = len(self.normal.value), np.zeros(0)
        blocks = dict(self.blocks)
        for label, (mean, variance) in moments.items():
            columns = np.zeros((n, 0))
            blocks[label] = LinearBlock(columns, None, 1, none, none, known=mean, variance=variance)
        batch = Batch(self.normal, blocks)
        return replace(
            self.problem,
            unit_blocks=lambda: blocks,
            batches=lambda: iter([batch]),
            run=self._without_factors(),
            bilinear={},
        )

    def _without_factors(self) -> RunProgram:
        """The NumPyro program with the factors and their scales known and hidden."""
        means = {}
        for label, q in self.q.items():
            term = self.problem.bilinear[label]
            means |= {term.sites[0]: q.u.mean, term.sites[1]: q.v.mean, term.scale: q.scales.mean}

        def run(data: Rows, rows: int | None = None) -> Mapping[str, JaxArray]:
            known = handlers.substituted(lambda: self.problem.run(data, rows), means)
            return handlers.hidden(known, means)()

        return run

    def finish(self, draws: int, progress: bool) -> Draws:
        """The posterior of the linear terms given q(u) q(v), and draws of the factors.

        Args:
            draws: number of posterior draws.
            progress: whether to show a bar on standard error.

        Returns:
            Draws of all sites. The ELBO is the log evidence of the linear terms given q(u) q(v),
            or its density at the mode of theta if the evidence is not known, less the KL
            divergence of the factors; its standard error is stated as 0.
        """
        moments = {label: table.moments(self.q[label]) for label, table in self.tables.items()}
        last: Method = registry.load("method", "exact")()
        known = self._linear_problem(moments)
        found = last.run(known, seed=self.seed, draws=draws, progress=progress)
        # The method "exact" can fall back on nuts, which has several chains.
        ready = (found.sites[name] for name in found.sites if name not in found.lazy_sites)
        chains, size = next((np.shape(value)[:2] for value in ready), (1, draws))
        sides, scales, points, closed = {}, {}, {}, {}
        rng = np.random.default_rng([self.seed, 5])
        for label, q in self.q.items():
            term = self.problem.bilinear[label]
            for site, side in zip(term.sites, (q.u, q.v), strict=True):
                sides[site] = side
                closed[site] = (side.mean, np.sqrt(np.einsum("jkk->jk", side.covariance)))
            if isinstance(q.prior, priors.PointEstimate):
                points[term.scale] = q.scales.mean
            elif not isinstance(q.prior, priors.Fixed):
                scales[term.scale] = q.scales.draw(rng, chains * size).reshape(chains, size, -1)
                closed[term.scale] = (q.scales.mean, q.scales.sd)
        drawn = FactorDraws.of(sides, chains * size, self.seed, chains)
        bound = sum(q.bound for q in self.q.values())
        at_mode = self.trace[-1][0] if self.trace else -math.inf
        whole = at_mode if found.evidence is None else found.evidence + bound
        # A search of one round has no trace.
        bounds, steps = np.array(self.trace or [(whole, self.steps)]).T
        return replace(
            found,
            draw=lambda: LazyFactorDraws(drawn, (scales, found.sites)),
            points={**found.points, **points},
            converged=found.converged and self.settled,
            message=self._message(found.message),
            steps=self.steps,
            elbo=(whole, 0.0),
            evidence=None,
            trace={"elbo": bounds, "step": steps},
            analytic_moments=lambda: {**found.known_moments, **closed},
            lazy_sites=(*found.lazy_sites, *sides),
            effect_sampler=lambda: CombinedDraws(drawn, found.effects),
            interrupted=self.interrupted,
        )

    def _message(self, rest: str) -> str:
        """How the search ended, as a sentence."""
        text = f"{self.steps:,} sweeps over the factors"
        if self.interrupted:
            text = f"interrupted after {text}"
        elif not self.settled:
            text = f"not converged: {text}, after which they still moved"
        return f"{text}; all else in closed form: {rest}"


def applies(problem: Problem) -> bool:
    """Whether the model has matrix factorization terms, and the others are linear and Gaussian.

    The response must be normal, with its mean the only parameter that has a predictor.
    """
    blocks = problem.unit_blocks()
    others = [block for label, block in blocks.items() if label not in problem.bilinear]
    return (
        bool(problem.bilinear)
        and problem.normal() is not None
        and all(problem.predicts[label] == problem.location for label in blocks)
        and all(block is not None and block.gaussian for block in others)
    )
