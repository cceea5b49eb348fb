"""Compares an approximate posterior q with a reference posterior.

For every coordinate two numbers are computed: the distance of q's mean from the reference mean in
reference sds, and the ratio of q's sd to the reference sd. Marginal sds can be right where the sds
of sums and differences are not, because a factorised q ignores correlations. So the smallest ratio
over all directions a is computed too,

    min_a (a' C_q a / a' C a)^1/2,

the square root of the smallest generalized eigenvalue of q's covariance C_q and the reference
covariance C.

The reference is the first that can be computed: from the exact density of the scales, from
importance sampling through the program, or from short chains that start at the draws. Draws of
several chains need none, as chains that started apart already check each other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.linalg import eigh

from ranef.check.deadline import Deadline, OutOfTimeError
from ranef.check.reference import Matrix, Reference, Vector, kurtosis_of
from ranef.check.reference_chains import short_chains
from ranef.check.reference_exact import closed
from ranef.check.reference_hyperparameters import exact_scales
from ranef.check.reference_importance import sampled
from ranef.check.symptom import Symptom
from ranef.inference.base import Draws
from ranef.inference.block_ascent.closed_form import is_gaussian
from ranef.numerics.psis import threshold
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem

Array = NDArray[np.float64]

# Errors of a mean, in reference sds, that lead to "caution" and to "distrust". The means of an
# approximation that claims to be right should be within .1 sd.
_MEAN = (0.1, 0.18)
# The same for the ratio of the sds, which should be within 10%. The limits of "distrust" are a
# little below twice those of "caution", as the noise of a thousand draws may hide the rest.
_SD = (0.9, 0.82)
# Probability that the noise of the draws alone leads to a symptom, for each kind of comparison.
_CHANCE = 0.005

# The look that the exact method itself has taken at a model without scales to draw.
_NOTHING = "nothing is approximated, all parameters having a closed form"

_WRONG = "the intervals and the sds in the tables are wrong"
_WIDE = "give more steps, or use method='nuts'"
_REMEDY = "use method='nuts', or guide='structured' where it is 'meanfield'"


@dataclass(frozen=True)
class Opinion:
    """The result of a second opinion.

    Attributes:
        symptoms: the deviations that it found.
        looked: what the second opinion was, as phrases; () if there was none.
    """

    symptoms: tuple[Symptom, ...]
    looked: tuple[str, ...]


def second_opinion(posterior: Posterior, deadline: Deadline | None) -> Opinion:
    """Compare the draws with the first reference that can be computed.

    The weights of networks are held at their point estimates.

    Args:
        posterior: the fit.
        deadline: when to stop; None to compute nothing, and report only what the method itself has
            checked.
    """
    draws = posterior.draws
    if draws.statistics:
        return Opinion((), ("chains that began apart from each other",))
    problem = posterior.problem
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
    """Whether the draws come from the exact method for Gaussian models.

    Given the scales, coefficients are then drawn from their exact conditional distribution, so
    that only the draws of the scales can be wrong.
    """
    # The method `laplace`, which has an evidence too, records its quadrature among its settings.
    closed_form = draws.evidence is not None and "quadrature" not in draws.settings
    return closed_form and is_gaussian(problem)


def _own_look(draws: Draws) -> tuple[str, ...]:
    """What the exact method itself has checked, as phrases."""
    if draws.k_hat is not None:
        return (f"the draws' weights by their exact density, k-hat {draws.k_hat:.2f}",)
    if draws.steps <= 1:
        return (_NOTHING,)
    return ("the exact density of the scales, at the points where its surrogate was checked",)


def _compared(found: Reference, draws: Draws) -> Iterator[Symptom]:
    """Compare means, sds and directions of q with the reference, and report its k-hat."""
    symptoms = [*_means(found), *_sds(found)]
    if not any(s.weight == "distrust" for s in symptoms):
        symptoms += _scales(found, draws.is_gaussian_guide)
    symptoms += _levels(found)
    yield from symptoms
    yield from _weights(found, any(s.weight != "trust" for s in symptoms))


def _not_asked() -> Symptom:
    """The symptom of a fit for which no second opinion was asked."""
    return Symptom(
        "the sds were not checked",
        "the method has approximated, and nothing has looked at how well",
        "fit.check() takes a second opinion",
        "unchecked",
    )


def _unchecked(draws: Draws, problem: Problem, reason: str) -> Symptom:
    """The symptom of a fit without a reference, because of `reason`.

    A mean-field guide is judged without a reference. It takes parameters for independent, and group
    effects are never independent of the common effects about which they vary.
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
    """The weight of a deviation.

    It is "trust" up to the first limit plus the noise, "distrust" beyond that if the deviation
    exceeds the second limit too, and "caution" otherwise.
    """
    if value - noise <= limits[0]:
        return "trust"
    return "distrust" if value > limits[1] else "caution"


def _means(found: Reference) -> Iterator[Symptom]:
    """Report the mean that is furthest from the reference."""
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
    """Report the sd that is furthest from the reference, and the narrowest direction."""
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
    # The smallest eigenvalue of a sample covariance is too small: with S draws in d dimensions the
    # smallest sd ratio is below one by about (d / S)^1/2 through noise alone.
    along = _off(1 - narrow.ratio, (math.sqrt(d) + 1) * _error(found))
    if along != "trust" and (along != weight or narrow.several):
        yield Symptom(
            f"the sd along {narrow.said(found.labels)} is {narrow.ratio:.2f} of what it should be",
            "sums and differences of these parameters, and predictions, are surer than they can be",
            _REMEDY,
            along,
        )


def _scales(found: Reference, normal: bool) -> Iterator[Symptom]:
    """Report scales whose sd, on the scale on which they are reported, is off.

    The coordinates of a reference compress the upper tails of scales. So an sd may be right in
    these coordinates and wrong on the original scale.

    Args:
        found: the reference.
        normal: whether q is Gaussian in the logarithm of scales, so that its sd can be computed
            from a log-normal distribution, with less noise than from the draws.
    """
    for label, (q, right, weights) in found.scales.items():
        mean = float(weights @ right)
        sd = math.sqrt(float(weights @ (right - mean) ** 2))
        heavy = float(weights @ ((right - mean) / sd) ** 4)
        # The squared relative error of an sd of n draws is (kurtosis - 1) / 4n.
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


def _sd(values: Float[Array, "draws"]) -> tuple[float, float]:
    """The sd of draws and its relative error."""
    away = values - values.mean()
    square = max(float((away**2).mean()), np.finfo(np.float64).tiny)
    heavy = float((away**4).mean()) / square**2
    return math.sqrt(square), math.sqrt(max(heavy - 1, 0.0) / 4 / len(values))


def _log_normal_sd(values: Float[Array, "draws"]) -> tuple[float, float]:
    """The sd of a log-normal distribution and its relative error, from draws.

    With m and s^2 the mean and variance of the logarithms, the sd is
    exp(m + s^2 / 2) (exp(s^2) - 1)^1/2.
    """
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    square = min(float(logs.var(ddof=1)), 50.0)
    sd = math.exp(float(logs.mean()) + square / 2) * math.sqrt(math.expm1(square))
    slope = 0.5 + 0.5 / -math.expm1(-square) if square > 0 else 1.0
    return sd, square * slope * math.sqrt(2 / len(values))


def _off(value: float, noise: float) -> str:
    """The weight of a relative deviation of an sd."""
    return _weight(value, (1 - _SD[0], 1 - _SD[1]), noise)


@dataclass(frozen=True)
class _Direction:
    """A direction in parameter space.

    Attributes:
        ratio: q's sd along it over the reference sd.
        a: the weights of the coordinates, each divided by its reference sd.
    """

    ratio: float
    a: Vector

    @property
    def several(self) -> bool:
        """Whether more than one coordinate has a large weight."""
        return bool((np.abs(self.a) > 0.3 * np.abs(self.a).max()).sum() > 1)

    def said(self, labels: tuple[str, ...]) -> str:
        """The direction in words, by its one or two largest weights."""
        order = np.argsort(-np.abs(self.a))[:2]
        if not self.several:
            return labels[order[0]]
        sign = "+" if self.a[order[0]] * self.a[order[1]] > 0 else "-"
        return f"{labels[order[0]]} {sign} {labels[order[1]]} (each in its sd)"


def _narrowest(q: Matrix, reference: Matrix) -> _Direction:
    """The direction of the smallest sd ratio, from two covariance matrices."""
    sd = np.sqrt(np.diagonal(reference))
    correlation = reference / sd / sd[:, None]
    # The small ridge keeps the reference correlation matrix positive definite.
    values, vectors = eigh(q / sd / sd[:, None], correlation + 1e-9 * np.eye(len(sd)))
    return _Direction(float(np.sqrt(max(values[0], 0.0))), vectors[:, 0])


def _levels(found: Reference) -> Iterator[Symptom]:
    """Report the worst mean and the worst sd over the levels of each grouping."""
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
    """Report high k-hat values.

    If means and sds are right, a high k-hat says only that the tails are not.

    Args:
        found: the reference.
        seen: whether means or sds are off.
    """
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
    """The standard error of the difference of two means, in sds: (1 / S + 1 / R)^1/2.

    S is the number of draws of q and R that of the reference. For the relative difference of two
    sds of normal distributions it is smaller by a factor of sqrt 2.
    """
    return math.sqrt(1 / len(found.q) + 1 / found.size)


def _sd_error(kurtosis: Float[Array, "m"], found: Reference) -> Float[Array, "m"]:
    """The standard error of a ratio of sds, ((kurtosis - 1) / 4 (1 / S + 1 / R))^1/2.

    The kurtosis matters for effects whose scale is poorly known. They have heavy tails, so that a
    few draws determine most of their sd.
    """
    return np.sqrt((kurtosis - 1) / 4) * _error(found)


def _noise(count: int) -> float:
    """How many standard errors the worst of `count` deviations may reach by chance."""
    return float(special.ndtri(1 - _CHANCE / max(count, 1)))
