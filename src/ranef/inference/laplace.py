"""Posterior of a model that is linear in its predictors, for any family.

The scales, correlations and the family's numbers theta have a handful of dimensions: as in
``exact`` they are drawn from their density, all coefficients integrated out. Given theta the
coefficients are normal: at first around their mode, by penalized iteratively reweighted least
squares; then as close to the posterior as a normal distribution comes
(``glmm.gaussian_approximation``), so that skewness does not shift them.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from ranef.errors import OptionError, whole_number
from ranef.inference.base import Draws, Method
from ranef.inference.glmm.corrections import NODES, AdaptiveQuadrature, SkewnessCorrection
from ranef.inference.glmm.deviance import IntegratedLikelihood
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.hyperparameters.mode import Mode, find_mode, modes
from ranef.inference.hyperparameters.point_estimates import (
    RestrictedBound,
    RestrictedDensity,
    fix_point_estimates,
)
from ranef.inference.hyperparameters.sampler import (
    FEW,
    HyperDraws,
    at_mode_alone,
    combined,
    message,
    sample,
)
from ranef.inference.lmm.coefficient_posterior import CoefficientPosterior
from ranef.inference.lmm.model import dependent
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.numerics.blas_threads import threads_for
from ranef.program.problem import Problem

# Rows from which it is asked whether fewer nodes serve, or whether a refinement matters at all, and
# nats by which it must move the density over one posterior sd.
_MANY, _IDLE = 200_000, 0.02
# Evaluations for draws that the density itself weights, where no surrogate of it serves.
_SPARE = 400
# Numbers of rows and their predictors up to which thousands of evaluations take minutes at most.
_CHAINS = 20_000
# How often the density is settled anew while its mode is looked for.
_SETTLINGS = 4
# Nats by which each value may be off where a mode is looked for in many dimensions.
_SEARCHED = 1e-4
# Nats by which each value may be off where weights, or steps of chains, are taken of thousands.
_SAMPLED = 1e-3
# What a fit says whose coefficients no normal distribution is close to.
_NO_NORMAL = (
    "not converged: no normal distribution of the coefficients was found at the mode of the "
    "scales, as where components of a mixture can hardly be told apart; compare with method='nuts'"
)


class Laplace(Method):
    """Terms linear in their coefficients, for any family."""

    name = "laplace"
    options = {"quadrature": None}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.settings["quadrature"] is not None:
            nodes = whole_number("quadrature", self.settings["quadrature"], least=1)
            self.settings["quadrature"] = nodes

    def _refine(self, target: GLMMHyperposterior) -> None:
        """Add to the target what a normal distribution misses.

        Raises:
            OptionError: where quadrature was asked for, and there is not one scalar grouping.
        """
        nodes = self.settings["quadrature"]
        scalar = AdaptiveQuadrature.applies(target.working)
        if nodes is not None and nodes > 1 and not scalar:
            raise OptionError(
                "quadrature= takes a model with one grouping and one effect for each of its "
                "levels, such as (1 | g); leave it out"
            )
        if nodes == 1 or not target.working.layout.factors:
            return
        if scalar:
            may_save = nodes is None and target.mixed.n > _MANY
            target.refinement = AdaptiveQuadrature(target.working, nodes or NODES, may_save)
        elif SkewnessCorrection.applies(target.working):
            target.refinement = SkewnessCorrection(target.working)
        else:
            return

    def _explored(
        self,
        target: GLMMHyperposterior,
        free: RestrictedDensity,
        bound: RestrictedBound,
        top: Mode | None,
        rng: np.random.Generator,
        draws: int,
        tick: Callable[[], object],
    ) -> HyperDraws:
        """Draws around one mode of the bound; None where there are no hyperparameters."""
        many = len(free.free) > FEW
        # Around another mode it may have been set otherwise.
        target.left = _SEARCHED if many else None
        if top is not None:
            target.settle(free.whole(top.x[None])[0])
            self._drop_if_idle(target, free, top)
        if many:
            target.left = _SAMPLED
        elif top is not None and target.refinement is not None and target.has_normal:
            top = self._refined_peak(target, free, top, tick)
        if top is not None and not target.has_normal:
            # The density is then rough: more evaluations of it, and longer searches for q, tell
            # nothing.
            target.refinement, target.left = None, math.inf
            return at_mode_alone(free, top, rng, draws)
        # With a Quadrature the density's own gradient costs as little as that of the bound.
        exact_gradient = isinstance(target.refinement, AdaptiveQuadrature) and not many
        same = target.refinement is None
        found = sample(
            free,
            free.start,
            free.width,
            rng,
            draws,
            cheap=False,
            spare=_SPARE if target.mixed.n <= _MANY else 0,
            chains=target.cells <= _CHAINS,
            bound=None if same or exact_gradient else bound,
            near=top,
            tick=tick,
        )
        target.left = None
        return found

    def _refined_peak(
        self,
        target: GLMMHyperposterior,
        free: RestrictedDensity,
        top: Mode,
        tick: Callable[[], object],
    ) -> Mode:
        """The mode of the density, from that of its bound.

        Where it lies far from where the density was settled, it is settled there and looked for
        again: from afar derivatives by differences are not exact enough for the last steps.
        """
        evaluations, trial = top.evaluations, 0
        while True:
            trial += 1
            here = find_mode(free, top.x, free.width, tick, top.root)
            evaluations += here.evaluations
            if trial == _SETTLINGS or (here.found and top.covers(here.x)):
                return replace(here, evaluations=evaluations)
            top = here
            target.settle(free.whole(here.x[None])[0])

    def _drop_if_idle(self, target: GLMMHyperposterior, free: RestrictedDensity, top: Mode) -> None:
        """Of many rows, leave out a refinement that does not move the hyperparameters."""
        if self.settings["quadrature"] is not None or target.mixed.n <= _MANY:
            return
        slope = free.value_and_gradient(top.x)[1]
        if (np.abs(top.root.T @ slope) < _IDLE).all():
            target.refinement = None

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        rng = np.random.default_rng(seed)
        bar = tqdm(desc="laplace", unit="evaluation", disable=not progress, leave=False)
        target = GLMMHyperposterior.of(problem, self.name)
        mixed = target.mixed
        try:
            with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
                target.settle(target.start)
                self._refine(target)
                free, points = fix_point_estimates(target, bar.update)
                # The bound's mode is next to the density's, and is found at a part of the cost.
                bound = RestrictedBound(target, free.free, free.base)
                target.left = _SEARCHED if len(free.free) > FEW else None
                tops = modes(bound, bound.starts, bound.width, bar.update) if len(free.free) else []
                every = [
                    self._explored(target, free, bound, top, rng, draws, bar.update)
                    for top in tops or [None]
                ]
                found = combined(every, rng)
                x = free.whole(found.x)
                target.settle(free.whole(found.mode[None])[0])
        except DependentColumnError as error:
            raise dependent(mixed, error) from None
        finally:
            bar.close()
        coefficients = CoefficientPosterior(target, x, seed)
        sites = target.coordinates.values(x)
        hidden = {*points, *(tail.name for tail in mixed.tails)}
        hyper: dict[str, Any] = {n: v[None] for n, v in sites.items() if n not in hidden}
        said = message(found, draws) if target.has_normal else f"{_NO_NORMAL}; {draws:,} draws"
        return Draws(
            lambda: coefficients.sites(hyper),
            points,
            {},
            target.has_normal and found.found and found.reliable,
            said,
            found.evaluations,
            analytic_moments=coefficients.moments,
            lazy_sites=tuple(coefficients.group_sites),
            effect_sampler=lambda: coefficients.effects,
            k_hat=found.k_hat,
            evidence=found.evidence,
            settings={"quadrature": self.settings["quadrature"]},
        )

    def likelihood(self, problem: Problem) -> IntegratedLikelihood:
        """As lme4 defines it for generalized models; `quadrature` as it was asked for."""
        return IntegratedLikelihood(problem, self.settings["quadrature"] or 1)
