"""The exact posterior of a Gaussian mixed model: coefficients in closed form, scales by draws.

Given the scales and correlations theta, all coefficients have a normal posterior in closed
form and integrate out of p(y | theta) p(theta), which has a handful of dimensions.
``hyperparameters.sampler`` draws theta; the coefficients' means and variances are mixed over these
draws, and draws of them come from their exact conditional.
"""

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ranef import priors
from ranef.errors import OptionError
from ranef.inference.base import Draws, Method
from ranef.inference.hyperparameters.mode import modes
from ranef.inference.hyperparameters.point_estimates import fix_point_estimates
from ranef.inference.hyperparameters.sampler import combined, message, sample
from ranef.inference.lmm.coefficient_posterior import CoefficientPosterior
from ranef.inference.lmm.degenerate_residual import (
    out_of_reach,
    refuse_vanished,
    refuse_without_residual,
)
from ranef.inference.lmm.deviance import ProfiledDeviance
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import dependent
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.numerics.blas_threads import threads_for
from ranef.program.problem import Problem

Array = NDArray[np.float64]


class Exact(Method):
    """Gaussian responses and terms linear in their coefficients; it has no options."""

    name = "exact"
    streams = True

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        mixed = accumulate(problem, self.name)
        refuse_without_residual(mixed, problem)
        rng = np.random.default_rng(seed)
        bar = tqdm(desc="exact", unit="evaluation", disable=not progress, leave=False)
        try:
            with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
                marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
                # Columns that cannot be told apart here never can; further out it may be the
                # scales.
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
        coefficients = CoefficientPosterior(marginal, x, seed)
        sites = marginal.coordinates.values(x)
        hidden = {*points, *(tail.name for tail in mixed.tails)}
        hyper = {name: value[None] for name, value in sites.items() if name not in hidden}
        return Draws(
            lambda: coefficients.sites(hyper),
            points,
            {},
            found.found and found.reliable,
            message(found, draws),
            found.evaluations,
            analytic_moments=coefficients.moments,
            lazy_sites=tuple(coefficients.group_sites),
            effect_sampler=lambda: coefficients.effects,
            k_hat=found.k_hat,
            evidence=found.evidence,
        )

    def likelihood(self, problem: Problem) -> ProfiledDeviance:
        """As lme4 defines it.

        Raises:
            OptionError: where sigma is known, over which the criterion is profiled.
        """
        mixed = accumulate(problem, self.name)
        if not mixed.sigma or isinstance(problem.priors[mixed.sigma], priors.Fixed):
            raise OptionError(
                "the likelihood criterion is profiled over sigma, which this model holds fixed; "
                "leave out se() and the number in priors"
            )
        return ProfiledDeviance(mixed)
