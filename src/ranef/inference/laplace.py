"""The method `laplace`: the posterior of a model with linear predictors, for any family.

The hyperparameters theta (scales, correlations and family parameters) have few dimensions. As in
``exact``, they are drawn from their density with all coefficients integrated out. Given theta, the
posterior of the coefficients is approximated by a normal distribution. The search for it starts at
the mode of the coefficients, by penalized iteratively reweighted least squares (Laplace's
approximation), and then maximises the variational bound over normal distributions
(``glmm.gaussian_approximation``), so that skewness does not shift the means. For some models, the
density of theta is corrected for what the normal approximation misses (``glmm.corrections``).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

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
from ranef.inference.lmm.applicability import not_linear, too_large
from ranef.inference.lmm.integrated_draws import integrated_draws
from ranef.inference.lmm.model import dependent
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.numerics.blas_threads import threads_for
from ranef.program.problem import Problem
from ranef.progress import progress_bar

# With more rows than this, check whether fewer quadrature nodes suffice, and whether the
# correction matters at all.
_MANY = 200_000
# The correction is dropped if the corrected density at the mode of the bound changes by less than
# this per posterior sd, in nats.
_IDLE = 0.02
# Evaluations of the density for importance-weighted draws, if the surrogate fails.
_SPARE = 400
# Chains are used up to this number of working weights (rows times squared number of predictors).
# Thousands of evaluations then take minutes at most.
_CHAINS = 20_000
# Maximal number of searches for the mode of the corrected density, each settled at the last mode.
_SETTLINGS = 4
# Error of a value of the density in the search for a mode in many dimensions, in nats.
_SEARCHED = 1e-4
# Error of a value of the density in sampling in many dimensions, where thousands of values are
# needed, in nats.
_SAMPLED = 1e-3
# Message of a fit without a normal approximation of the coefficients.
_NO_NORMAL = (
    "not converged: no normal distribution of the coefficients was found at the mode of the "
    "scales, as where components of a mixture can hardly be told apart; compare with method='nuts'"
)


class Laplace(Method):
    """Normal approximation of coefficients for any family, with draws of the hyperparameters.

    The option `quadrature` is the number of nodes of adaptive Gauss-Hermite quadrature over the
    levels of a single grouping with one effect per level: 1 for no correction of the normal
    approximation, None for the default number where it applies. With None other models have the
    skewness correction if it applies.
    """

    name = "laplace"
    options = {"quadrature": None}

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        if self.settings["quadrature"] is not None:
            nodes = whole_number("quadrature", self.settings["quadrature"], least=1)
            self.settings["quadrature"] = nodes

    def refuses(self, problem: Problem) -> str | None:
        """Why the predictors are not linear and Gaussian, or too large; see `Method.refuses`."""
        blocks = problem.unit_blocks()
        return not_linear(blocks, problem) or too_large(blocks, row_covariances=True)

    def _refine(self, target: GLMMHyperposterior) -> None:
        """Adds a correction of the normal approximation to the target, if one applies.

        Raises:
            OptionError: if `quadrature` is above 1 and the model is not one grouping with one
                effect per level.
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
            target.refinement = AdaptiveQuadrature(
                target.working, nodes or NODES, may_save, may_add=nodes is None
            )
        elif SkewnessCorrection.applies(target.working):
            target.refinement = SkewnessCorrection(target.working)
        else:
            return

    def _sampled(
        self,
        target: GLMMHyperposterior,
        free: RestrictedDensity,
        bound: RestrictedBound,
        top: Mode | None,
        rng: np.random.Generator,
        draws: int,
        tick: Callable[[], object],
    ) -> HyperDraws:
        """Draws of the hyperparameters around one mode of the bound.

        Args:
            target: the density, which is settled at the mode.
            free: the density of the coordinates that are not point estimates.
            bound: the same without the correction.
            top: the mode of the bound; None if there are no hyperparameters.
            rng: random number generator.
            draws: number of draws.
            tick: called at each evaluation.
        """
        many = len(free.free) > FEW
        # Reset what the draws around another mode have set.
        target.left = _SEARCHED if many else None
        if top is not None:
            target.settle(free.whole(top.x[None])[0])
            self._drop_if_idle(target, free, top)
        if many:
            target.left = _SAMPLED
        elif top is not None and target.refinement is not None and target.has_normal:
            top = self._refined_peak(target, free, top, tick)
        if top is not None and not target.has_normal:
            # The search for q did not end at a maximum, so that values of the density have large
            # errors. More evaluations would not help.
            target.refinement, target.left = None, math.inf
            return at_mode_alone(free, top, rng, draws)
        # With quadrature the gradient of the corrected density is as cheap as that of the bound.
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
        """The mode of the corrected density, searched for from the mode of its bound.

        If the mode lies far from where the density was settled, the density is settled there and
        the search repeated, because derivatives by differences are not exact enough far away.
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
        """Drops the correction for many rows if it hardly changes the hyperposterior."""
        if self.settings["quadrature"] is not None or target.mixed.n <= _MANY:
            return
        slope = free.value_and_gradient(top.x)[1]
        if (np.abs(top.root.T @ slope) < _IDLE).all():
            target.refinement = None

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        """Computes the posterior; see `Method.run`.

        Raises:
            MethodError: for a model that is not linear and Gaussian in its predictors.
            DataError: for linearly dependent common columns.
            OptionError: for `quadrature` above 1 where it does not apply.
        """
        rng = np.random.default_rng(seed)
        bar = progress_bar("laplace", "evaluations", shown=progress)
        target = GLMMHyperposterior.of(problem, self.name)
        mixed = target.mixed
        try:
            with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
                target.settle(target.start)
                self._refine(target)
                free, points = fix_point_estimates(target, bar.update)
                # The mode of the bound is close to that of the corrected density, and cheaper.
                bound = RestrictedBound(target, free.free, free.base)
                target.left = _SEARCHED if len(free.free) > FEW else None
                tops = modes(bound, bound.starts, bound.width, bar.update) if len(free.free) else []
                every = [
                    self._sampled(target, free, bound, top, rng, draws, bar.update)
                    for top in tops or [None]
                ]
                found = combined(every, rng)
                x = free.whole(found.x)
                target.settle(free.whole(found.mode[None])[0])
        except DependentColumnError as error:
            raise dependent(mixed, error) from None
        finally:
            bar.close()
        ended = message(found, draws) if target.has_normal else f"{_NO_NORMAL}; {draws:,} draws"
        drawn = integrated_draws(target, found, x, points, seed, ended)
        return replace(
            drawn,
            converged=target.has_normal and drawn.converged,
            settings={"quadrature": self.settings["quadrature"]},
        )

    def likelihood(self, problem: Problem) -> IntegratedLikelihood:
        """The deviance of a generalized model as lme4 defines it, with `quadrature` nodes."""
        return IntegratedLikelihood(problem, self.settings["quadrature"] or 1)
