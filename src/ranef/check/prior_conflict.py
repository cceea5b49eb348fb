"""Priors against the data: where a prior, given or default, moves what the data say.

Conflict: a posterior mean in a tail of its prior that holds less than a normal distribution does
beyond three sds, .13% (a prior on x > 0 whose density is highest at zero has one tail). It is the
simplest of such checks; Evans and Moshonov (2006) have the theory, and Kallioinen, Paananen,
Buerkner and Vehtari (2024) a finer one, by scaling the power of the prior.

Pull: the distance of a coefficient's posterior mean from that of the likelihood alone. Where prior
N(m0, V0) and posterior N(m, V) are normal, the likelihood's precision is V^-1 - V0^-1 and its mean
(V^-1 - V0^-1)^-1 (V^-1 m - V0^-1 m0). A default prior should not move a mean.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ranef import priors
from ranef.check.symptom import Symptom
from ranef.posterior.posterior import Posterior
from ranef.terms.base import CENTRED
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]

_TAIL = float(special.ndtr(-3.0))
# A default prior that moves a posterior mean by more of its sds is named.
_MOVED = 0.5
# The share of the prior's variance that the posterior has in a direction of which the data say
# next to nothing: where the likelihood has its mean there is not known.
_UNSAID = 0.8
# Draws for each coefficient that their covariance takes.
_DRAWS_EACH = 5


def conflict(posterior: Posterior) -> Iterator[Symptom]:
    """Priors, given or default, in whose far tail the posterior lies."""
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
    """What the elements of a site are called, with their places; none for coordinates."""
    if name in posterior.variables:
        return posterior.variables[name].elements(name)[:size]
    if name.endswith(CENTRED):
        return [(f"{name.removesuffix(CENTRED)} at the means of the other columns", 0)]
    return []


def pull(posterior: Posterior) -> Iterator[Symptom]:
    """Common effects whose posterior mean a default prior has moved."""
    program, training = posterior.program, posterior.training
    for block in program.problem(training).unit_blocks().values():
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
        untold = [labels[i] for i in np.flatnonzero(share > _UNSAID)]
        if untold:
            more = f" and {len(untold) - 3} more" if len(untold) > 3 else ""
            yield Symptom(
                f"the posterior of {', '.join(untold[:3])}{more} is nearly as wide as its prior",
                "the data say next to nothing of these effects",
                "leave them out, or read what they add up to",
                "trust",
            )


def moved(block: LinearBlock, posterior: Posterior) -> tuple[Array, Array] | None:
    """What the prior has to do with each carried coefficient.

    None where draws are too few to say, or a prior is not normal.

    Returns:
        By how many posterior sds it has moved the mean, (m,); the posterior's sd over the
        prior's, (m,), 0 under a flat prior.
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
    # Directions in units of the prior: its covariance is one, the posterior's c < 1.
    away = (b[:, normal] - np.asarray(block.mean)[normal]) / scale[normal]
    mean = away.mean(axis=0)
    c, directions = np.linalg.eigh(np.atleast_2d(np.cov(away, rowvar=False)))
    told = c < _UNSAID
    along = np.where(told, (mean @ directions) * c / np.where(told, 1 - c, 1.0), 0.0)
    shift = np.zeros(b.shape[1])
    shift[normal] = scale[normal] * (directions @ along)
    carry = np.asarray(block.carry)
    sd = (b @ carry.T).std(axis=0)
    before = np.sqrt(carry**2 @ scale**2) if np.isfinite(scale).all() else np.full(len(sd), np.inf)
    return np.abs(carry @ shift) / np.where(sd > 0, sd, 1.0), sd / np.where(before > 0, before, 1.0)


def _tail(prior: Any, value: float, place: int) -> float | None:
    """The smaller tail of the prior beyond a value, of element `place` of a vector.

    Of a prior whose density falls from zero on it is the upper one. None where a prior has no
    tails: a Uniform or a Beta; Flat, Fixed, LKJ and point estimates are not judged.
    """
    found = _tails(prior, value)
    if found is None:
        return None
    below, above = (np.ravel(part) for part in found)
    i = place if len(above) > 1 else 0
    return float(above[i] if _falls_from_zero(prior) else min(below[i], above[i]))


def _tails(prior: Any, value: float) -> tuple[Any, Any] | None:
    """Probabilities of lying below and above a value."""
    p = prior
    match prior:
        case priors.Normal():
            z = (value - np.asarray(p.mu)) / np.asarray(p.sigma)
            return special.ndtr(z), special.ndtr(-z)
        case priors.StudentT():
            z = (value - np.asarray(p.mu)) / np.asarray(p.sigma)
            return special.stdtr(p.nu, z), special.stdtr(p.nu, -z)
        case priors.Cauchy():
            z = (value - np.asarray(p.mu)) / np.asarray(p.sigma)
            return np.arctan2(1.0, -z) / np.pi, np.arctan2(1.0, z) / np.pi
        case priors.HalfNormal():
            above = 2 * special.ndtr(-value / p.sigma)
        case priors.HalfCauchy():
            above = 2 * np.arctan2(p.sigma, value) / np.pi
        case priors.HalfStudentT():
            above = 2 * special.stdtr(p.nu, -value / p.sigma)
        case priors.Exponential():
            above = np.exp(-p.rate * value)
        case priors.Gamma():
            return special.gammainc(p.alpha, p.beta * value), special.gammaincc(
                p.alpha, p.beta * value
            )
        case priors.InverseGamma():
            return special.gammaincc(p.alpha, p.beta / value), special.gammainc(
                p.alpha, p.beta / value
            )
        case priors.LogNormal():
            z = (np.log(value) - p.mu) / p.sigma
            return special.ndtr(z), special.ndtr(-z)
        case priors.LogOdds():
            a, b = p.prior.alpha, p.prior.beta
            share, rest = special.expit(value), special.expit(-value)
            return special.betainc(a, b, share), special.betainc(b, a, rest)
        case priors.PowerPrior():
            inner = _tails(p.prior, value**p.power)
            return inner if inner is None or p.power > 0 else inner[::-1]
        case _:
            return None
    return 1 - above, above


def _falls_from_zero(prior: Any) -> bool:
    """Whether the density has no lower tail: a positive parameter may be as small as it likes."""
    match prior:
        case priors.Gamma():
            return bool(prior.alpha <= 1)
        case priors.PowerPrior():
            # A prior with much mass at a small precision has little at a small sd.
            return _falls_from_zero(prior.prior) and prior.power > 0
        case (
            priors.HalfNormal() | priors.HalfCauchy() | priors.HalfStudentT() | priors.Exponential()
        ):
            return True
    return False
