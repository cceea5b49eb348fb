"""The grammar of formulas: parses a text to expressions by an LALR(1) parser.

No part of the text is evaluated as code. Errors mark the place that does not parse with a caret.
"""

import functools

import lark

from ranef import habits
from ranef.errors import FormulaError
from ranef.formula.expression import (
    AllColumns,
    Column,
    Expression,
    Function,
    Negation,
    Number,
    Operation,
    Sequence,
    Sum,
    Text,
)

# Names of C() in R.
_FACTORS = ("factor", "as.factor")

# Largest number of characters of a formula.
MAX_LENGTH = 20_000

# Largest depth of nested brackets, and of names joined by one chain of operators.
MAX_DEPTH = 40

_GRAMMAR = r"""
formula: part (";" part)*
part: sum "~" sum
sum: SIGN? product (SIGN product)*
product: interaction (TIMES interaction)*
interaction: power (":" power)*
power: _atom (POWER signed)?
signed: SIGN? _atom
_atom: call | name | all | number | string | sequence | "(" sum ")" | "(" _joined ")"
call: NAME "(" [_argument ("," _argument)* ","?] ")"
_argument: option | sum | _joined
_joined: bar | both | comparison | negation
bar: _both BAR _both (BAR _both)*
_both: both | _condition
both: _condition AND _condition (AND _condition)*
_condition: sum | comparison | negation
negation: NOT sum | NOT comparison
comparison: sum COMPARISON sum
option: NAME "=" sum
sequence: "[" [sum ("," sum)* ","?] "]"
name: NAME | QUOTED
all: DOT
number: NUMBER
string: STRING
BAR: "||" | "|"
AND: "&&" | "&"
NOT: "!"
DOT: "."
SIGN: "+" | "-"
TIMES: "*" | "/"
COMPARISON: "==" | "!=" | "<=" | ">=" | "<" | ">"
POWER: "**" | "^"
NAME: /\.?[^\W\d][\w.]*/
QUOTED: /`[^`]+`/
NUMBER: /(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?/
STRING: /"[^"\n]*"|'[^'\n]*'/
%ignore /\s+/
"""


def parse_parts(text: str) -> list[tuple[Expression, Expression]]:
    """The left and right side of every part of a formula.

    Raises:
        FormulaError: for a text that does not parse or exceeds the size limits.
    """
    if len(text) > MAX_LENGTH:
        raise FormulaError(
            f"the formula has {len(text)} characters; at most {MAX_LENGTH} are allowed"
        )
    prepared = _separate(text)
    try:
        tree = _parser().parse(prepared)
    except lark.exceptions.UnexpectedInput as error:
        raise _syntax_error(text, error) from None
    try:
        return _Nodes().transform(tree)
    except lark.exceptions.VisitError as error:
        raise error.orig_exc from None


def split_parts(text: str) -> list[tuple[str, str]]:
    """The texts of the left and right side of every part of a formula.

    Raises:
        FormulaError: for a part without "~".
    """
    parts, start, quote = [], 0, ""
    separated = _separate(text)
    for i, char in enumerate(f"{separated};"):
        if quote:
            quote = "" if char == quote else quote
        elif char in "`'\"":
            quote = char
        elif char == ";":
            parts.append((start, i))
            start = i + 1
    out = []
    for first, end in parts:
        left, tilde, right = separated[first:end].partition("~")
        if not tilde or not left.strip() or not right.strip():
            raise FormulaError.at(text, first, "a part of a formula is written 'left ~ right'")
        out.append((left.strip(), right.strip()))
    return out


@functools.cache
def _parser() -> lark.Lark:
    return lark.Lark(_GRAMMAR, start="formula", parser="lalr", propagate_positions=True)


def _separate(text: str) -> str:
    """`text` with each newline that starts a new part replaced by ";", and final ";" by blanks.

    A newline starts a new part if the line after it has a "~" and no bracket or quote is open.
    Long formulas may thus be broken anywhere else. The positions of all other characters stay.
    """
    out = list(text)
    depth, quote = 0, ""
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote or (char == "\n" and quote != "`") else quote
        elif char in "`'\"":
            quote = char
        elif char in "([":
            depth += 1
            if depth > MAX_DEPTH:
                raise FormulaError.at(
                    text, i, f"brackets are nested more than {MAX_DEPTH} deep here"
                )
        elif char in ")]":
            depth = max(0, depth - 1)
        if char == "\n" and depth == 0 and not quote:
            line = text[i + 1 :].split("\n", 1)[0]
            empty = not "".join(out[:i]).strip(" \t\r\n;")
            out[i] = ";" if "~" in line and not empty and out[i - 1] != ";" else " "
    joined = "".join(out)
    stripped = joined.rstrip(" \t\r\n;")
    return stripped + " " * (len(joined) - len(stripped))


def _syntax_error(text: str, error: lark.exceptions.UnexpectedInput) -> FormulaError:
    """The error of the parser in words, with a caret and a hint for common mistakes."""
    if not text.strip():
        return FormulaError("the formula is empty; write one such as 'y ~ x + (1 | g)'")
    token = getattr(error, "token", None)
    position = error.pos_in_stream or 0
    if token is not None and token.type == "$END":
        position = len(text.rstrip(" \t\r\n;"))
        what = "the formula ends too early"
    elif isinstance(error, lark.exceptions.UnexpectedCharacters):
        what = f"the character {text[position]!r} is not expected here"
    else:
        what = f"{text[position]!r} is not expected here"
        part = text[text.rfind(";", 0, position) + 1 :]
        advice = habits.left_side(part) or habits.in_brackets(text, position)
        if text[position] in "|," and advice:
            what += f" ({advice})"
        elif text[position] == "|":
            what += " (write group-specific effects in brackets, as in '(1 | g)')"
        if text[position] in "<>=!":
            what += " (write a comparison in I(), as in 'I(x > 3)')"
        if text[position] == "&":
            what += " (write conditions in I(), as in 'I((x > 1) & (z < 2))')"
    if "~" not in text:
        what += " (a formula needs '~' between the response and the terms)"
    return FormulaError.at(text, position, what)


class _Nodes(lark.Transformer):
    """Transforms the parse tree to expressions, and each part to the pair of its sides."""

    def formula(self, parts: list) -> list:
        return parts

    def part(self, sides: list) -> tuple:
        left, right = sides
        return left, right

    def bar(self, items: list) -> Expression:
        return _chain(items)

    def sum(self, items: list) -> Expression:
        signed = items if isinstance(items[0], lark.Token) else ["+", *items]
        if len(signed) == 2 and signed[0] == "+":
            return signed[1]
        signs, operands = signed[::2], signed[1::2]
        return Sum(tuple(operands), tuple(map(str, signs)), position_of(operands[0]))

    def comparison(self, items: list) -> Expression:
        left, operator, right = items
        return Operation(str(operator), left, right, position_of(left))

    def both(self, items: list) -> Expression:
        return _chain(["&" if isinstance(item, lark.Token) else item for item in items])

    def negation(self, items: list) -> Expression:
        return Negation(items[1], _token_start(items[0]))

    def product(self, items: list) -> Expression:
        return _chain(items)

    def interaction(self, items: list) -> Expression:
        joined = [items[0]]
        for item in items[1:]:
            joined += [":", item]
        return _chain(joined)

    def power(self, items: list) -> Expression:
        if len(items) == 1:
            return items[0]
        return Operation("**", items[0], items[2], position_of(items[0]))

    def signed(self, items: list) -> Expression:
        *sign, value = items
        if sign == ["-"]:
            return Sum((value,), ("-",), _token_start(sign[0]))
        return value

    def call(self, items: list) -> Expression:
        name, *arguments = items
        positional = tuple(a for a in arguments if isinstance(a, Expression))
        options = tuple(a for a in arguments if isinstance(a, tuple))
        own = "C" if str(name) in _FACTORS else str(name)
        if own == "C" and len(positional) == 2:  # as R and patsy write contrasts
            positional, options = positional[:1], (*options, ("contrast", positional[1]))
        return Function(own, positional, options, _token_start(name))

    def option(self, items: list) -> tuple[str, Expression]:
        return str(items[0]), items[1]

    def sequence(self, items: list) -> Expression:
        return Sequence(tuple(i for i in items if i is not None))

    def name(self, items: list) -> Expression:
        return Column(str(items[0]).strip("`"), _token_start(items[0]))

    def all(self, items: list) -> Expression:
        return AllColumns(_token_start(items[0]))

    def number(self, items: list) -> Expression:
        value = float(items[0])
        if value == float("inf"):
            raise FormulaError(f"the number {items[0]} is too large")
        return Number(value, _token_start(items[0]))

    def string(self, items: list) -> Expression:
        token = str(items[0])
        return Text(token[1:-1], _token_start(items[0]), token[0])


def _chain(items: list) -> Expression:
    """Left-associative operations from a list of operand, operator, operand, ..."""
    left, *rest = items
    if len(rest) > 2 * MAX_DEPTH:
        raise FormulaError(f"at most {MAX_DEPTH} names can be joined by ':', '*' or '/' at once")
    for operator, right in zip(rest[::2], rest[1::2], strict=True):
        left = Operation(str(operator), left, right, position_of(left))
    return left


def _token_start(token: lark.Token) -> int:
    return token.start_pos or 0


def position_of(node: object) -> int:
    """Index in the formula's text at which a node or term starts."""
    return getattr(node, "position", 0)


def error_at(text: str, node: object, message: str) -> FormulaError:
    """An error with a caret under the place in the formula's text where a node or term starts."""
    return FormulaError.at(text, position_of(node), message)
