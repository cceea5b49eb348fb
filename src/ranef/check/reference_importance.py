"""Computes a reference posterior for small models of any family by importance sampling.

Let b be the group effects and phi all other parameters: scales, correlations, common effects,
family parameters. Draws of phi get importance weights p(phi, y) / q(phi), with q a proposal that is
adapted to them. The group effects are integrated out at each draw of phi (``joint_density``).
This estimate of p(phi, y) is unbiased, so that the importance weights of phi target the posterior
itself and not its Laplace approximation (importance sampling squared: Tran et al., 2013).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import COMPILING, Deadline
from ranef.check.joint_density import JointDensity, grouped_blocks
from ranef.check.reference import (
    Draws,
    NoReference,
    Reference,
    kurtosis_of,
    normal_k_hat,
)
from ranef.check.reference_coordinates import coordinates
from ranef.errors import RanefError
from ranef.inference.hyperparameters.importance import ProposalMixture, adapted
from ranef.lazy import jax
from ranef.numerics.psis import smoothed
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock

# Largest dimension of phi.
_PARAMETERS = 20
# Largest cost of one evaluation, as the count of numbers in `_is_small`.
_COST = 100_000
# The same with crossed groupings. There every Newton step needs a dense Hessian of all levels, so
# that short chains are faster beyond this cost.
_COST_CROSSED = 10_000
# Draws of phi in each round.
_SIZE = 1_000
# Rounds of adaptation of the proposal, at most.
_ROUNDS = 4
# Rounds of draws from the last proposal that make up the reference, at most.
_PARTS = 4
# Log importance ratio of a draw at which the posterior density is zero: its weight is zero.
_IMPOSSIBLE = -1e300
# Effective share 1 / (S sum w^2) of S weighted draws above which the proposal stops adapting.
_EFFECTIVE = 0.4
# Largest k-hat of the weights with which the reference is used.
_GOOD = 0.5


def sampled(posterior: Posterior, problem: Problem, deadline: Deadline) -> Reference | NoReference:
    """Compute the reference by importance sampling of phi, group effects integrated out.

    Args:
        posterior: the fit that is checked.
        problem: its model and rows.
        deadline: when to stop.

    Returns:
        The reference, or the reason why there is none: rows that are read in batches, a model
        that is too large, or importance weights that are not reliable.

    Raises:
        OutOfTimeError: if the deadline passes.
    """
    if problem.windows:
        return NoReference("rows are read in batches")
    blocks = grouped_blocks(problem)
    if not _is_small(blocks, problem.n):
        return NoReference("the model is too large for importance sampling")
    deadline.tick(COMPILING)
    try:
        with jax.enable_x64(True):
            joint = JointDensity.of(posterior, problem)
            if not 0 < joint.parameters <= _PARAMETERS:
                return NoReference("the model has too many parameters for importance sampling")
            return _compared(posterior, joint, deadline)
    except (RanefError, FloatingPointError, np.linalg.LinAlgError) as error:
        return NoReference(str(error))


def _is_small(blocks: Sequence[LinearBlock], n: int) -> bool:
    """Whether the model is small enough for thousands of integrals over the group effects."""
    sizes = [block.levels * np.shape(block.columns)[1] for block in blocks]
    crossed = len({block.grouping for block in blocks}) > 1
    m, k = sum(sizes), sum(np.shape(block.columns)[1] for block in blocks)
    width = max(m if crossed else k, 1)
    # Numbers in one evaluation: Hessian products with all rows and effects, one for each of the
    # `width` columns, and the Cholesky factors of the Hessian's blocks.
    return width * (n + m) + m * width**2 <= (_COST_CROSSED if crossed else _COST)


def _compared(
    posterior: Posterior, joint: JointDensity, deadline: Deadline
) -> Reference | NoReference:
    sites = {name: np.asarray(posterior.draws.sites[name], np.float64) for name in joint.latents}
    sites = {name: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]) for name, v in sites.items()}
    q, effects = joint.flat(joint.outer, sites), joint.flat(joint.inner, sites)
    if not np.isfinite(q).all():
        return NoReference("draws of the fit lie on the edge of what parameters may be")
    rng = np.random.default_rng(0)
    start = effects.mean(axis=0)
    k_hat = None
    if posterior.draws.is_gaussian_guide:
        at = np.unique(np.linspace(0, len(q) - 1, _SIZE).astype(int))
        k_hat = normal_k_hat(q[at], joint.marginals(q[at], start, rng, deadline)[0])
    found = _weighted(joint, q, start, rng, deadline)
    if found is None:
        return NoReference("importance weights through the program were not reliable")
    phi, weights, mean, square = found
    labels, columns, inside, scales = coordinates(
        posterior, joint, {name: sites[name] for name in joint.outer}, phi, weights
    )
    middle = weights @ inside
    away = inside - middle
    right = weights @ mean
    sd = np.sqrt(np.maximum(weights @ square - right**2, 0.0))
    levels, kurtosis, places = {}, {}, 0
    for name in joint.inner:
        own = slice(places, places + np.size(joint.latents[name].start))
        places = own.stop
        part = effects[:, own]
        levels[name] = (part.mean(axis=0), part.std(axis=0, ddof=1), right[own], sd[own])
        kurtosis[name] = kurtosis_of(part)
    covariance = (weights[:, None] * away).T @ away
    effective = 1 / float((weights**2).sum())
    source = f"{len(phi):,} importance draws through the program, group effects integrated out"
    return Reference(
        labels,
        columns,
        middle,
        covariance,
        effective,
        k_hat,
        scales,
        levels,
        kurtosis=kurtosis,
        source=source,
    )


def _weighted(
    joint: JointDensity,
    q: Draws,
    start: Float[NDArray, "m"],
    rng: np.random.Generator,
    deadline: Deadline,
) -> (
    tuple[
        Float[NDArray, "weighted d"],
        Float[NDArray, "weighted"],
        Float[NDArray, "weighted effects"],
        Float[NDArray, "weighted effects"],
    ]
    | None
):
    """Weighted draws of phi from an adapted proposal.

    Args:
        joint: the density.
        q: draws of the fit, to which the first proposal is matched.
        start: where searches for the mode in b start.
        rng: random numbers of the draws.
        deadline: when to stop.

    Returns:
        Draws of phi, weights, conditional means and second moments of b; None if k-hat stays above
        the limit.
    """
    d = q.shape[1]
    covariance = np.cov(q.T).reshape(d, d)
    small = 1e-10 * np.diag(np.diagonal(covariance) + 1e-12)
    root = np.asarray(np.linalg.cholesky(covariance + small), np.float64)
    # The proposal has 1.5 times the sds of q. A guide's sds tend to be too small, and weights can
    # correct a proposal that is too wide but not one that is too narrow.
    proposal = ProposalMixture(
        q.mean(axis=0)[None], np.asarray(1.5 * root, np.float64), 5.0, np.ones((1, d))
    )
    trial = 0
    while True:
        trial += 1
        began, used = deadline.left, proposal
        found = _round(joint, used, start, rng, deadline)
        if not (found[-1] > _IMPOSSIBLE).any():
            return None
        weights, k = smoothed(found[-1])
        effective = 1 / float((weights**2).sum())
        if (k < _GOOD and effective > _EFFECTIVE * _SIZE) or trial == _ROUNDS:
            break
        proposal = adapted(rng, found[0], weights, np.ones((1, d)))
    if k >= _GOOD:
        return None
    # More draws from the same proposal, while there is time: sds of heavy-tailed parameters need
    # more draws than means do.
    parts, seconds = [found], began - deadline.left
    while len(parts) < _PARTS and deadline.left > 2 * seconds:
        parts.append(_round(joint, used, start, rng, deadline))
    phi, mean, square, ratios = (np.concatenate(each) for each in zip(*parts, strict=True))
    weights, k = smoothed(ratios)
    return (phi, weights, mean, square) if k < _GOOD else None


def _round(
    joint: JointDensity,
    proposal: ProposalMixture,
    start: Float[NDArray, "m"],
    rng: np.random.Generator,
    deadline: Deadline,
) -> tuple[
    Draws,
    Float[NDArray, "draws effects"],
    Float[NDArray, "draws effects"],
    Float[NDArray, "draws"],
]:
    """Draws of phi, mean and second moment of b at each, and log importance ratios."""
    phi = proposal.sample(rng, _SIZE)
    value, mean, square = joint.marginals(phi, start, rng, deadline)
    ratios = value - proposal.log_density(phi)
    return phi, mean, square, np.where(np.isfinite(ratios), ratios, _IMPOSSIBLE)
