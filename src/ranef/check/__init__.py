"""The verdict on a fit: symptoms, what each means and what to do about it, and one word.

trust      a second opinion was taken, and nothing speaks against the fit
unchecked  nothing speaks against the fit, but there was no second opinion
caution    something may be off; the symptoms say what
distrust   the fit should not be used as it is

The verdict judges the computation: whether the draws follow the posterior of this model. What
is found about the model itself, such as counts that vary more than the family allows, is a note
that does not change the verdict.

To add a symptom, write a function of the `Posterior` that yields `Symptom`s and add it to one of
the tuples below; one about the model goes among the notes of `check`. To add a second opinion,
write a function that returns a `Reference` or a `NoReference` and add it to
`approximation.second_opinion`.
"""

from ranef.check.approximation import second_opinion
from ranef.check.convergence import chains, left_out, own_criterion, trend, weights
from ranef.check.deadline import Deadline
from ranef.check.dispersion import dispersion
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

# Default time limit of a check, in seconds. Callers may allow more, such as the time that the fit
# itself took.
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
    """Check a fit and return the verdict with its symptoms, the gravest first.

    Args:
        posterior: the fit.
        reference: whether to compute a second opinion. Without it only what the method itself has
            checked counts as one.
        seconds: time limit of the second opinions.
    """
    deadline = Deadline(seconds)
    looks = (*(_OF_CHAINS if posterior.draws.statistics else _OF_OTHERS), *_OF_ALL)
    found = [symptom for look in looks for symptom in look(posterior)]
    asked = deadline if reference else None
    of_networks, networks_looked = networks(posterior, asked)
    opinion = second_opinion(posterior, asked)
    found += [*of_networks, *opinion.symptoms]
    symptoms = sorted(found, key=lambda s: -VERDICTS.index(s.weight))
    notes = tuple(dispersion(posterior, deadline)) if reference else ()
    return Check(tuple(symptoms), (*opinion.looked, *networks_looked), notes)
