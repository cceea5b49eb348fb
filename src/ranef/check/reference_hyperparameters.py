"""The reference of the exact density of the scales, where evaluations are few.

Where coefficients integrate out but an evaluation of log p(theta | y) is dear, as with crossed
groupings, the exact method draws theta from a surrogate of that density. Here draws from a t
distribution of the moments of these draws are weighted by the density itself, as many as time
allows. Given theta the coefficients are exact, so that nothing else can be off.
"""

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import Deadline
from ranef.check.reference import NoReference, Reference
from ranef.check.reference_exact import HIDDEN, held, phi_labels, reported_scales, theta_coordinates
from ranef.errors import RanefError
from ranef.inference.hyperparameters.importance import ProposalMixture
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.psis import smoothed, threshold
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem

Array = NDArray[np.float64]

# Values of theta at most and at least, and how many are evaluated between two looks at the clock.
_MOST, _LEAST, _AT_ONCE = 400, 50, 10
# The proposal is wider than the draws by this: weights can mend what is too wide.
_WIDER = 1.3
# Degrees of freedom of the proposal, whose tails should not be lighter than the posterior's.
_NU = 5.0


def exact_scales(
    posterior: Posterior, problem: Problem, deadline: Deadline
) -> Reference | NoReference:
    """No reference where too few evaluations can be had, or their weights are not reliable.

    Raises:
        OutOfTimeError: where the time is over before any could be had.
    """
    if problem.windows:
        return NoReference("rows are read in batches")
    problem = held(problem, posterior.draws.points)
    try:
        mixed = accumulate(problem, "check")
        if mixed.tails:
            return NoReference(HIDDEN)
        with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
            marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
            return _compared(posterior, marginal, deadline)
    except (RanefError, ArithmeticError, np.linalg.LinAlgError) as error:
        return NoReference(str(error))


def _compared(
    posterior: Posterior, marginal: LMMHyperposterior, deadline: Deadline
) -> Reference | NoReference:
    coordinates = marginal.coordinates
    if not coordinates.size:
        return NoReference("the model has no scales that are not known")
    names = [scale.name for scale in coordinates.scales]
    names += [correlation.name for correlation, _ in coordinates.correlations]
    sites = posterior.draws.sites
    flat = {n: np.asarray(sites[n], np.float64) for n in names}
    flat = {n: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]) for n, v in flat.items()}
    x = coordinates.inverse(flat)
    rng = np.random.default_rng(0)
    signs = np.unique([np.ones(x.shape[1]), *(coordinates.signs([i]) for i in coordinates.folded)],
                      axis=0)  # fmt: skip
    d = x.shape[1]
    root = np.linalg.cholesky(np.cov(x.T).reshape(d, d) + 1e-12 * np.eye(d))
    wider = np.asarray(_WIDER * root, np.float64)
    proposal = ProposalMixture(x.mean(axis=0)[None], wider, _NU, signs[::-1])
    places = coordinates.canonical(proposal.sample(rng, _MOST))
    values: list[Array] = []
    for first in range(0, _MOST, _AT_ONCE):
        if deadline.left < 0:
            break
        values.append(marginal.log_density(places[first : first + _AT_ONCE]))
    found = np.concatenate([np.zeros(0), *values])
    if len(found) < _LEAST:
        deadline.tick()
    places = places[: len(found)]
    ratios = found - proposal.log_density(places)
    if not np.isfinite(ratios).any():
        return NoReference("the exact density of the scales is zero around the draws")
    weights, k = smoothed(np.where(np.isfinite(ratios), ratios, -1e300))
    if k > threshold(len(found)):
        return NoReference("importance weights of the scales were not reliable")
    own, right = (theta_coordinates(marginal, each, places) for each in (x, places))
    middle = weights @ right
    away = right - middle
    effective = 1 / float((weights**2).sum())
    return Reference(
        tuple(phi_labels(posterior, marginal)),
        own,
        middle,
        (weights[:, None] * away).T @ away,
        effective,
        None,
        reported_scales(posterior, marginal, x, places, weights),
        {},
        source=f"{len(found):,} importance draws of the scales by their exact density "
        f"({effective:,.0f} effective)",
    )
