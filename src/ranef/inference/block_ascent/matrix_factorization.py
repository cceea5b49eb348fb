"""Products of coefficients beside linear blocks: matrix factorization, all in closed form.

    y_i = u[a_i]' v[b_i] + x_i' beta + sum_f z_fi' b_f[j] + e_i,   e_i ~ N(0, sigma^2 / w_i)

under q(u) q(v) q(tau) q(all else), each part the optimum given the others, so that the bound climbs
with every one (``factor_posterior``). Given q(u) and q(v) all else is a Gaussian mixed model of
y - E u'v, to whose residual sum of squares the variance of u'v adds: that is the exact method's.
Its scales are at their mode while the search goes on (``lmm_step``), and have their posterior at
its end.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ranef import priors, registry
from ranef.errors import OptionError
from ranef.inference.base import Draws, LevelDraws, Method
from ranef.inference.block_ascent.factor_posterior import (
    FactorDraws,
    LazyFactorDraws,
    RatingsTable,
    TermPosterior,
)
from ranef.inference.block_ascent.lmm_step import LMMUpdate
from ranef.lazy import numpyro
from ranef.program.problem import Batch, Problem
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]

# Sweeps over u, v and tau in a round, and rounds at most.
_SWEEPS, _ROUNDS = 4, 200
# Rounds in which tau stays large. Under the residual that is left before anything is learned a
# weak component looks like noise, and from a tau near zero it would hardly come back.
_HELD = 3
# Rounds in which the scales of all else are looked for however dear they are.
_PATIENT = (*range(6), 8, 16, 32, 64, 128)
# How far E u'v still moves in the last round, as a share of its sd.
_MOVED = 0.003


@dataclass(frozen=True)
class CombinedDraws:
    """Draws by level from two sources, each with sites of its own."""

    factors: FactorDraws
    others: LevelDraws | None

    @property
    def draws(self) -> int:
        return self.factors.draws

    def at(self, levels: Mapping[str, NDArray]) -> dict[str, NDArray]:
        own = set(self.factors.sites)
        rest = {name: places for name, places in levels.items() if name not in own}
        found = dict(self.others.at(rest)) if self.others is not None and rest else {}
        return {**found, **self.factors.at({n: p for n, p in levels.items() if n in own})}


class MatrixFactorization:
    """The search of one problem.

    Args:
        problem: normal, with products of coefficients beside linear terms.
        settings: of svi.
        seed: of all that is drawn.

    Raises:
        OptionError: for an option that it has no use for.
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
        """Climb until the factors rest."""
        n = len(self.normal.value)
        moments = {label: (np.zeros(n), np.zeros(n)) for label in self.tables}
        sites: Mapping[str, Any] = {}
        nearly = False
        bar = tqdm(total=self.rounds, desc="svi", unit="round", disable=not progress, leave=False)
        with bar:
            try:
                for number in range(self.rounds):
                    known = self._given(moments)
                    # The scales settle early; dear ones are looked for now and then.
                    patient = number in _PATIENT or nearly
                    rest = LMMUpdate.of(known, sites, patient=patient)
                    sites = rest.sites
                    if self.q:
                        bound = rest.evidence + sum(q.bound for q in self.q.values())
                        self.trace.append((bound, self.steps))
                    held = number < min(_HELD, self.rounds - 1)
                    nearly = self._sweep(rest, known, moments, held=held) < _MOVED and not held
                    bar.update(1)
                    # Where the scales have been waited with they may still have something to say.
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
        moments: dict[str, tuple[Array, Array]],
        *,
        held: bool,
    ) -> float:
        """By how much E u'v has moved, as a share of its sd, root mean squares of both."""
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

    def _given(self, moments: Mapping[str, tuple[Array, Array]]) -> Problem:
        """The problem of all else."""
        n, none = len(self.normal.value), np.zeros(0)
        blocks = dict(self.blocks)
        for label, (mean, variance) in moments.items():
            columns = np.zeros((n, 0))
            blocks[label] = LinearBlock(columns, None, 1, none, none, known=mean, variance=variance)
        part = Batch(self.normal, blocks)
        return replace(
            self.problem,
            unit_blocks=lambda: blocks,
            batches=lambda: iter([part]),
            run=self._without_factors(),
            bilinear={},
        )

    def _without_factors(self) -> Any:
        """The program of all else: what is known is no site any more."""
        data = {}
        for label, q in self.q.items():
            term = self.problem.bilinear[label]
            data |= {term.sites[0]: q.u.mean, term.sites[1]: q.v.mean, term.scale: q.scales.mean}

        def run(*args: Any) -> Any:
            given = numpyro.handlers.substitute(lambda: self.problem.run(*args), data=data)
            return numpyro.handlers.block(given, hide=list(data))()

        return run

    def finish(self, draws: int, progress: bool) -> Draws:
        """The exact posterior of all else, and draws of the factors."""
        moments = {label: table.moments(self.q[label]) for label, table in self.tables.items()}
        last: Method = registry.load("method", "exact")()
        known = self._given(moments)
        found = last.run(known, seed=self.seed, draws=draws, progress=progress)
        # Where exact gives way to nuts it has several chains.
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
        # Of a search of one round there is no other.
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
        text = f"{self.steps:,} sweeps over the factors"
        if self.interrupted:
            text = f"interrupted after {text}"
        elif not self.settled:
            text = f"not converged: {text}, after which they still moved"
        return f"{text}; all else in closed form: {rest}"


def applies(problem: Problem) -> bool:
    """Whether there are products of coefficients, and all else is linear and Gaussian."""
    blocks = problem.unit_blocks()
    others = [block for label, block in blocks.items() if label not in problem.bilinear]
    return (
        bool(problem.bilinear)
        and problem.normal() is not None
        and all(problem.predicts[label] == problem.location for label in blocks)
        and all(block is not None and block.gaussian for block in others)
    )
