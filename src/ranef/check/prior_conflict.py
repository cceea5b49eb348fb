"""Finds priors that contradict the data, and default priors that move posterior means.

Conflict is a posterior mean in the far tail of its prior: the tail beyond it has a probability of
less than .13%, that of a normal distribution beyond three sds. A prior on x > 0 whose density is
highest at zero has one tail, other priors have two. Evans and Moshonov (2006) give the theory of
such checks. Kallioinen, Paananen, Buerkner and Vehtari (2024) have a finer one, which scales the
power of the prior.

Pull is the distance of a coefficient's posterior mean from the mean of the normalised likelihood.
If prior N(m0, V0) and posterior N(m, V) are normal, the likelihood has precision V^-1 - V0^-1 and
mean (V^-1 - V0^-1)^-1 (V^-1 m - V0^-1 m0). A default prior should move the mean by little.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ranef import priors
from ranef.check.symptom import Symptom
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.terms.base import CENTRED
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]
# Probability of a tail, for each element of a vector or for all of them.
Tail = Float[Array, "m"] | float

# Prior probability of the tail beyond a posterior mean below which prior and data conflict.
_TAIL = float(special.ndtr(-3.0))
# Shift of a posterior mean by a default prior, in posterior sds, from which it is reported.
_MOVED = 0.5
# Ratio of posterior to prior variance in a direction above which the data have next to no
# information about it. The mean of the likelihood is then too uncertain to measure a pull. The same
# limit applies to the ratio of a coefficient's sds, above which the coefficient is reported.
_UNSAID = 0.8
# Draws needed for each coefficient to estimate their covariance matrix.
_DRAWS_EACH = 5


def conflict(posterior: Posterior) -> Iterator[Symptom]:
    """Report priors, given or default, in whose far tail the posterior mean lies."""
    state, given = posterior.training.state, posterior.program.user_priors
    for name, prior in state.priors.items():
        variable = posterior.variables.get(name)
        weight = variable is not None and variable.role == "weight"
        if weight or name not in posterior.draws.sites or _tails(prior, 1.0) is None:
            continue
        draws = np.asarray(posterior.draws.sites[name], np.float64)
        means = np.ravel(draws.mean(axis=(0, 1)))
        for label, place in _labels(posterior, name, len(means)):
            tail = _tail(prior, float(means[place]), place)
            if tail is not None and tail < _TAIL:
                own = name in given
                yield Symptom(
                    f"the posterior mean of {label}, {means[place]:.3g}, is in the far tail of its "
                    f"{'' if own else 'default '}prior {prior} ({max(tail, 1e-9):.1g} of it lies "
                    "beyond)",
                    "prior and data contradict each other",
                    "look at the prior, and at the scale of the column, again"
                    if own
                    else "look at the column, or give a wider prior",
                    "caution",
                )
    yield from pull(posterior)


def _labels(posterior: Posterior, name: str, size: int) -> list[tuple[str, int]]:
    """Labels of the elements of a site and their indices; none for internal coordinates."""
    if name in posterior.variables:
        return posterior.variables[name].elements(name)[:size]
    if name.endswith(CENTRED):
        return [(f"{name.removesuffix(CENTRED)} at the means of the other columns", 0)]
    return []


def pull(posterior: Posterior) -> Iterator[Symptom]:
    """Report common effects whose posterior mean the default prior has moved.

    Effects whose posterior is nearly as wide as their prior are reported too.
    """
    for block in posterior.problem.unit_blocks().values():
        if block is None or block.carry is None or block.codes is not None:
            continue
        found = moved(block, posterior)
        if found is None:
            continue
        z, share = found
        labels = [
            label
            for name, count, _ in block.carried
            for label, _ in posterior.variables[name].elements(name)[:count]
        ]
        order = [i for i in np.argsort(-z) if z[i] > _MOVED]
        if order:
            named = ", ".join(f"{labels[i]} by {z[i]:.1f}" for i in order[:3])
            more = f" and {len(order) - 3} more" if len(order) > 3 else ""
            yield Symptom(
                f"the default prior moves posterior means, in their sds: {named}{more}",
                "the data say little of these effects, and the prior is part of the answer",
                "give priors of your own, or read their signs and not their sizes",
                "caution",
            )
        unknown = [labels[i] for i in np.flatnonzero(share > _UNSAID)]
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            yield Symptom(
                f"the posterior of {', '.join(unknown[:3])}{more} is nearly as wide as its prior",
                "the data say next to nothing of these effects",
                "leave them out, or read what they add up to",
                "trust",
            )


def moved(
    block: LinearBlock, posterior: Posterior
) -> tuple[Float[Array, "m"], Float[Array, "m"]] | None:
    """The influence of the prior on each coefficient of the block, on the formula's scale.

    Args:
        block: of common effects, with a matrix `carry` from its own coefficients to those of the
            formula's columns.
        posterior: the fit.

    Returns:
        By how many posterior sds the prior has moved each mean, and the ratio of posterior to
        prior sd, 0 under a flat prior. None if the prior is not normal, or if there are
        too few draws to estimate the covariance matrix.
    """
    sites = posterior.draws.sites
    if not block.gaussian or any(name not in sites for name, _ in block.sites):
        return None
    parts = [np.asarray(sites[name], np.float64) for name, _ in block.sites]
    chains, draws = parts[0].shape[:2]
    b = np.concatenate([part.reshape(chains * draws, -1) for part in parts], axis=1)
    scale = np.asarray(block.factor, np.float64)
    normal = np.isfinite(scale) & (scale > 0)
    if not normal.any() or len(b) < _DRAWS_EACH * int(normal.sum()):
        return None
    # In units of the prior sds, the prior covariance is the identity and c are the eigenvalues of
    # the posterior covariance, c < 1. Along an eigenvector with posterior mean u the likelihood has
    # the mean u / (1 - c), so that the prior has moved the mean by u c / (1 - c).
    away = (b[:, normal] - np.asarray(block.mean)[normal]) / scale[normal]
    mean = away.mean(axis=0)
    c, directions = np.linalg.eigh(np.atleast_2d(np.cov(away, rowvar=False)))
    informed = c < _UNSAID
    kept = np.where(informed, 1 - c, 1.0)
    along = np.where(informed, (mean @ directions) * c / kept, 0.0)
    shift = np.zeros(b.shape[1])
    shift[normal] = scale[normal] * (directions @ along)
    carry = np.asarray(block.carry)
    sd = (b @ carry.T).std(axis=0)
    before = np.sqrt(carry**2 @ scale**2) if np.isfinite(scale).all() else np.full(len(sd), np.inf)
    return np.abs(carry @ shift) / np.where(sd > 0, sd, 1.0), sd / np.where(before > 0, before, 1.0)


def _tail(prior: priors.Prior, value: float, place: int) -> float | None:
    """Prior probability of the smaller tail beyond a value, for element `place` of a vector.

    Only the upper tail counts where the density falls from zero on. None for priors that are not
    checked: Uniform and Beta priors have no tails; Flat, Fixed, LKJ and point estimates cannot
    conflict with the data.
    """
    found = _tails(prior, value)
    if found is None:
        return None
    below, above = (np.ravel(part) for part in found)
    i = place if len(above) > 1 else 0
    return float(above[i] if _falls_from_zero(prior) else min(below[i], above[i]))


def _tails(prior: priors.Prior, value: float) -> tuple[Tail, Tail] | None:
    """Probabilities of lying below and above a value."""
    match prior:
        case priors.Normal():
            z = (value - np.asarray(prior.mu)) / np.asarray(prior.sigma)
            return special.ndtr(z), special.ndtr(-z)
        case priors.StudentT():
            z = (value - np.asarray(prior.mu)) / np.asarray(prior.sigma)
            return special.stdtr(prior.nu, z), special.stdtr(prior.nu, -z)
        case priors.Cauchy():
            z = (value - np.asarray(prior.mu)) / np.asarray(prior.sigma)
            return np.arctan2(1.0, -z) / np.pi, np.arctan2(1.0, z) / np.pi
        case priors.HalfNormal():
            above = 2 * special.ndtr(-value / prior.sigma)
        case priors.HalfCauchy():
            above = 2 * np.arctan2(prior.sigma, value) / np.pi
        case priors.HalfStudentT():
            above = 2 * special.stdtr(prior.nu, -value / prior.sigma)
        case priors.Exponential():
            above = np.exp(-prior.rate * value)
        case priors.Gamma():
            return special.gammainc(prior.alpha, prior.beta * value), special.gammaincc(
                prior.alpha, prior.beta * value
            )
        case priors.InverseGamma():
            return special.gammaincc(prior.alpha, prior.beta / value), special.gammainc(
                prior.alpha, prior.beta / value
            )
        case priors.LogNormal():
            z = (np.log(value) - prior.mu) / prior.sigma
            return special.ndtr(z), special.ndtr(-z)
        case priors.LogOdds():
            a, b = prior.prior.alpha, prior.prior.beta
            share, rest = special.expit(value), special.expit(-value)
            return special.betainc(a, b, share), special.betainc(b, a, rest)
        case priors.PowerPrior():
            inner = _tails(prior.prior, value**prior.power)
            if inner is None or prior.power > 0:
                return inner
            below, above = inner
            return above, below
        case _:
            return None
    return 1 - above, above


def _falls_from_zero(prior: priors.Prior) -> bool:
    """Whether the density has no lower tail: a positive parameter may be as small as it likes."""
    match prior:
        case priors.Gamma():
            return bool(prior.alpha <= 1)
        case priors.PowerPrior():
            # With a negative power small values of the inner variable are large values of x, so
            # that a mode of the inner prior at zero is none of x.
            return _falls_from_zero(prior.prior) and prior.power > 0
        case (
            priors.HalfNormal() | priors.HalfCauchy() | priors.HalfStudentT() | priors.Exponential()
        ):
            return True
    return False
