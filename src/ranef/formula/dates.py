"""The function days(d, since=...) of a formula: a date as a number of days."""

import datetime

from ranef.formula.expression import Column, Function, Text
from ranef.formula.grammar import error_at

# The date from which days() counts if the formula names none, as R and Arrow do.
_EPOCH = datetime.date(1970, 1, 1)


def origin_of(call: Function, text: str = "") -> float:
    """The day from which days(d, since=...) counts, in days since 1970-01-01.

    Raises:
        FormulaError: for anything but one column and a date such as "2024-03-01".
    """
    if len(call.arguments) != 1 or not isinstance(call.arguments[0], Column):
        raise error_at(text, call, "days() takes one column of dates by its name")
    unknown = next((name for name, _ in call.options if name != "since"), None)
    if unknown is not None:
        raise error_at(text, call, f"days() has no option {unknown!r}; it takes since")
    if not call.options:
        return 0.0
    value = call.options[0][1]
    try:
        said = value.value if isinstance(value, Text) else str(value)
        return float((datetime.date.fromisoformat(said) - _EPOCH).days)
    except ValueError:
        hint = 'write a date such as since="2024-03-01"'
        raise error_at(text, call, f"days(since={value}) names no date; {hint}") from None
