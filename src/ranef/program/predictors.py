"""Which part of a formula predicts which parameter of the family."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ranef.errors import FormulaError
from ranef.families.base import Family
from ranef.formula.formula import TermCall

Calls = tuple[TermCall, ...]

# What a parameter that must have a predictor has where the formula says nothing of it.
_INTERCEPT: Calls = (TermCall("common", "common", ((),)),)


@dataclass(frozen=True)
class Predictor:
    """The terms of one parameter.

    Attributes:
        calls: as written.
        prefix: what stands before the names of their coefficients.
        main: whether the parameter is what the formula's first part predicts, or one of several.
    """

    calls: Calls
    prefix: str
    main: bool


def predictors(family: Family, written: Mapping[str, Calls]) -> dict[str, Predictor]:
    """By family parameter; those that are one number for all rows have none.

    A parameter has the part of its own name, else that of its stem, such as sigma for sigma2,
    else, if the first part is about it, that.

    Args:
        family: of the response.
        written: the parts of the formula, the first under "".

    Raises:
        FormulaError: for a part that no parameter of the family has.
    """
    parameters = family.free_parameters()
    several = any(p.predicted for p in parameters)
    main = {p.name for p in parameters if p.predicted} or {family.parameters[0].name}
    known = {p.name for p in parameters if not p.labels and (p.stem or p.name not in main)}
    known |= {p.stem for p in parameters if p.stem and p.name not in main}
    for name in written:
        if name and name not in known:
            raise FormulaError(
                f"the family {family.name} has no parameter {name!r} to predict; it has: "
                f"{', '.join(sorted(known)) or 'none but the mean'}"
            )
    out: dict[str, Predictor] = {}
    used: set[str] = set()
    for parameter in parameters:
        own = [name for name in (parameter.name, parameter.stem) if name in known]
        sources = [*own, ""] if parameter.name in main else own
        found = next((name for name in sources if name in written), None)
        if found is not None:
            used.add(found)
            prefix = f"{parameter.name}_" if found or several else ""
            calls = written[found]
            if not family.intercept and parameter is parameters[0]:
                calls = _spanning(calls)
            out[parameter.name] = Predictor(calls, prefix, parameter.name in main)
        elif parameter.implied:
            out[parameter.name] = Predictor(_INTERCEPT, f"{parameter.name}_", False)
    for name, calls in written.items():
        if name not in used and calls != _INTERCEPT:
            raise FormulaError(
                f"no component is left for the predictor of {name or 'the mean'}, since each has "
                "one of its own; leave it out, or write 1"
            )
    return out


def _spanning(calls: Calls) -> Calls:
    """The terms beside thresholds, which span the constant whether or not the formula has 0.

    The intercept among them, pinned at zero, is what factors take their contrasts from.
    """
    return tuple(
        replace(call, arguments=((), *call.arguments))
        if call.kind == "common" and () not in call.arguments
        else call
        for call in calls
    )
