"""The verdict on a fit: symptoms, what each means, what to do, and one word at the end.

trust      a second opinion was taken, and nothing speaks against the fit
unchecked  nothing speaks against it, and no second opinion could be had
caution    something may be off; the symptoms say what
distrust   do not use it as it is

How to add a symptom: a function of the `Posterior` that yields what it saw, and a place in
`check`. How to add a second opinion: a function that returns a `Reference`, or why there is none,
and a place in `approximation.second_opinion`.
"""

from ranef.check.approximation import second_opinion
from ranef.check.convergence import chains, left_out, own_criterion, trend, weights
from ranef.check.deadline import Deadline
from ranef.check.groupings import groupings
from ranef.check.identifiability import (
    boundaries,
    collinear,
    empty,
    heavy_tails,
    many_levels,
    smooth,
)
from ranef.check.networks import networks
from ranef.check.prior_conflict import conflict
from ranef.check.separation import separation
from ranef.check.symptom import VERDICTS, Check, Symptom
from ranef.posterior.posterior import Posterior

__all__ = ["SECONDS", "VERDICTS", "Check", "Symptom", "check"]

# A check may take as long as the fit took, and this long in any case.
SECONDS = 10.0

_OF_CHAINS = (chains,)
_OF_OTHERS = (own_criterion, weights, left_out, trend)
_OF_ALL = (
    boundaries,
    heavy_tails,
    collinear,
    empty,
    many_levels,
    groupings,
    separation,
    conflict,
    smooth,
)


def check(posterior: Posterior, *, reference: bool = True, seconds: float = SECONDS) -> Check:
    """The verdict on what a method returned.

    Args:
        posterior: the fit.
        reference: whether a second opinion is computed, beside what the method itself looked at.
        seconds: that it may take.
    """
    deadline = Deadline(seconds)
    looks = (*(_OF_CHAINS if posterior.draws.statistics else _OF_OTHERS), *_OF_ALL)
    found = [symptom for look in looks for symptom in look(posterior)]
    asked = deadline if reference else None
    of_networks, networks_looked = networks(posterior, asked)
    opinion = second_opinion(posterior, asked)
    found += [*of_networks, *opinion.symptoms]
    symptoms = sorted(found, key=lambda s: -VERDICTS.index(s.weight))
    return Check(tuple(symptoms), (*opinion.looked, *networks_looked))
