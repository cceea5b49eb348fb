"""Says in a sentence for each grouping how far its levels differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from ranef.plots.canvas import label
from ranef.report.amounts import Amounts, Estimate
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
    amounts, table = Amounts(interval), fit.summary(interval)
    outcomes = Outcomes(fit, amounts).all()
    return [text for outcome in outcomes for text in _of(fit, outcome, amounts, table)]


def _of(fit: Fit, outcome: Outcome, amounts: Amounts, table: pd.DataFrame) -> Iterator[str]:
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
            shown = label(grouping, _NAME)
            sd = Estimate(*map(float, table.loc[variable.title, ["mean", "lower", "upper"]]))
            sd = sd.scaled(outcome.unit)
            if column == "1":
                said = _levels(outcome, sd, levels, amounts)
                yield f"{shown}: {said}.{_share(table, outcome, variable.factor)}"
                continue
            yield (
                f"The effect of {label(column, _NAME)}{_on(outcome)} differs between the "
                f"{levels:,} levels of {shown}, with an sd of {amounts.size(sd)}{_scale(outcome)}."
            )


def _share(table: pd.DataFrame, outcome: Outcome, factor: str) -> str:
    """A sentence on the share of variance of a grouping; "" where it has none."""
    share = f"share({factor})"
    if share not in table.index or not outcome.is_location:
        return ""
    return f" They explain {table.loc[share, 'mean']:.0%} of the variance."


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


def _levels(outcome: Outcome, sd: Estimate, count: int, amounts: Amounts) -> str:
    """How far the levels differ in their intercepts."""
    opening = f"the {count:,} levels differ"
    if outcome.link == "identity":
        where = f" {outcome.within.removesuffix(', ')}" if outcome.within else ""
        return f"{opening} in {outcome.name}{where} with an sd of {amounts.size(sd)}"
    if outcome.link in ("log", "logit"):
        odds = outcome.link == "logit"
        whose = f"the odds of {outcome.name} are" if odds else outcome.name
        ratio = amounts.times(sd, "high" if odds else outcome.what)
        return f"{opening}; one sd above the average level, {outcome.within}{whose} {ratio}"
    return f"{opening} with an sd of {amounts.size(sd)} on the scale of the predictor"
