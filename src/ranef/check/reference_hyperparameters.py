"""Computes a reference posterior of the hyperparameters by importance sampling.

If the coefficients integrate out but an evaluation of log p(theta | y) is expensive, as with
crossed groupings, the exact method draws theta from a surrogate of that density. Here the surrogate
is checked. The proposal is a t distribution with the mean of these draws and a wider covariance,
and its draws, as many as time allows, are weighted by the density itself. Given theta the
coefficients are exact, so that only theta needs a check.
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

# Largest number of draws of theta.
_MOST = 400
# Smallest number of draws with which a reference is possible.
_LEAST = 50
# Draws that are evaluated between two readings of the clock.
_AT_ONCE = 10
# Scale of the proposal as a multiple of that of the draws. Weights can correct a proposal that is
# too wide, but not one that is too narrow.
_WIDER = 1.3
# Degrees of freedom of the proposal: its tails should not be lighter than the posterior's.
_NU = 5.0


def exact_scales(
    posterior: Posterior, problem: Problem, deadline: Deadline
) -> Reference | NoReference:
    """Compute the reference of the hyperparameters alone.

    Args:
        posterior: the fit that is checked.
        problem: its model and rows.
        deadline: when to stop.

    Returns:
        The reference, or the reason why there is none: rows that are read in batches, t priors, no
        hyperparameters, or importance weights that are not reliable.

    Raises:
        OutOfTimeError: if the deadline passes before the smallest number of evaluations is done.
    """
    if problem.windows:
        return NoReference("rows are read in batches")
    problem = held(problem, posterior.draws.points)
    try:
        mixed = accumulate(problem, "check")
        if mixed.mixtures:
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
