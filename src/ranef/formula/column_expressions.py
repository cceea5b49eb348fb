"""Checks expressions that stand for a column, such as log(x), and reads the values of options."""

from typing import TypeAlias

from ranef import registry
from ranef.errors import suggestion
from ranef.formula.expression import (
    COMPARISONS,
    Column,
    Expression,
    Function,
    Number,
    Operation,
    Sequence,
    Sum,
    Text,
)
from ranef.formula.grammar import error_at

# Functions of columns that a formula may call.
COLUMN_FUNCTIONS = (
    *("log", "log10", "log2", "log1p", "exp", "expm1", "sqrt", "abs"),
    *("scale", "center", "poly", "I", "C"),
)

# Options of C(): the reference level, and all levels in order.
_CODING = ("ref", "levels")

# The value of an option of a term.
Literal: TypeAlias = "int | float | str | bool | None | list[Literal]"


def check_column_expression(node: Expression, text: str) -> None:
    """Refuse an expression that does not evaluate to a column of numbers or a factor.

    Raises:
        FormulaError: for unknown functions and options, for | || : inside an expression, for
            comparisons outside I(), and for texts and lists outside a comparison.
    """
    compared: list[Expression] = []
    for part in node.walk():
        if isinstance(part, Function):
            if part.name not in COLUMN_FUNCTIONS:
                known = [*COLUMN_FUNCTIONS, *registry.TERMS]
                known = [name for name in known if name not in registry.NOTATION]
                hint = suggestion(part.name, known)
                raise error_at(text, part, f"there is no function {part.name}(); {hint}")
            if part.name in ("poly", "C") and part is not node:
                raise error_at(text, part, f"{part.name}() must stand by itself, not inside {node}")
            if part.name == "C" and part.arguments:
                coding_of(part, text)
            elif part.options or not part.arguments:
                raise error_at(text, part, f"{part.name}() takes a column and no named options")
        elif isinstance(part, Operation) and part.operator in ("|", "||", ":"):
            raise error_at(text, part, f"'{part.operator}' cannot stand inside a function")
        elif isinstance(part, Operation) and part.operator in COMPARISONS:
            if not (isinstance(node, Function) and node.name == "I"):
                raise error_at(text, part, f"write the comparison in I(), as in I({part})")
            compared += [side for side in part.children() if isinstance(side, Text)]
        elif isinstance(part, (Text, Sequence)) and not any(part is side for side in compared):
            raise error_at(text, part, f"{part} cannot stand where a column is expected")


def coding_of(call: Function, text: str = "") -> tuple[str | None, tuple[str, ...]]:
    """The options of C(f, ref=..., levels=[...]).

    Args:
        call: the call of C().
        text: the formula, for the message.

    Returns:
        the reference level, or None; and all levels in order, or () if they are not given.

    Raises:
        FormulaError: for unknown options, and for values that are not levels.
    """
    unknown = next((name for name, _ in call.options if name not in _CODING), None)
    if unknown is not None:
        raise error_at(text, call, f"C() has no option {unknown!r}; it takes ref and levels")
    given = {name: literal(value, text) for name, value in call.options}
    levels = given.get("levels", [])
    if not isinstance(levels, list) or ("levels" in given and len(levels) < 2):
        raise error_at(text, call, 'C(levels=...) must list the levels, as in levels=["a", "b"]')
    named = tuple(_level(value) for value in levels)
    ref = _level(given["ref"]) if "ref" in given else None
    if isinstance(given.get("ref"), list):
        raise error_at(text, call, 'C(ref=...) must be one level, as in ref="a"')
    if len(set(named)) < len(named):
        raise error_at(text, call, "C(levels=...) names a level twice")
    if ref is not None and named and ref not in named:
        raise error_at(text, call, f"C(ref={ref!r}) is none of its levels")
    return ref, named


def _level(value: Literal) -> str:
    """The name of a level in a table: "1" for the number 1, "True" for true."""
    return repr(value) if isinstance(value, float) else str(value)


def _number(node: Number) -> int | float:
    """The value of a number, as an int if it is whole."""
    return int(node.value) if node.value == int(node.value) else node.value


def literal(node: Expression, text: str) -> Literal:
    """The value of an option: a number, text, True, False, None, name without quotes, or list."""
    if isinstance(node, Number):
        return _number(node)
    if isinstance(node, Text):
        return node.value
    if isinstance(node, Column):
        return {"True": True, "False": False, "None": None}.get(node.name, node.name)
    if isinstance(node, Sequence):
        return [literal(item, text) for item in node.items]
    if isinstance(node, Function) and node.name == "c" and not node.options:  # as R lists
        return [literal(item, text) for item in node.arguments]
    if isinstance(node, Sum) and node.signs == ("-",) and isinstance(node.operands[0], Number):
        return -_number(node.operands[0])
    raise error_at(
        text, node, f"{node} is not a value: expected a number, a text, a name or a list"
    )
