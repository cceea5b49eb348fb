"""What the exponential of a common effect is: an odds ratio, a rate ratio, a hazard ratio.

A coefficient adds to a predictor for each unit of its column. Where the predictor is a logarithm,
log odds or log hazard, its exponential multiplies what the logarithm is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ranef.errors import OptionError
from ranef.families.base import Family
from ranef.families.parameters import FamilyParameter
from ranef.posterior.posterior import Posterior

# What the logarithm is of, by link; the location of a family with a log link is its mean.
_OF_LINK = {"log": "mean", "logit": "odds", "cloglog": "hazard"}
# Families of which the location's predictor is a logarithm although its link is the identity. For
# ordinal responses it is the log odds of a category above any threshold, for categorical ones the
# log odds against the first category, and for the lognormal the logarithm of the median.
_OF_FAMILY = {"ordinal": "odds", "categorical": "odds", "lognormal": "median"}
_COUNTS = ("poisson", "negative_binomial", "zero_inflated")


@dataclass(frozen=True)
class Ratios:
    """The scale of each exponentiated variable.

    Attributes:
        scales: name of a variable to what its exponential is, such as "odds ratio".
    """

    scales: Mapping[str, str]

    @classmethod
    def of(cls, posterior: Posterior) -> Ratios:
        """The scales of the common effects of a model.

        Raises:
            OptionError: if there is none whose exponential is a ratio.
        """
        out: dict[str, str] = {}
        state = posterior.training.state
        for program in posterior.program.programs:
            parameters = {p.name: p for p in program.family.parameters}
            for name, terms in program.terms.items():
                noun = _noun(program.family, parameters[name])
                variables = {
                    n: v for t in terms for n, v in t.variables(state.terms[t.label]).items()
                }
                for variable, described in variables.items():
                    alone = any(variable == f"{t.prefix}Intercept" for t in terms)
                    # An intercept beside thresholds is zero, and its exponential says nothing.
                    fixed = alone and name == program.location and not program.family.intercept
                    if noun and described.role == "common" and not fixed:
                        out[variable] = noun if alone else f"{noun} ratio"
        if not out:
            link = posterior.program.family.parameters[0].link
            raise OptionError(
                f"exp=True exponentiates coefficients on the scale of a logarithm or of log odds; "
                f"the family {posterior.program.family.name} has the link {link}, so take them as "
                "they are, or take the logarithm of the response, as in log(y) ~ x"
            )
        return cls(out)

    def scale(self, name: str) -> str:
        """What the exponential of a variable is; "" for one that is left as it is."""
        return self.scales.get(name, "")


def _noun(family: Family, parameter: FamilyParameter) -> str:
    """What the predictor of a parameter is the logarithm of; "" if it is no logarithm."""
    component = next(
        (c for c in family.parts() if parameter.name in (*c.parameters.values(), c.share)), None
    )
    if component is not None and parameter.name == component.share:
        return "odds"
    name = family.name if component is None else component.kind
    own = parameter.name
    if component is not None:
        own = next(n for n, of in component.parameters.items() if of == parameter.name)
    location = own in ("mu", "p") or (name == "categorical")
    if location and name in _OF_FAMILY:
        return _OF_FAMILY[name]
    noun = _OF_LINK.get(parameter.link, "")
    if noun != "mean":
        return noun
    if not location:
        return own
    return "rate" if name.startswith(_COUNTS) else "mean"
