"""Prior-data conflict: a posterior that has left the prior that its user gave it.

A parameter conflicts where its posterior mean lies in a tail of its prior that holds less than a
normal distribution does beyond three sds, .13% (a prior on x > 0 whose density is highest at zero
has one tail). It is the simplest of such checks; Evans and Moshonov (2006) have the theory, and
Kallioinen, Paananen, Buerkner and Vehtari (2024) a finer one, by scaling the power of the prior.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import stats

from ranef import priors
from ranef.check.symptom import Symptom
from ranef.posterior import Posterior

_TAIL = float(stats.norm.sf(3.0))


def conflict(posterior: Posterior) -> Iterator[Symptom]:
    """Of the priors that the user gave, not of the default ones, which are scaled to the data."""
    given = posterior.program.user_priors
    if not given:
        return
    state = posterior.training.state
    by_alias = {
        name
        for parameter, term in posterior.program.all_terms()
        for name, slot in term.parameters(
            state.terms[term.label], state.scales[parameter.name]
        ).items()
        if slot.alias in given
    }
    for name, variable in posterior.variables.items():
        law = _law(state.priors.get(name))
        if law is None or not (name in given or name in by_alias) or variable.role == "weight":
            continue
        for label, place in variable.elements(name):
            mean = np.ravel(np.mean(posterior.values[name], axis=(0, 1)))[place]
            tail = _tail(*law, float(mean), place)
            if tail < _TAIL:
                yield Symptom(
                    f"the posterior mean of {label}, {mean:.3g}, is in the far tail of its prior "
                    f"{state.priors[name]} ({max(tail, 1e-9):.1g} of it lies beyond)",
                    "prior and data contradict each other",
                    "look at the prior, and at the scale of the column, again",
                    "caution",
                )


def _tail(frozen: Any, one_sided: bool, value: float, place: int) -> float:
    below, above = (np.ravel(part) for part in (frozen.cdf(value), frozen.sf(value)))
    i = place if len(above) > 1 else 0
    return float(above[i] if one_sided else min(below[i], above[i]))


def _law(prior: Any) -> tuple[Any, bool] | None:
    """The prior as SciPy has it, and whether it has one tail only; None where it says nothing."""
    p, array = prior, np.asarray
    match prior:
        case priors.Normal():
            return stats.norm(array(p.mu), array(p.sigma)), False
        case priors.StudentT():
            return stats.t(p.nu, array(p.mu), array(p.sigma)), False
        case priors.Cauchy():
            return stats.cauchy(array(p.mu), array(p.sigma)), False
        case priors.HalfNormal():
            return stats.halfnorm(scale=p.sigma), True
        case priors.HalfCauchy():
            return stats.halfcauchy(scale=p.sigma), True
        case priors.HalfStudentT():
            return _HalfStudent(p.nu, p.sigma), True
        case priors.Exponential():
            return stats.expon(scale=1 / p.rate), True
        case priors.Gamma():
            return stats.gamma(p.alpha, scale=1 / p.beta), p.alpha <= 1
        case priors.InverseGamma():
            return stats.invgamma(p.alpha, scale=p.beta), False
        case priors.LogNormal():
            return stats.lognorm(p.sigma, scale=np.exp(p.mu)), False
    # A Uniform or a Beta has no tails; Flat, Fixed, LKJ and point estimates are not judged.
    return None


class _HalfStudent:
    """|t_nu| times sigma."""

    def __init__(self, nu: float, sigma: float) -> None:
        self._law = stats.t(nu, 0.0, sigma)

    def sf(self, value: float) -> Any:
        return 2 * self._law.sf(value)

    def cdf(self, value: float) -> Any:
        return 1 - self.sf(value)
