"""Draws from the posterior of the hyperparameters, whose density can be evaluated at any point.

The mode is found first. The method of drawing then depends on the number of dimensions and the cost
of an evaluation:

    few, cheap        importance sampling from t distributions that adapt to the target
    few, expensive    a surrogate of the log density, checked against it
    many              importance sampling from one t distribution at the mode, if a pilot says
                      that its weights suffice; else Hamiltonian Monte Carlo

If one of the first two fails and thousands of evaluations can be afforded, Hamiltonian Monte Carlo
takes over.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.hmc import CHAINS, hmc
from ranef.inference.hyperparameters.importance import ProposalMixture, importance, resampled
from ranef.inference.hyperparameters.mode import Mode, Target, find_mode, signs
from ranef.inference.hyperparameters.surrogate_sampler import sample_surrogate
from ranef.numerics.psis import smoothed, threshold
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Weighted draws per draw that is asked for.
_POOL = 4
# Smallest number of weighted draws.
_LEAST = 1_000
# Largest number of dimensions of a surrogate, whose matrix has (points x (1 + dimensions))^2
# elements.
FEW = 10
# Evaluations of the pilot, which estimates how many weighted draws are needed.
_PILOT = 300
# The same where thousands of evaluations cannot be afforded.
_PILOT_OF_DEAR = 100
# Effective number of draws that the weighted ones must be worth.
_EFFECTIVE = 400.0
# Largest number of evaluations for weighted draws, if evaluations are cheap.
_MOST_BATCHED = 10_000
# The same if they are made one by one.
_MOST_SINGLE = 5_000
# The same if thousands of evaluations cannot be afforded.
_MOST_DEAR = 300
# Degrees of freedom of the t proposal in many dimensions: with fewer, most of the proposal's mass
# would lie in its tails.
_DEGREES = 30.0
# Scale of this proposal relative to the curvature at the mode.
_WIDER = 1.1


@dataclass(frozen=True)
class HyperDraws:
    """Draws of the hyperparameters, and how they were found.

    Attributes:
        x: the draws, equally weighted.
        mode: its place.
        k_hat: of the importance weights; None for a surrogate's own draws and for chains without
            weights.
        error: of the surrogate, root mean square in nats; None without one.
        evaluations: of the density.
        reliable: whether k-hat or the error is below its threshold, or the chains converged.
        found: whether the search for the mode converged, or chains did.
        evidence: log of the integral of the density, by Laplace's approximation.
        r_hat: the largest of all coordinates; None without chains.
        ess: the smallest effective sample size of all coordinates; None without chains.
    """

    x: Float[Array, "draws d"]
    mode: Float[Array, "d"]
    k_hat: float | None
    error: float | None
    evaluations: int
    reliable: bool
    found: bool
    evidence: float
    r_hat: float | None = None
    ess: float | None = None


def sample(
    target: Target,
    start: Float[Array, "d"],
    width: Float[Array, "d"],
    rng: np.random.Generator,
    draws: int,
    *,
    cheap: bool,
    patient: bool = False,
    spare: int = 0,
    chains: bool = False,
    bound: Target | None = None,
    near: Mode | None = None,
    tick: Callable[[], object] = lambda: None,
) -> HyperDraws:
    """Draws of x from the posterior with a known log density.

    Args:
        target: the log density.
        start: where the search for the mode begins.
        width: about one posterior sd of each coordinate.
        rng: of all that is drawn.
        draws: number of draws.
        cheap: whether thousands of evaluations take a second at most.
        patient: whether thousands of evaluations can be afforded if all else fails.
        spare: number of evaluations that can be afforded if a surrogate fails.
        chains: whether thousands of evaluations of the gradient can be afforded if all else fails.
        bound: a density near the target whose gradient is much cheaper. Chains move on it, and
            their draws are weighted by the target.
        near: the mode, if it is known. In many dimensions it is the mode of the bound if there is
            one, and otherwise of the target.
        tick: called at each evaluation.
    """
    if len(start) == 0:
        only = float(target.log_density(start[None])[0])
        return HyperDraws(np.zeros((draws, 0)), start, None, None, 1, True, True, only)
    if len(start) > FEW:
        moved = bound or target
        top = near or find_mode(moved, start, width, tick)
        batched = cheap or patient
        found = _at_mode(target, top, rng, draws, batched, chains, tick)
        if found is not None:
            return found
        return _by_chains(target, moved, top, rng, draws, tick)
    top = near or find_mode(target, start, width, tick)
    if cheap:
        found = _weighted(target, top, rng, draws)
    else:
        drawn = sample_surrogate(target, top, rng, draws, tick, spare)
        evaluations = top.evaluations + drawn.evaluations
        how = drawn.k_hat, drawn.error, evaluations, drawn.reliable, top.found
        found = HyperDraws(drawn.x, top.x, *how, top.evidence)
        if patient and not found.reliable:
            found = _weighted(target, top, rng, draws)
    if chains and not (found.reliable and found.found):
        return _by_chains(target, bound or target, top, rng, draws, tick)
    return found


def _at_mode(
    target: Target,
    top: Mode,
    rng: np.random.Generator,
    draws: int,
    batched: bool,
    chains: bool,
    tick: Callable[[], object],
) -> HyperDraws | None:
    """Weighted draws from one t distribution at the mode.

    Returns None if the pilot or the weights call for chains, and chains can be afforded.
    """
    proposal = ProposalMixture(top.x[None], _WIDER * top.root, _DEGREES, signs(target, top))

    def drawn(size: int) -> tuple[Float[Array, "{size} d"], Float[Array, "{size}"]]:
        x = target.canonical(proposal.sample(rng, size))
        log_ratios = target.log_density(x) - proposal.log_density(x)
        for _ in range(size):
            tick()
        return x, np.where(np.isfinite(log_ratios), log_ratios, -1e300)

    most = _MOST_BATCHED if batched else _MOST_SINGLE if chains else _MOST_DEAR
    x, log_ratios = drawn(_PILOT if batched or chains else _PILOT_OF_DEAR)
    # A larger sample has a lower effective share, because a pilot lacks some of its large weights.
    needed = 1.5 * _EFFECTIVE / _share(smoothed(log_ratios)[0])
    if chains and needed > most:
        return None
    # Where evaluations are cheap, take at least as many points as draws are asked for.
    more, more_ratios = drawn(int(min(max(needed, draws if batched else 0.0), most)))
    x, log_ratios = np.concatenate([x, more]), np.concatenate([log_ratios, more_ratios])
    weights, k = smoothed(log_ratios)
    enough = len(x) * _share(weights) > 0.5 * _EFFECTIVE
    reliable = bool(k < threshold(len(x))) and enough
    if chains and not reliable:
        return None
    chosen = x[resampled(rng, weights, draws)]
    evaluations = top.evaluations + len(x)
    return HyperDraws(chosen, top.x, k, None, evaluations, reliable, top.found, top.evidence)


def at_mode_alone(target: Target, top: Mode, rng: np.random.Generator, draws: int) -> HyperDraws:
    """Draws from the normal at the mode, for a density whose values cannot be relied on."""
    z = rng.standard_normal((draws, len(top.x)))
    x = target.canonical(top.x + z @ top.root.T)
    return HyperDraws(x, top.x, None, None, top.evaluations, False, False, top.evidence)


def _share(weights: Float[Array, "points"]) -> float:
    """Effective sample size per weighted draw."""
    return 1 / float((weights**2).sum()) / len(weights)


def _by_chains(
    target: Target,
    moved: Target,
    top: Mode,
    rng: np.random.Generator,
    draws: int,
    tick: Callable[[], object],
) -> HyperDraws:
    """Chains on the density `moved`; if that is not the target, the target weights their draws."""

    def density(x: Array) -> tuple[float, Array]:
        tick()
        return moved.value_and_gradient(x)

    found = hmc(density, target.canonical, top, rng, draws)
    x, values = found.x.reshape(-1, len(top.x)), found.values.ravel()
    # As many draws as are asked for; if there are fewer, each is repeated equally often.
    order = np.resize(rng.permutation(len(x)), draws)
    evaluations, k, reliable = top.evaluations + found.evaluations, None, found.converged
    if moved is not target:
        x, values = x[order[: len(x)]], values[order[: len(x)]]
        evaluations += len(x)
        log_ratios = target.log_density(x) - values
        for _ in x:
            tick()
        weights, k = smoothed(np.where(np.isfinite(log_ratios), log_ratios, -1e300))
        reliable = reliable and bool(k < threshold(len(x)))
        chosen = x[resampled(rng, weights, draws)]
    else:
        chosen = x[order]
    return HyperDraws(
        chosen,
        top.x,
        k,
        None,
        evaluations,
        reliable,
        top.found or found.converged,
        top.evidence,
        found.r_hat,
        found.ess,
    )


def combined(found: Sequence[HyperDraws], rng: np.random.Generator) -> HyperDraws:
    """Draws from several modes, in proportion to their evidence.

    Args:
        found: draws from each mode, the one with the largest mass first.
        rng: of the choice.
    """
    first = found[0]
    if len(found) == 1:
        return first
    size = len(first.x)
    evidence = np.array([each.evidence for each in found])
    shares = np.exp(evidence - evidence.max())
    which = resampled(rng, shares / shares.sum(), size)
    x = np.stack([each.x for each in found])[which, np.arange(size)]
    return replace(
        first,
        x=x,
        evaluations=sum(each.evaluations for each in found),
        reliable=all(each.reliable for each in found),
        found=all(each.found for each in found),
        evidence=float(evidence.max() + math.log(shares.sum())),
    )


def _weighted(target: Target, top: Mode, rng: np.random.Generator, draws: int) -> HyperDraws:
    """Draws by adaptive importance sampling."""
    size = max(_POOL * draws, _LEAST)
    x, weights, k, _, evaluations = importance(target.log_density, target, top, rng, size)
    chosen = x[resampled(rng, weights, draws)]
    reliable = bool(k < threshold(size))
    evaluations += top.evaluations
    return HyperDraws(chosen, top.x, k, None, evaluations, reliable, top.found, top.evidence)


def message(found: HyperDraws, draws: int) -> str:
    """A sentence for the user about how the draws were found."""
    text = f"{draws:,} draws from {found.evaluations:,} evaluations"
    if found.r_hat is not None:
        text += f" by {CHAINS} chains, R-hat {found.r_hat:.3f}, {found.ess:,.0f} effective"
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
