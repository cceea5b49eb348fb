"""The method `exact`: the posterior of a Gaussian mixed model, by integrating out coefficients.

Given the hyperparameters theta (scales and correlations), the posterior of all coefficients is
normal in closed form, so that they integrate out:

    p(theta | y) ~ p(theta) int p(y | b, beta, theta) p(b, beta | theta) db dbeta.

This density has few dimensions. ``hyperparameters.sampler`` draws theta from it. Means and
variances of the coefficients are averaged over these draws; draws of the coefficients come from
their exact conditional posterior given theta.
"""

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.errors import OptionError
from ranef.inference.base import Draws, Method
from ranef.inference.hyperparameters.mode import modes
from ranef.inference.hyperparameters.point_estimates import fix_point_estimates
from ranef.inference.hyperparameters.sampler import combined, message, sample
from ranef.inference.lmm.degenerate_residual import (
    out_of_reach,
    refuse_vanished,
    refuse_without_residual,
)
from ranef.inference.lmm.deviance import ProfiledDeviance
from ranef.inference.lmm.integrated_draws import integrated_draws
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import LinearMixedModel, dependent
from ranef.inference.lmm.sufficient_statistics import accumulate, accumulate_or_reason
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.numerics.blas_threads import threads_for
from ranef.program.problem import Problem
from ranef.progress import progress_bar

Array = NDArray[np.float64]


class Exact(Method):
    """Exact posterior for Gaussian responses and terms linear in their coefficients.

    The method has no options.
    """

    name = "exact"
    streams = True

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        # The answer of `refuses` for a problem, until `run` takes it.
        self._kept: tuple[Problem, LinearMixedModel | str] | None = None

    def refuses(self, problem: Problem) -> str | None:
        """Why the model is not of this form; see `Method.refuses`.

        Whether crossed groupings are too large is known once all rows are read, so that their
        cross-products are accumulated here.

        Raises:
            DataError: as `run`.
        """
        found = accumulate_or_reason(problem)
        self._kept = problem, found
        return found if isinstance(found, str) else None

    def _mixed(self, problem: Problem) -> LinearMixedModel:
        """The mixed model of a problem; that of `refuses` is taken, and no longer kept."""
        kept, self._kept = self._kept, None
        if kept is not None and kept[0] is problem and not isinstance(kept[1], str):
            return kept[1]
        return accumulate(problem, self.name)

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        """Computes the posterior; see `Method.run`.

        Raises:
            MethodError: for a model that is not of this form, or has too many crossed effects.
            DataError: for linearly dependent common columns, or if the residual is so small that
                rounding errors determine the scales.
        """
        mixed = self._mixed(problem)
        refuse_without_residual(mixed, problem)
        rng = np.random.default_rng(seed)
        bar = progress_bar("exact", "evaluations", shown=progress)
        try:
            with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
                marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
                # Detect linearly dependent columns at the start. At extreme values of the scales
                # the system can be singular for other reasons.
                marginal.solve(marginal.start)
                target, points = fix_point_estimates(marginal, bar.update)
                starts, width = target.starts, target.width
                tops = modes(target, starts, width, bar.update) if len(starts) > 1 else [None]
                every = [
                    sample(
                        target,
                        target.start,
                        width,
                        rng,
                        draws,
                        cheap=mixed.solver.is_cheap,
                        patient=mixed.solver.is_affordable,
                        chains=mixed.solver.serves_chains,
                        near=top,
                        tick=bar.update,
                    )
                    for top in tops
                ]
                found = combined(every, rng)
        except DependentColumnError as error:
            raise dependent(mixed, error) from None
        except (ArithmeticError, np.linalg.LinAlgError):
            raise out_of_reach(mixed, problem) from None
        finally:
            bar.close()
        x = target.whole(found.x)
        refuse_vanished(marginal.sites(x), mixed, problem, found=found.found)
        return integrated_draws(marginal, found, x, points, seed, message(found, draws))

    def likelihood(self, problem: Problem) -> ProfiledDeviance:
        """The profiled deviance, as lme4 defines it.

        Raises:
            OptionError: if sigma is fixed, because the criterion is profiled over sigma.
        """
        mixed = accumulate(problem, self.name)
        if not mixed.sigma or isinstance(problem.priors[mixed.sigma], priors.Fixed):
            raise OptionError(
                "the likelihood criterion is profiled over sigma, which this model holds fixed; "
                "leave out se() and the number in priors"
            )
        return ProfiledDeviance(mixed)
