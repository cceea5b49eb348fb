"""The verdict on a fit: symptoms, what each means, what to do, and one word at the end.

trust      nothing speaks against it
caution    something may be off; the symptoms say what
distrust   do not use it as it is

How to add a symptom: a function of the `Posterior` that yields what it saw, and a place in
`check`.
"""

from ranef.check.approximation import approximation
from ranef.check.columns import boundaries, collinear, empty, many_levels
from ranef.check.conflict import conflict
from ranef.check.ending import chains, left_out, own_criterion, trend, weights
from ranef.check.groupings import groupings
from ranef.check.separation import separation
from ranef.check.smooth import smooth
from ranef.check.symptom import VERDICTS, Check, Symptom
from ranef.posterior import Posterior

__all__ = ["VERDICTS", "Check", "Symptom", "check"]

_OF_CHAINS = (chains,)
_OF_OTHERS = (own_criterion, weights, left_out, trend, approximation)
_OF_ALL = (boundaries, collinear, empty, many_levels, groupings, separation, conflict, smooth)


def check(posterior: Posterior, *, reference: bool = True) -> Check:
    """The verdict on what a method returned; without `reference` by its own diagnostics alone."""
    first = _OF_CHAINS if posterior.draws.statistics else _OF_OTHERS
    first = first if reference else tuple(look for look in first if look is not approximation)
    found = [symptom for look in (*first, *_OF_ALL) for symptom in look(posterior)]
    return Check(tuple(sorted(found, key=lambda s: -VERDICTS.index(s.weight))))
