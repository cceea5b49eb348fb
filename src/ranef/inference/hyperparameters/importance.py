"""Importance-weighted draws from a mixture of t distributions that adapts to its target."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.mode import Peak, Target, signs
from ranef.inference.hyperparameters.proposal import Mixture, adapted
from ranef.numerics.psis import smoothed

Array = NDArray[np.float64]

# How often the proposal may adapt, and what it does not adapt any further for.
_ROUNDS, _K_HAT, _EFFECTIVE = 6, 0.5, 0.3


def importance(
    log_density: Callable[[Array], Array],
    target: Target,
    top: Peak,
    rng: np.random.Generator,
    size: int,
) -> tuple[Array, Array, float, float, int]:
    """Weighted draws: x (size, d), smoothed weights, k-hat, effective share, evaluations.

    Args:
        log_density: what is drawn from, (B,) at x (B, d).
        target: whose symmetries it has.
        top: of it.
        rng: of the draws.
        size: how many, each time the proposal has adapted.
    """
    proposal = Mixture(top.x[None], 1.1 * top.root, 6.0, signs(target, top))
    best: tuple[Array, Array, float, float] | None = None
    evaluations = 0
    for _ in range(_ROUNDS):
        x = target.canonical(proposal.sample(rng, size))
        log_ratios = log_density(x) - proposal.log_density(x)
        evaluations += size
        if not np.isfinite(log_ratios).any():
            break
        weights, k = smoothed(np.where(np.isfinite(log_ratios), log_ratios, -1e300))
        effective = 1 / float((weights**2).sum()) / size
        if best is None or effective > best[3]:
            best = (x, weights, k, effective)
        if k < _K_HAT and effective > _EFFECTIVE:
            break
        proposal = adapted(rng, best[0], best[1], proposal.signs)
    if best is None:
        raise FloatingPointError("the density is zero everywhere around its mode")
    return *best, evaluations
