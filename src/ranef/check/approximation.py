"""An approximate posterior beside a reference that integrates what it approximates.

Two numbers for every coordinate, and for every direction: how far q's mean is from the
posterior's in posterior sds, and q's sd over the posterior's. Marginal sds can be right where
directions are not: with two correlated predictors a factorised q has the right mean and half
the sd along their sum. So the smallest sd ratio is sought over all directions,

    min_a (a' C_q a / a' C a)^1/2,

the root of the smallest generalized eigenvalue of q's covariance C_q and the posterior's C.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.linalg import eigh

from ranef.check.deadline import Deadline, OutOfTimeError
from ranef.check.reference import Reference, kurtosis_of
from ranef.check.reference_chains import short_chains
from ranef.check.reference_exact import closed
from ranef.check.reference_hyperparameters import exact_scales
from ranef.check.reference_importance import sampled
from ranef.check.symptom import Symptom
from ranef.inference.base import Draws
from ranef.inference.block_ascent.networks import is_gaussian
from ranef.numerics.psis import threshold
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem

Array = NDArray[np.float64]

# A method that claims to be right has means within .1 posterior sd and sds within 10%; twice
# that, less what the noise of a thousand draws may hide, is wrong.
_MEAN, _SD = (0.1, 0.18), (0.9, 0.82)
# The chance of an accusation by the noise of the draws alone.
_CHANCE = 0.005

# What the exact method says of a model without scales to be drawn.
_NOTHING = "nothing is approximated, all parameters having a closed form"

_WRONG = "the intervals and the sds in the tables are wrong"
_WIDE = "give more steps, or use method='nuts'"
_REMEDY = "use method='nuts', or guide='structured' where it is 'meanfield'"


@dataclass(frozen=True)
class Opinion:
    """What a second opinion comes to.

    Attributes:
        symptoms: what it found.
        looked: what it was, as phrases; () where there was none.
    """

    symptoms: tuple[Symptom, ...]
    looked: tuple[str, ...]


def second_opinion(posterior: Posterior, deadline: Deadline | None) -> Opinion:
    """The first that can be had of the draws, given the networks' weights where there are some.

    Args:
        posterior: the fit.
        deadline: of all that has to be computed; None for what the method itself has looked at.
    """
    draws = posterior.draws
    if draws.statistics:
        return Opinion((), ("chains that began apart from each other",))
    problem = posterior.program.problem(posterior.training)
    if draws.points:
        problem = problem.conditioned_on(draws.points, draws.carried)
    exact = is_exact(draws, problem)
    own = _own_look(draws) if exact else ()
    if deadline is None or draws.k_hat is not None and exact or own == (_NOTHING,):
        return Opinion((), own) if own else Opinion((_not_asked(),), ())
    reasons = []
    for look in (exact_scales,) if exact else (closed, sampled, short_chains):
        try:
            found = look(posterior, problem, deadline)
        except OutOfTimeError:
            reasons.append(f"it was not complete within {deadline.seconds:.0f} seconds")
            break
        if isinstance(found, Reference):
            return Opinion(tuple(_compared(found, draws)), (found.source,))
        reasons.append(found.reason)
    return Opinion((), own) if own else Opinion((_unchecked(draws, problem, reasons[-1]),), ())


def is_exact(draws: Draws, problem: Problem) -> bool:
    """Whether the draws are those of the exact method.

    They are then of the posterior's own density, which only its scales can be far from.
    """
    # Laplace says how its integrals are taken.
    closed_form = draws.evidence is not None and "quadrature" not in draws.settings
    return closed_form and is_gaussian(problem)


def _own_look(draws: Draws) -> tuple[str, ...]:
    """What the exact method has looked at."""
    if draws.k_hat is not None:
        return (f"the draws' weights by their exact density, k-hat {draws.k_hat:.2f}",)
    if draws.steps <= 1:
        return (_NOTHING,)
    return ("the exact density of the scales, at the points where its surrogate was checked",)


def _compared(found: Reference, draws: Draws) -> Iterator[Symptom]:
    """Means, sds and directions of q, and its k-hat, beside the reference."""
    symptoms = [*_means(found), *_sds(found)]
    if not any(s.weight == "distrust" for s in symptoms):
        symptoms += _scales(found, draws.is_gaussian_guide)
    symptoms += _levels(found)
    yield from symptoms
    yield from _weights(found, any(s.weight != "trust" for s in symptoms))


def _not_asked() -> Symptom:
    return Symptom(
        "the sds were not checked",
        "the method has approximated, and nothing has looked at how well",
        "fit.check() takes a second opinion",
        "unchecked",
    )


def _unchecked(draws: Draws, problem: Problem, reason: str) -> Symptom:
    """Without a reference a structured guide is not judged, a factorised one is.

    Effects of groups and the effects they vary about are never independent.
    """
    if draws.settings.get("guide") != "meanfield":
        return Symptom(
            "the sds were not checked",
            f"no second opinion could be had, because {reason}",
            "compare with method='nuts' on some of the rows",
            "unchecked",
        )
    blocks = problem.unit_blocks().values()
    grouped = any(block is not None and block.codes is not None for block in blocks)
    return Symptom(
        "the sds were not checked, and guide='meanfield' takes parameters for independent",
        "sds are too small wherever they are not"
        + (", as group effects and Intercept are not" if grouped else ""),
        "use guide='structured', or method='nuts'",
        "distrust" if grouped else "caution",
    )


def _weight(value: float, limits: tuple[float, float], noise: float) -> str:
    """Of a deviation that grows: caution once it is over the first limit beyond the noise."""
    if value - noise <= limits[0]:
        return "trust"
    return "distrust" if value > limits[1] else "caution"


def _means(found: Reference) -> Iterator[Symptom]:
    sd = np.sqrt(np.diagonal(found.covariance))
    away = np.abs(found.q.mean(axis=0) - found.mean) / sd
    if not len(away):
        return
    i = int(np.argmax(away))
    weight = _weight(float(away[i]), _MEAN, _noise(len(away)) * _error(found))
    if weight != "trust":
        yield Symptom(
            f"the mean of {found.labels[i]} is {away[i]:.2f} sds from where it should be",
            "the tables are off",
            _WIDE,
            weight,
        )


def _sds(found: Reference) -> Iterator[Symptom]:
    d, size = len(found.labels), len(found.q)
    if not d or size < 10 * d:
        return
    covariance = np.cov(found.q.T).reshape(d, d)
    ratio = np.sqrt(np.diagonal(covariance) / np.diagonal(found.covariance))
    off = np.where(ratio < 1, 1 - ratio, 1 - 1 / ratio)
    noise = _noise(d) * _sd_error(kurtosis_of(found.q), found)
    i = int(np.argmax(off - noise))
    weight = _off(float(off[i]), float(noise[i]))
    if weight != "trust":
        yield Symptom(
            f"the sd of {found.labels[i]} is {ratio[i]:.2f} of what it should be",
            _WRONG,
            _REMEDY if ratio[i] < 1 else _WIDE,
            weight,
        )
        if weight == "distrust":
            return
    narrow = _narrowest(covariance, found.covariance)
    # Of d directions the draws' own noise makes one look too narrow by about (d / S)^1/2.
    along = _off(1 - narrow.ratio, (math.sqrt(d) + 1) * _error(found))
    if along != "trust" and (along != weight or narrow.several):
        yield Symptom(
            f"the sd along {narrow.said(found.labels)} is {narrow.ratio:.2f} of what it should be",
            "sums and differences of these parameters, and predictions, are surer than they can be",
            _REMEDY,
            along,
        )


def _scales(found: Reference, normal: bool) -> Iterator[Symptom]:
    """Scales as they are reported, whose tails are heavy: where phi is right they may not be.

    Where q is `normal` in the logarithm its sd is known better than its draws say it.
    """
    for label, (q, right, weights) in found.scales.items():
        mean = float(weights @ right)
        sd = math.sqrt(float(weights @ (right - mean) ** 2))
        heavy = float(weights @ ((right - mean) / sd) ** 4)
        # The error of an sd grows with the tails: (kurtosis - 1) / 4n is its squared one.
        own, error = _log_normal_sd(q) if normal else _sd(q)
        noise = _noise(len(found.scales)) * math.sqrt(error**2 + max(heavy - 1, 0) / 4 / found.size)
        ratio = own / sd
        weight = _off(1 - ratio if ratio < 1 else 1 - 1 / ratio, noise)
        if weight != "trust":
            yield Symptom(
                f"the sd of {label} is {ratio:.2f} of what it should be",
                _WRONG,
                _REMEDY if ratio < 1 else _WIDE,
                weight,
            )


def _sd(values: Array) -> tuple[float, float]:
    """The sd of draws and its relative error."""
    away = values - values.mean()
    square = max(float((away**2).mean()), np.finfo(np.float64).tiny)
    heavy = float((away**4).mean()) / square**2
    return math.sqrt(square), math.sqrt(max(heavy - 1, 0.0) / 4 / len(values))


def _log_normal_sd(values: Array) -> tuple[float, float]:
    """The same of a log-normal distribution, from its draws' logarithms: exp(m) v (v^2 - 1)^1/2
    with v^2 = exp(s^2)."""
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    square = min(float(logs.var(ddof=1)), 50.0)
    sd = math.exp(float(logs.mean()) + square / 2) * math.sqrt(math.expm1(square))
    slope = 0.5 + 0.5 / -math.expm1(-square) if square > 0 else 1.0
    return sd, square * slope * math.sqrt(2 / len(values))


def _off(value: float, noise: float) -> str:
    return _weight(value, (1 - _SD[0], 1 - _SD[1]), noise)


@dataclass(frozen=True)
class _Direction:
    """The direction a, in posterior sds of each coordinate, and the sd ratio along it."""

    ratio: float
    a: Array

    @property
    def several(self) -> bool:
        return bool((np.abs(self.a) > 0.3 * np.abs(self.a).max()).sum() > 1)

    def said(self, labels: tuple[str, ...]) -> str:
        order = np.argsort(-np.abs(self.a))[:2]
        if not self.several:
            return labels[order[0]]
        sign = "+" if self.a[order[0]] * self.a[order[1]] > 0 else "-"
        return f"{labels[order[0]]} {sign} {labels[order[1]]} (each in its sd)"


def _narrowest(q: Array, reference: Array) -> _Direction:
    sd = np.sqrt(np.diagonal(reference))
    correlation = reference / sd / sd[:, None]
    # To the last digit the reference's own correlations are not known either.
    values, vectors = eigh(q / sd / sd[:, None], correlation + 1e-9 * np.eye(len(sd)))
    return _Direction(float(np.sqrt(max(values[0], 0.0))), vectors[:, 0])


def _levels(found: Reference) -> Iterator[Symptom]:
    """The worst of all levels' means and sds."""
    error = _error(found)
    for name, (mean, sd, right_mean, right_sd) in found.levels.items():
        noise = _noise(len(mean))
        away = np.abs(mean - right_mean) / right_sd
        ratio = sd / right_sd
        off = np.where(ratio < 1, 1 - ratio, 1 - 1 / np.maximum(ratio, 1e-300))
        beyond = noise * _sd_error(found.kurtosis.get(name, np.full(len(mean), 3.0)), found)
        i, j = int(np.argmax(away)), int(np.argmax(off - beyond))
        by_mean = _weight(float(away[i]), _MEAN, noise * error)
        by_sd = _off(float(off[j]), float(beyond[j]))
        shown = name.removesuffix("/effects")
        if by_mean != "trust":
            yield Symptom(
                f"the mean of an effect of {shown} is {away[i]:.2f} sds from where it should be "
                f"({np.mean(away > _MEAN[0]):.0%} of the levels are off by more than {_MEAN[0]})",
                "the tables are off",
                _WIDE,
                by_mean,
            )
        if by_sd != "trust":
            yield Symptom(
                f"the sd of an effect of {shown} is {ratio[j]:.2f} of what it should be "
                f"({np.mean(off > 1 - _SD[0]):.0%} of the levels are off by more than 10%)",
                _WRONG,
                _REMEDY,
                by_sd,
            )


def _weights(found: Reference, seen: bool) -> Iterator[Symptom]:
    """k-hat. Alone, where means and sds are right, it speaks of the tails, and only of them."""
    size = len(found.q)
    if found.k_hat is not None and found.k_hat > threshold(size):
        yield Symptom(
            f"k-hat of the scales and common effects is {found.k_hat:.2f}",
            "the approximation misses a part of the posterior that matters"
            if seen
            else "its tails are not those of the posterior; its means and sds are",
            _REMEDY,
            "caution" if seen else "trust",
        )
    if found.level_k_hat is not None and found.level_k_hat > threshold(400):
        yield Symptom(
            f"k-hat of the effect of a level is {found.level_k_hat:.2f} "
            f"(the worst of {found.levels_seen} that were looked at)",
            "given the scales, effects are not where their rows put them",
            _REMEDY,
            "caution" if seen else "trust",
        )


def _error(found: Reference) -> float:
    """The standard error of a difference of means, in sds; an sd's is this by sqrt 2."""
    return math.sqrt(1 / len(found.q) + 1 / found.size)


def _sd_error(kurtosis: Array, found: Reference) -> Array:
    """The standard error of a ratio of sds, ((kurtosis - 1) / 4 (1 / S + 1 / R))^1/2.

    Effects whose scale is hardly known have heavy tails: a few draws make up most of their sd.
    """
    return np.sqrt((kurtosis - 1) / 4) * _error(found)


def _noise(count: int) -> float:
    """By how many standard errors the worst of so many may be off by chance."""
    return float(special.ndtri(1 - _CHANCE / max(count, 1)))
