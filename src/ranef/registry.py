"""Registry of terms, families and methods: name to ``"module:Class"``.

A class is imported when it is first used, so that importing the registry is fast. To add a
plug-in, write its class and add one line here. In ``"module:Class(name, ...)"`` the class is made
of other plug-ins by its class method `of`.
"""

import importlib
import re
from typing import Any

from ranef import habits
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

# Terms with a notation of their own, which are not called by name in a formula. The parser has to
# tell them from functions, in messages too, and should load no class for that. How it parses the
# call of any other term is said by attributes of the term's class (`terms.base.Term`), which the
# program is about to load in any case.
NOTATION = ("common", "group")

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
    "zero_inflated_poisson": "ranef.families.zero_inflated:ZeroInflated(poisson)",
    "zero_inflated_negative_binomial": (
        "ranef.families.zero_inflated:ZeroInflated(negative_binomial)"
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

# The name of a plug-in that is composed of others, as in "mixture(gaussian, student)".
_MADE_OF = re.compile(r"(\w+)\(([\w, ]*)\)")


def parts(name: str) -> tuple[str, ...]:
    """The name of a plug-in, followed by those of the plug-ins that it is composed of."""
    made = _MADE_OF.fullmatch(name)
    return (made[1], *(each.strip() for each in made[2].split(","))) if made else (name,)


def models_column(name: str) -> bool:
    """Whether a term may be the left-hand side of a part of a formula, as in mi(x) ~ z."""
    return name in TERMS and load("term", name).models_column


def load(kind: str, name: str) -> Any:
    """The class of a plug-in.

    Args:
        kind: "term", "family" or "method".
        name: its name in the registry. For a plug-in that is composed of others, such as
            "mixture(gaussian, student)", the class is made by the class method `of` from theirs.

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
        habit = habits.FAMILIES.get(name.lower()) if kind == "family" else None
        hint = f"write family={habit!r}" if habit else suggestion(name, table)
        raise OptionError(f"there is no {kind} {name!r}; {hint}")
    module, place = table[name].split(":")
    attribute, *inner = parts(place)
    found = getattr(importlib.import_module(module), attribute)
    return found.of(*(load(kind, each) for each in inner)) if inner else found
