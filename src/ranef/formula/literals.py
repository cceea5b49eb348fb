"""Values of options in a formula: numbers, texts, names and lists. Nothing is evaluated as code."""

from typing import TypeAlias

from ranef.formula.expression import (
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

# The value of an option of a term.
Literal: TypeAlias = "int | float | str | bool | None | list[Literal]"


def literal(node: Expression, text: str) -> Literal:
    """The value of an option: a number, text, True, False, None, name without quotes, or list.

    A quotient of numbers, as in 1/3, is a number.

    Raises:
        FormulaError: for anything else.
    """
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
    if isinstance(node, Operation) and node.operator == "/":
        left, right = node.left, node.right
        if isinstance(left, Number) and isinstance(right, Number) and right.value:
            return left.value / right.value
    if isinstance(node, Sum) and node.signs == ("-",):
        (operand,) = node.operands
        value = literal(operand, text) if isinstance(operand, (Number, Operation)) else None
        if isinstance(value, (int, float)):
            return -value
    raise error_at(
        text, node, f"{node} is not a value: expected a number, a text, a name or a list"
    )


def _number(node: Number) -> int | float:
    """The value of a number, as an int if it is whole."""
    return int(node.value) if node.value == int(node.value) else node.value
