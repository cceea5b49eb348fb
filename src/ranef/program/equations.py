"""Equations in print of one response: its distribution, its predictors and their effects."""

from collections.abc import Mapping, Sequence
from typing import Any

from ranef.families.base import Family, FamilyState
from ranef.formula.equation import Line, Sub, joined
from ranef.terms.base import Term


def response_equations(
    family: Family,
    family_state: FamilyState,
    terms: Mapping[str, Sequence[Term]],
    states: Mapping[str, Any],
    column: str = "",
) -> list[Line]:
    """The model of one response in mathematical notation, one equation per line.

    Args:
        family: its distribution.
        family_state: the state of the family.
        terms: family parameter to the terms of its predictor.
        states: term label to the state of the term.
        column: the incomplete column that is the response; "" for the response of the formula.
    """
    symbols: dict[str, Line] = {}
    predictors: list[Line] = []
    distributions: list[Line] = []
    for parameter in family.free_parameters():
        summands = [t.equation(states[t.label]) for t in terms.get(parameter.name, ())]
        of = [column] if column else []
        index = ",".join([*of, "i"] if summands else of)
        symbols[parameter.name] = (parameter.symbol, *([Sub(index)] if index else []))
        if summands:
            link = "" if parameter.link == "identity" else f"{parameter.link} "
            left: Line = (link, *symbols[parameter.name], " = ")
            predictors.append((*left, *joined([s.text for s in summands], " + ")))
            distributions += [line for s in summands for line in s.distributions]
    response: Line = (str(family.response.value), Sub("i"), " ~ ")
    said: list[Line] = [(note,) for note in family.notes(family_state)]
    return [
        (*response, *family.distribution_equation(symbols)),
        *predictors,
        *distributions,
        *said,
    ]
