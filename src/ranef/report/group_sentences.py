"""Says in a sentence for each grouping how far its levels differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ranef.plots.canvas import label
from ranef.report.amounts import Amounts, Draws
from ranef.report.outcomes import Outcome, Outcomes

if TYPE_CHECKING:
    from ranef.fit import Fit

# Largest number of characters of a name.
_NAME = 60


def group_sentences(fit: Fit, interval: float = 0.95) -> list[str]:
    """How far the levels of each grouping differ, in intercepts and slopes of every predictor.

    Args:
        fit: the fit.
        interval: probability of the intervals.
    """
    amounts = Amounts(interval)
    outcomes = Outcomes(fit, amounts)
    return [text for outcome in outcomes.all() for text in _of(fit, outcome, amounts)]


def _of(fit: Fit, outcome: Outcome, amounts: Amounts) -> Iterator[str]:
    """The sentences about the groupings in the predictor of one parameter."""
    for term in fit.program.terms.get(outcome.parameter, ()):
        if term.call.kind != "group":
            continue
        for name, variable in term.variables(fit.training.state.terms[term.label]).items():
            if variable.role != "sd":
                continue
            effect, _, grouping = variable.title.removesuffix("_sigma").rpartition("|")
            column = effect.removeprefix(term.prefix)
            levels = len(fit.variables[name.removesuffix("_sigma")].coords[0])
            sds, shown = _draws(fit, name, variable.title), label(grouping, _NAME)
            if column == "1":
                said = _levels(outcome, sds, levels, amounts)
                yield f"{shown}: {said}.{_share(fit, outcome, variable.factor)}"
                continue
            yield (
                f"The effect of {label(column, _NAME)}{_on(outcome)} differs between the "
                f"{levels:,} levels of {shown}, with an sd of "
                f"{amounts.size(sds * outcome.unit)}{_scale(outcome)}."
            )


def _draws(fit: Fit, name: str, title: str) -> Draws:
    """Draws of an sd; those of a fixed one or a point estimate are all equal."""
    if name in fit.posterior:
        return fit.posterior[name].to_numpy().ravel()
    return np.full(2, float(fit.summary().loc[title, "mean"]))


def _share(fit: Fit, outcome: Outcome, factor: str) -> str:
    """A sentence on the share of variance of a grouping; "" where it has none."""
    shares = fit.summary()
    share = f"share({factor})"
    if share not in shares.index or not outcome.is_location:
        return ""
    return f" They explain {shares.loc[share, 'mean']:.0%} of the variance."


def _on(outcome: Outcome) -> str:
    """What an effect that varies is an effect on; "" for the response itself."""
    if outcome.within:
        return f" {outcome.within.removesuffix(', ')}"
    return "" if outcome.is_location and outcome.link else f" on {outcome.name}"


def _scale(outcome: Outcome) -> str:
    """The scale of a difference of the predictor, where it is not that of the response."""
    scales = {
        "identity": "",
        "log": " on the scale of logarithms",
        "logit": " on the scale of log odds",
    }
    return scales.get(outcome.link, " on the scale of the predictor")


def _levels(outcome: Outcome, sds: Draws, count: int, amounts: Amounts) -> str:
    """How far the levels differ in their intercepts."""
    opening = f"the {count:,} levels differ"
    if outcome.link == "identity":
        where = f" {outcome.within.removesuffix(', ')}" if outcome.within else ""
        return f"{opening} in {outcome.name}{where} with an sd of {amounts.size(sds)}"
    if outcome.link in ("log", "logit"):
        odds = outcome.link == "logit"
        whose = f"the odds of {outcome.name} are" if odds else outcome.name
        ratio = amounts.times(sds * outcome.unit, "high" if odds else outcome.what)
        return f"{opening}; one sd above the average level, {outcome.within}{whose} {ratio}"
    return f"{opening} with an sd of {amounts.size(sds)} on the scale of the predictor"
