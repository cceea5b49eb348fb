"""Assignment of the parts of a formula to the parameters of the family."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ranef.errors import FormulaError
from ranef.families.base import Family
from ranef.formula.term_call import TermCall

Calls = tuple[TermCall, ...]

# The predictor, an intercept, of a parameter that must have one and is not in the formula.
_INTERCEPT: Calls = (TermCall("common", "common", ((),)),)


@dataclass(frozen=True)
class Predictor:
    """The predictor of one family parameter.

    Attributes:
        calls: its terms, as the formula writes them.
        prefix: stands before the names of their coefficients.
        main: whether the first part of the formula is about this parameter. For a mixture it is
            about several.
    """

    calls: Calls
    prefix: str
    main: bool


def predictors(family: Family, written: Mapping[str, Calls]) -> dict[str, Predictor]:
    """The predictor of each family parameter that has one.

    A parameter takes the part of the formula with its own name; without one it takes the part of
    its stem, such as sigma for sigma2; without that it takes the first part, if that is about it.

    Args:
        family: family of the response.
        written: parts of the formula by parameter, the first one under "".

    Returns:
        Parameter name to predictor. Parameters that are one number for all rows are left out.

    Raises:
        FormulaError: for a part that belongs to no parameter of the family.
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
    """The terms of a predictor beside thresholds, with an intercept among them.

    Thresholds span the constant, whether or not the formula has a 0. The intercept is fixed at
    zero; with it in the formula, factors are coded by contrasts.
    """
    return tuple(
        replace(call, arguments=((), *call.arguments))
        if call.kind == "common" and () not in call.arguments
        else call
        for call in calls
    )
