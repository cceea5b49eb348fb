"""`ResponseCall`: the left side of a formula, such as y, log(y), s / n or weights(y, w)."""

from dataclasses import dataclass

from ranef import registry
from ranef.formula.column_expressions import ALONE, check_column_expression
from ranef.formula.expression import Expression, Function, Operation, Sum
from ranef.formula.grammar import error_at


@dataclass(frozen=True)
class ResponseCall:
    """The left side of a formula: the response and its companion.

    Attributes:
        value: the response.
        form: "plain", or "se", "weights" or "trials" for se(y, s), weights(y, w) and y / n.
        companion: standard errors, precision weights or numbers of trials; None if plain.
    """

    value: Expression
    form: str = "plain"
    companion: Expression | None = None

    def __str__(self) -> str:
        if self.form == "trials":
            sides = (
                f"({side})" if isinstance(side, (Operation, Sum)) else str(side)
                for side in (self.value, self.companion)
            )
            return " / ".join(sides)
        return str(self.value) if self.form == "plain" else f"{self.form}({self.value})"


def response_call(left: Expression, text: str) -> ResponseCall:
    """The left side of the first part."""
    if isinstance(left, Operation) and left.operator == "/":
        call = ResponseCall(left.left, "trials", left.right)
    elif isinstance(left, Function) and left.name == "cbind":
        call = _successes_and_failures(left, text)
    elif isinstance(left, Function) and left.name in registry.TERMS:
        raise error_at(text, left, f"{left.name}() cannot stand on the left side")
    elif isinstance(left, Function) and left.name in ("se", "weights"):
        if len(left.arguments) != 2 or left.options:
            raise error_at(text, left, f"{left.name}() takes the response and one column")
        call = ResponseCall(left.arguments[0], left.name, left.arguments[1])
    else:
        call = ResponseCall(left)
    for side in (call.value, call.companion):
        if side is not None:
            check_column_expression(side, text)
            if isinstance(side, Function) and side.name in ALONE:
                raise error_at(text, side, f"{side.name}() cannot stand on the left side")
    if not call.value.columns():
        raise error_at(text, left, "the left side of the formula must name a column")
    return call


def _successes_and_failures(left: Function, text: str) -> ResponseCall:
    """`cbind(s, f)` as in R: s successes among s + f trials."""
    if len(left.arguments) != 2 or left.options:
        raise error_at(text, left, "cbind() takes two columns, successes and failures")
    successes, failures = left.arguments
    # cbind(s, n - s) means s successes among n trials.
    if (
        isinstance(failures, Sum)
        and failures.signs == ("+", "-")
        and failures.operands[1] == successes
    ):
        return ResponseCall(successes, "trials", failures.operands[0])
    trials = Sum((successes, failures), ("+", "+"), left.position)
    return ResponseCall(successes, "trials", trials)
