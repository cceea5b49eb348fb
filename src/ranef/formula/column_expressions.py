"""Checks expressions that stand for a column, such as log(x)."""

from ranef import registry
from ranef.errors import suggestion
from ranef.formula.dates import origin_of
from ranef.formula.expression import (
    COMPARISONS,
    AllColumns,
    Expression,
    Function,
    Negation,
    Operation,
    Sequence,
    Text,
)
from ranef.formula.factor_coding import coding_of
from ranef.formula.grammar import error_at
from ranef.formula.spline_bases import basis_of

# Functions of columns that a formula may call.
COLUMN_FUNCTIONS = (
    *("log", "log10", "log2", "log1p", "exp", "expm1", "sqrt", "abs"),
    *("scale", "center", "days", "poly", "bs", "ns", "I", "C"),
)

# Functions of several columns, which cannot be part of a calculation.
ALONE = ("poly", "bs", "ns", "C")

# Functions with named options, and what reads and checks these.
_WITH_OPTIONS = {"C": coding_of, "bs": basis_of, "ns": basis_of, "days": origin_of}


def check_column_expression(node: Expression, text: str) -> None:
    """Refuse an expression that does not evaluate to a column of numbers or a factor.

    Raises:
        FormulaError: for unknown functions and options, for | || : inside an expression, for
            conditions outside I(), and for texts, lists and a dot outside a comparison.
    """
    compared: list[Expression] = []
    in_i = isinstance(node, Function) and node.name == "I"
    for part in node.walk():
        if isinstance(part, Function):
            _check_call(part, node, text)
        elif isinstance(part, Negation) or (
            isinstance(part, Operation) and part.operator in (*COMPARISONS, "&")
        ):
            if not in_i:
                what = "comparison" if _compares(part) else "condition"
                raise error_at(text, part, f"write the {what} in I(), as in I({part})")
            if isinstance(part, Operation) and _compares(part):
                compared += [side for side in part.children() if isinstance(side, Text)]
        elif isinstance(part, Operation) and part.operator in ("|", "||", ":"):
            if part.operator == ":" or not in_i:
                raise error_at(text, part, f"'{part.operator}' cannot stand inside a function")
        elif isinstance(part, AllColumns):
            raise error_at(text, part, "'.' stands for several columns, and cannot stand here")
        elif isinstance(part, (Text, Sequence)) and not any(part is side for side in compared):
            raise error_at(text, part, f"{part} cannot stand where a column is expected")


def _check_call(call: Function, whole: Expression, text: str) -> None:
    """Refuse unknown functions and options, and functions of several columns in a calculation."""
    if call.name not in COLUMN_FUNCTIONS:
        known = [*COLUMN_FUNCTIONS, *registry.TERMS]
        known = [name for name in known if name not in registry.NOTATION]
        hint = suggestion(call.name, known)
        raise error_at(text, call, f"there is no function {call.name}(); {hint}")
    if call.name in ALONE and call is not whole:
        raise error_at(text, call, f"{call.name}() must stand by itself, not inside {whole}")
    if call.name in _WITH_OPTIONS and call.arguments:
        _WITH_OPTIONS[call.name](call, text)
    elif call.options or not call.arguments:
        raise error_at(text, call, f"{call.name}() takes a column and no named options")


def _compares(node: Expression) -> bool:
    """Whether a node is a comparison."""
    return isinstance(node, Operation) and node.operator in COMPARISONS
