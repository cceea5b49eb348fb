"""The posterior of a few hyperparameters, whose density can be evaluated at a point.

First the mode. Then, where an evaluation is cheap, importance-weighted draws from t
distributions that adapt to the target. Where it is dear, draws from a surrogate of the log
density that is checked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.design import designed
from ranef.inference.importance import importance
from ranef.inference.pareto import threshold
from ranef.inference.peak import Peak, Target, peak
from ranef.inference.proposal import resampled

Array = NDArray[np.float64]

# Weighted draws for each that is wanted, and how many there are at least.
_POOL, _LEAST, _LEAST_OF_SURROGATE = 4, 1_000, 4_000


@dataclass(frozen=True)
class Explored:
    """What was found.

    Attributes:
        x: (draws, d), equally weighted.
        mode: (d,).
        k_hat: of the importance weights; None for a surrogate's own draws.
        error: of the surrogate, root mean square in nats; None without one.
        evaluations: of the density.
        reliable: whether k-hat, or the error, is below its threshold.
        found: whether the search for the mode ended at one.
        evidence: log of the integral of the density, by Laplace's approximation.
    """

    x: Array
    mode: Array
    k_hat: float | None
    error: float | None
    evaluations: int
    reliable: bool
    found: bool
    evidence: float


def explore(
    target: Target,
    start: Array,
    width: Array,
    rng: np.random.Generator,
    draws: int,
    *,
    cheap: bool,
    patient: bool = False,
    spare: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Explored:
    """Draws of x from its posterior.

    Args:
        target: the log density.
        start: (d,) where the search for the mode begins.
        width: (d,) about one posterior sd of each coordinate.
        rng: of all that is drawn.
        draws: how many.
        cheap: whether thousands of evaluations can be afforded.
        patient: whether they can where nothing less serves.
        spare: evaluations that can be where a surrogate does not serve.
        tick: called at each evaluation.
    """
    if len(start) == 0:
        only = float(target.log_density(start[None])[0])
        return Explored(np.zeros((draws, 0)), start, None, None, 1, True, True, only)
    top = peak(target, start, width, tick)
    if cheap:
        return _weighted(target, top, rng, draws)
    size = max(_POOL * draws, _LEAST_OF_SURROGATE)
    found = designed(target, top, rng, draws, size, tick, spare)
    if patient and not found.reliable:
        return _weighted(target, top, rng, draws)
    evaluations = top.evaluations + found.evaluations
    how = found.k_hat, found.error, evaluations, found.reliable, top.found
    return Explored(found.x, top.x, *how, _evidence(top))


def _evidence(top: Peak) -> float:
    """Log p + d / 2 log(2 pi) + log |root| at the mode."""
    log_det = np.log(np.diagonal(top.root)).sum()
    return top.value + 0.5 * len(top.x) * math.log(2 * math.pi) + float(log_det)


def _weighted(target: Target, top: Peak, rng: np.random.Generator, draws: int) -> Explored:
    size = max(_POOL * draws, _LEAST)
    x, weights, k, _, evaluations = importance(target.log_density, target, top, rng, size)
    chosen = x[resampled(rng, weights, draws)]
    reliable = bool(k < threshold(size))
    evaluations += top.evaluations
    return Explored(chosen, top.x, k, None, evaluations, reliable, top.found, _evidence(top))


def message(found: Explored, draws: int) -> str:
    """How it ended, in a sentence."""
    text = f"{draws:,} draws from {found.evaluations:,} evaluations"
    if found.k_hat is not None and math.isfinite(found.k_hat):
        text += f", k-hat {found.k_hat:.2f}"
    if found.error is not None:
        text += f", within {found.error:.2f} nats of the density where it was checked"
    if not found.found:
        return f"not converged: the search for the mode of the scales ended early; {text}"
    if not found.reliable:
        return (
            f"not reliable: {text}, because the posterior of the scales is not of a form that the "
            "proposal can follow; compare with method='nuts'"
        )
    return text
