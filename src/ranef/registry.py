"""Where each plug-in lives: one line per term, family and method.

Names map to ``"module:Class"`` and are imported when first asked for, so that
looking a name up loads nothing heavy.
"""

import importlib
import re
from typing import Any

from ranef.errors import OptionError, suggestion

TERMS = {
    "common": "ranef.terms.common:Common",
    "group": "ranef.terms.group:Group",
    "nn": "ranef.terms.nn.term:Network",
    "offset": "ranef.terms.offset:Offset",
    "gp": "ranef.terms.smooth.gp:Process",
    "s": "ranef.terms.smooth.spline:Spline",
    "mi": "ranef.terms.mi:MissingColumn",
    "mf": "ranef.terms.mf:Factorization",
}

# Terms that have a notation of their own and are not called by name in a formula.
NOTATION = ("common", "group")

# Terms that are called by name and see to factors themselves, as in nn(C(x)).
WITH_FACTORS = ("nn", "mf")

# Terms that bend a line: what they are called on is a common effect as well.
WITH_LINES = ("s",)

# Terms on one column that may stand on the left of a further part, as in mi(x) ~ z: the model of
# that column, whose family is gaussian unless an option says else.
WITH_MODELS = ("mi",)

FAMILIES = {
    "gaussian": "ranef.families.gaussian:Gaussian",
    "student": "ranef.families.student:Student",
    "bernoulli": "ranef.families.bernoulli:Bernoulli",
    "binomial": "ranef.families.binomial:Binomial",
    "poisson": "ranef.families.poisson:Poisson",
    "negative_binomial": "ranef.families.negative_binomial:NegativeBinomial",
    "gamma": "ranef.families.gamma:Gamma",
    "beta": "ranef.families.beta:Beta",
    "lognormal": "ranef.families.lognormal:LogNormal",
    "exponential": "ranef.families.exponential:Exponential",
    "ordinal": "ranef.families.ordinal:Ordinal",
    "cumulative": "ranef.families.ordinal:Ordinal",
    "categorical": "ranef.families.categorical:Categorical",
    "zero_inflated_poisson": "ranef.families.zero_inflated_poisson:ZeroInflatedPoisson",
    "zero_inflated_negative_binomial": (
        "ranef.families.zero_inflated_negative_binomial:ZeroInflatedNegativeBinomial"
    ),
    "mixture": "ranef.families.mixture:Mixture",
}

METHODS = {
    "exact": "ranef.inference.exact:Exact",
    "laplace": "ranef.inference.laplace:Laplace",
    "nuts": "ranef.inference.nuts:NUTS",
    "svi": "ranef.inference.svi:SVI",
}

KINDS = {"term": TERMS, "family": FAMILIES, "method": METHODS}

# A plug-in that is made of others is named with them, as in "mixture(gaussian, student)".
_MADE_OF = re.compile(r"(\w+)\(([\w, ]*)\)")


def parts(name: str) -> tuple[str, ...]:
    """The names in that of a plug-in: its own, and of those that it is made of."""
    made = _MADE_OF.fullmatch(name)
    return (made[1], *(each.strip() for each in made[2].split(","))) if made else (name,)


def load(kind: str, name: str) -> Any:
    """The class registered as `name` among the plug-ins of one `kind`.

    One that is made of others makes a class of theirs, by its method `of`.

    Raises:
        OptionError: for a name that is not registered, saying which names are.
    """
    table = KINDS[kind]
    if not isinstance(name, str):
        raise OptionError(f"a {kind} is given by its name, such as {next(iter(table))!r}")
    outer, *inner = parts(name)
    if inner:
        found = load(kind, outer)
        if not hasattr(found, "of"):
            raise OptionError(f"the {kind} {outer!r} is not made of others; write {outer!r}")
        return found.of(*(load(kind, each) for each in inner))
    if name not in table:
        raise OptionError(f"there is no {kind} {name!r}; {suggestion(name, table)}")
    module, attribute = table[name].split(":")
    return getattr(importlib.import_module(module), attribute)
