"""What changes with a predictor, in words: the response, its odds, or another parameter.

An `Outcome` is the predictor of one family parameter. A difference of this predictor is one of the
response (identity link), a ratio (log link) or a ratio of odds (logit link).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ranef.formula.expression import Column, Function
from ranef.plots.canvas import label
from ranef.report.amounts import Amounts, Draws
from ranef.report.changed_rows import Matrix, Predicted

if TYPE_CHECKING:
    from ranef.families.parameters import Component
    from ranef.fit import Fit

# Largest number of characters of a name in a sentence.
_NAME = 60
# Largest number of categories whose probabilities a sentence gives.
_CATEGORIES = 6
# Logarithms of a response, whose differences are ratios of the response.
_LOGARITHMS = {"log": 1.0, "log10": np.log(10.0), "log2": np.log(2.0)}
# What parameters other than the location are called.
_PARAMETERS = {
    "sigma": "sigma (the residual scale)",
    "psi": "a count that is no extra zero (psi)",
}


@dataclass(frozen=True)
class Outcome:
    """The predictor of a family parameter, in words.

    Attributes:
        parameter: name of the parameter.
        name: what it is called, such as "score" or "hit = yes".
        link: "identity", "log", "logit", or "" where a difference has no plain meaning.
        what: "many", "large" or "high", as in "times as many".
        unit: factor of a difference: log(10) for a logarithm to base 10.
        within: stands before a phrase, as "in component 2, "; "" for nothing.
        is_location: whether it makes the response's mean.
        averaged: whether an average over rows says more than the link does.
    """

    parameter: str
    name: str
    link: str
    what: str = "large"
    unit: float = 1.0
    within: str = ""
    is_location: bool = True
    averaged: bool = False

    def phrase(self, difference: Draws, amounts: Amounts) -> str:
        """A difference of the predictor in words; "" where it has no plain meaning."""
        change = difference * self.unit
        if self.link == "identity":
            return f"{self.within}{self.name} {amounts.difference(change)}"
        if self.link == "log":
            verb = "" if self.what == "many" else "is "
            return f"{self.within}{self.name} {verb}{amounts.times(change, self.what)}"
        if self.link == "logit":
            return f"{self.within}the odds of {self.name} are {amounts.times(change, 'high')}"
        return ""


class Outcomes:
    """The outcomes of a fit.

    Args:
        fit: the fit.
        amounts: writes amounts.
    """

    def __init__(self, fit: Fit, amounts: Amounts) -> None:
        self._fit, self._amounts = fit, amounts
        self._family = fit.program.family
        response = fit.program.formula.response
        # Weights and standard errors stand beside the response, and trials below it.
        self.response = label(response if response.form == "trials" else response.value, _NAME)

    @property
    def success(self) -> str:
        """What a response of two values is where it is a success."""
        if self._fit.program.formula.response.form == "trials":
            return f"a success ({self.response})"
        names = self._fit.training.state.family.categories
        if names:
            return f"{self.response} = {label(names[1], _NAME)}"
        value = self._fit.program.formula.response.value
        sample = self._fit.training.sample
        truth = isinstance(value, Column) and sample.is_boolean(value.name)
        return f"{self.response} = {'True' if truth else '1'}"

    @property
    def is_unordered(self) -> bool:
        """Whether the response's categories have no order, and so no mean."""
        return self._family.name == "categorical"

    @property
    def is_probability(self) -> bool:
        """Whether the response's mean is a probability."""
        return self._family.name in ("bernoulli", "binomial")

    def all(self) -> list[Outcome]:
        """Each parameter with a predictor, those of the location first."""
        parts = self._family.parts()
        terms = self._fit.program.terms
        main = {p.name for p in self._family.parameters if p.predicted}
        main |= {self._family.parameters[0].name}
        out = [self._of(name, name in main, parts) for name in terms]
        return sorted(out, key=lambda outcome: not outcome.is_location)

    def _of(self, name: str, is_location: bool, parts: Sequence[Component]) -> Outcome:
        parameter = next(p for p in self._family.parameters if p.name == name)
        link, stem = parameter.link, parameter.stem or name
        if not is_location:
            if stem == "mix":
                return Outcome(
                    name,
                    f"component {name.removeprefix('mix')} against component 1",
                    "logit",
                    is_location=False,
                )
            shown = _PARAMETERS.get(stem, stem) + name.removeprefix(stem)
            known = link if link in ("identity", "log", "logit") else ""
            return Outcome(name, shown, known, is_location=False)
        kind, within = self._family.name, ""
        for number, part in enumerate(parts, 1):
            if name in part.parameters.values():
                kind, within = part.kind, f"in component {number}, "
        return self._location(name, link, kind, within)

    def _location(self, name: str, link: str, kind: str, within: str) -> Outcome:
        value = self._fit.program.formula.response.value
        if kind == "categorical":
            return Outcome(name, self.response, "", averaged=True)
        if kind == "ordinal":
            return Outcome(name, f"a higher category of {self.response}", "logit", averaged=True)
        if kind == "lognormal":
            return Outcome(name, self.response, "log", within=within)
        if link == "identity" and isinstance(value, Function) and value.name in _LOGARITHMS:
            argument = value.arguments[0]
            inside = label(argument, _NAME) if isinstance(argument, Column) else f"({argument})"
            return Outcome(name, inside, "log", unit=_LOGARITHMS[value.name], within=within)
        if link == "log":
            what = "many" if self._family.discrete else "large"
            return Outcome(name, self.response, "log", what, within=within)
        if link == "logit":
            shown = self.success if kind in ("bernoulli", "binomial") else self.response
            return Outcome(name, shown, "logit", within=within, averaged=not within)
        known = "identity" if link == "identity" else ""
        return Outcome(name, self.response, known, within=within, averaged=not known)

    def average(self, before: Predicted, after: Predicted) -> str:
        """The average change of the response's mean over rows, in words."""
        shares = {
            name: (after.shares[name] - before.shares[name]).mean(axis=1) for name in after.shares
        }
        if self._family.categorised:
            names = list(shares)
            if self._family.name != "categorical":
                names = names[-1:]
            elif len(names) > _CATEGORIES:
                names = sorted(names, key=lambda n: -abs(shares[n].mean()))[:_CATEGORIES]
            each = (
                f"{self.response} = {label(n, _NAME)} changes by {self._amounts.points(shares[n])}"
                for n in names
            )
            return f"the probability of {'; that of '.join(each)}"
        assert after.mean is not None
        assert before.mean is not None
        change = (after.mean - before.mean).mean(axis=1)
        if self.is_probability:
            return f"the probability of {self.success} changes by {self._amounts.points(change)}"
        return f"{self.response} {self._amounts.difference(change)}"

    def level(self, found: Predicted) -> Matrix:
        """What a curve shows of the response: its mean, or its highest category's probability."""
        if self._family.categorised:
            return list(found.shares.values())[-1]
        assert found.mean is not None
        return found.mean

    def level_name(self, outcome: Outcome) -> str:
        """The name of `level`."""
        if not outcome.is_location:
            return outcome.name
        if self._family.categorised:
            last = self._fit.training.state.family.categories[-1]
            return f"the probability of {self.response} = {label(last, _NAME)}"
        if self.is_probability:
            return f"the probability of {self.success}"
        return self.response

    def changed(self, outcome: Outcome, change: Draws) -> str:
        """A change of `level` in words."""
        name = self.level_name(outcome)
        if outcome.is_location and (self.is_probability or self._family.categorised):
            return f"{name} changes by {self._amounts.points(change)}"
        return f"{name} {self._amounts.difference(change)}"

    def apart(self, outcome: Outcome, change: Draws) -> str:
        """A distance between two values of `level` in words."""
        if outcome.is_location and (self.is_probability or self._family.categorised):
            return self._amounts.points(change).replace("+", "", 1)
        return self._amounts.size(change)
