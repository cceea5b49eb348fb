"""`Formula`: a model formula in Wilkinson notation (Wilkinson and Rogers, 1973).

    response ~ term + term + ...  [; parameter ~ term + ...]

``ranef.formula.grammar`` parses the text to expressions; this module expands operators such as
`*` to terms. Names refer to columns of the table only. Columns and their interactions are common
effects (fixed effects); group effects (random effects) are written with `|` and `||` as in lme4.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from ranef import registry
from ranef.errors import FormulaError, suggestion
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
from ranef.formula.grammar import parse_parts, position_of
from ranef.formula.imputation_models import ColumnModel, column_models, modelled

# Largest number of terms of a formula.
MAX_TERMS = 1_000

# Functions of columns that a formula may call.
COLUMN_FUNCTIONS = (
    *("log", "log10", "log2", "log1p", "exp", "expm1", "sqrt", "abs"),
    *("scale", "center", "poly", "I", "C"),
)

# Options of C(): the reference level, and all levels in order.
_CODING = ("ref", "levels")

# Expressions whose columns are multiplied, as in an interaction; () is the intercept.
Product = tuple[Expression, ...]
# The value of an option of a term.
Literal: TypeAlias = "int | float | str | bool | None | list[Literal]"


@dataclass(frozen=True)
class TermCall:
    """A term as written in a formula.

    Attributes:
        kind: name of the term in the registry, such as "common", "group" or "nn".
        label: canonical text, unique within a predictor.
        arguments: the products (kinds common and group) or expressions (all other kinds) that the
            term is called on.
        options: values of keyword arguments; for group effects `factor` and `correlated`.
        position: index in the formula's text at which the term starts.
    """

    kind: str
    label: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    position: int = field(default=0, compare=False)

    def expressions(self) -> tuple[Expression, ...]:
        """All expressions that the term reads, those in products included."""
        flat: list[Expression] = []
        for argument in self.arguments:
            flat.extend((argument,) if isinstance(argument, Expression) else argument)
        return tuple(flat)


# The terms of a predictor that is an intercept alone.
_CONSTANT = (TermCall("common", "common", ((),)),)


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


@dataclass(frozen=True)
class Formula:
    """A parsed formula.

    Attributes:
        text: the formula as the user wrote it.
        response: left side of the first part.
        predictors: terms of each family parameter in order; the key "" is the first part, which
            predicts the location.
        columns: model of each column in mi(), whose missing values are imputed.
    """

    text: str
    response: ResponseCall
    predictors: Mapping[str, tuple[TermCall, ...]]
    columns: Mapping[str, ColumnModel] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> "Formula":
        """Parse `text`.

        Raises:
            FormulaError: for a text that is not a formula, an unknown function or term, or a
                formula above the size limits. A caret marks the place in the text.
        """
        if not isinstance(text, str):
            raise FormulaError(f"a formula is a text such as 'y ~ x', not {type(text).__name__}")
        parts = parse_parts(text)
        (response, terms), *others = parts
        predictors = {"": _predictor(terms, text)}
        models: dict[str, tuple[Function, tuple[TermCall, ...]]] = {}
        for left, right in others:
            if isinstance(left, Function) and registry.models_column(left.name):
                column = modelled(left, text)
                if column in models:
                    raise _fail(text, left, f"{column!r} has two predictors")
                models[column] = left, _predictor(right, text)
                continue
            name = _parameter_name(left, text)
            if name in predictors:
                raise FormulaError.at(text, position_of(left), f"{name!r} has two predictors")
            predictors[name] = _predictor(right, text)
        columns = column_models(predictors, models, _CONSTANT, text)
        formula = cls(text, _response(response, text), MappingProxyType(predictors), columns)
        _refuse_homonyms(formula)
        return formula

    def calls(self) -> Iterator[TermCall]:
        """All terms, including those of the models of columns."""
        for terms in self.predictors.values():
            yield from terms
        for model in self.columns.values():
            yield from model.predictor


def _refuse_homonyms(formula: Formula) -> None:
    """Refuse different expressions with equal texts, as log(w) and a column named "log(w)".

    Raises:
        FormulaError: naming the text.
    """
    seen: dict[str, Expression] = {}
    for term in formula.calls():
        for expression in term.expressions():
            known = seen.setdefault(str(expression), expression)
            if known != expression and isinstance(known, type(expression)):
                raise _fail(
                    formula.text,
                    expression,
                    f"{expression} is coded in two ways; give it one ref and one list of levels",
                )
            if known != expression:
                raise _fail(
                    formula.text,
                    expression,
                    f"a column and a function are both written {expression}; rename the column",
                )


def _fail(text: str, node: Expression | TermCall, message: str) -> FormulaError:
    return FormulaError.at(text, position_of(node), message)


def _response(left: Expression, text: str) -> ResponseCall:
    """The left side of the first part."""
    if isinstance(left, Operation) and left.operator == "/":
        call = ResponseCall(left.left, "trials", left.right)
    elif isinstance(left, Function) and left.name == "cbind":
        call = _successes_and_failures(left, text)
    elif isinstance(left, Function) and left.name in registry.TERMS:
        raise _fail(text, left, f"{left.name}() cannot stand on the left side")
    elif isinstance(left, Function) and left.name in ("se", "weights"):
        if len(left.arguments) != 2 or left.options:
            raise _fail(text, left, f"{left.name}() takes the response and one column")
        call = ResponseCall(left.arguments[0], left.name, left.arguments[1])
    else:
        call = ResponseCall(left)
    for side in (call.value, call.companion):
        if side is not None:
            _check_column_expression(side, text)
            if isinstance(side, Function) and side.name in ("poly", "C"):
                raise _fail(text, side, f"{side.name}() cannot stand on the left side")
    if not call.value.columns():
        raise _fail(text, left, "the left side of the formula must name a column")
    return call


def _successes_and_failures(left: Function, text: str) -> ResponseCall:
    """`cbind(s, f)` as in R: s successes among s + f trials."""
    if len(left.arguments) != 2 or left.options:
        raise _fail(text, left, "cbind() takes two columns, successes and failures")
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


def _parameter_name(left: Expression, text: str) -> str:
    """The family parameter that a further part predicts, as in `sigma ~ x`."""
    if isinstance(left, Column):
        return left.name
    raise _fail(text, left, "a further part must be written 'parameter ~ terms'")


def _predictor(right: Expression, text: str) -> tuple[TermCall, ...]:
    """The terms of one right side, with all common effects gathered in one term."""
    expansion = _expand(right, text)
    products = [p for p in expansion.products if p]
    terms: list[TermCall] = []
    if products or expansion.intercept is not False:
        # The intercept is there unless the formula removes it.
        intercept = [] if expansion.intercept is False else [()]
        ordered = tuple(intercept + sorted(products, key=len))
        terms.append(TermCall("common", "common", ordered, position=position_of(right)))
    terms += expansion.terms
    seen: dict[str, TermCall] = {}
    for term in terms:
        if term.label in seen:
            raise _fail(text, term, f"the term {term.label} appears twice")
        seen[term.label] = term
    if not terms:
        raise _fail(text, right, "the right side has no term left")
    return tuple(terms)


@dataclass
class _Expansion:
    """Expansion of an expression in Wilkinson notation.

    Attributes:
        products: products of columns, the common effects.
        terms: other terms.
        intercept: whether there is an intercept; None if the expression does not say.
    """

    products: list[Product] = field(default_factory=list)
    terms: list[TermCall] = field(default_factory=list)
    intercept: bool | None = None

    def add(self, other: "_Expansion") -> None:
        """`+ other`: products that are present already are not repeated."""
        for product in other.products:
            if not any(_same(product, p) for p in self.products):
                self.products.append(product)
        self.terms += other.terms
        if other.intercept is not None:
            self.intercept = other.intercept

    def remove(self, other: "_Expansion") -> None:
        """`- other`."""
        self.products = [p for p in self.products if not any(_same(p, o) for o in other.products)]
        removed = {term.label for term in other.terms}
        self.terms = [t for t in self.terms if t.label not in removed]
        if other.intercept is not None:
            self.intercept = not other.intercept


def _same(a: Product, b: Product) -> bool:
    """Whether two products have the same factors, in any order."""
    return set(a) == set(b)


def _expand(node: Expression, text: str) -> _Expansion:
    """The products, terms and intercept that an expression on the right side stands for."""
    if isinstance(node, Sum):
        out = _Expansion()
        for sign, operand in zip(node.signs, node.operands, strict=True):
            part = _expand(operand, text)
            out.add(part) if sign == "+" else out.remove(part)
            if len(out.products) + len(out.terms) > MAX_TERMS:
                raise _fail(text, operand, f"the formula has more than {MAX_TERMS} terms")
        return out
    if isinstance(node, Number):
        if node.value not in (0.0, 1.0):
            raise _fail(text, node, f"{node} is not a term: only 1 (intercept) and 0 (none) are")
        return _Expansion(intercept=node.value == 1.0)
    if isinstance(node, Column):
        return _Expansion(products=[(node,)])
    if isinstance(node, Function):
        return _expand_function(node, text)
    if isinstance(node, Operation):
        if node.operator in COMPARISONS:
            raise _fail(text, node, f"write the comparison in I(), as in I({node})")
        if node.operator in ("|", "||"):
            return _Expansion(terms=_group_terms(node, text))
        return _expand_operation(node, text)
    raise _fail(text, node, f"{node} is not a term: expected a column, a function or a group")


def _expand_function(node: Function, text: str) -> _Expansion:
    """A call of a term, such as nn(x), or of a function of columns, such as log(x)."""
    if node.name in registry.NOTATION:
        raise _fail(text, node, f"{node.name}() cannot be called; write it with + and |")
    if node.name in registry.TERMS:
        term = registry.load("term", node.name)
        for argument in node.arguments:
            _check_column_expression(argument, text)
            is_factor = isinstance(argument, Function) and argument.name == "C"
            if is_factor and not term.takes_factors:
                raise _fail(text, argument, f"{node.name}() takes numbers, not a factor")
        if term.models_column:
            modelled(node, text)
        options = {name: _literal(value, text) for name, value in node.options}
        if len(options) < len(node.options):
            raise _fail(text, node, f"an option of {node.name}() is given twice")
        call = TermCall(node.name, str(node), node.arguments, options, node.position)
        lines = node.arguments if term.adds_lines else ()
        return _Expansion([(line,) for line in lines], [call])
    _check_column_expression(node, text)
    return _Expansion(products=[(node,)])


def _check_column_expression(node: Expression, text: str) -> None:
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
                raise _fail(text, part, f"there is no function {part.name}(); {hint}")
            if part.name in ("poly", "C") and part is not node:
                raise _fail(text, part, f"{part.name}() must stand by itself, not inside {node}")
            if part.name == "C" and part.arguments:
                coding_of(part, text)
            elif part.options or not part.arguments:
                raise _fail(text, part, f"{part.name}() takes a column and no named options")
        elif isinstance(part, Operation) and part.operator in ("|", "||", ":"):
            raise _fail(text, part, f"'{part.operator}' cannot stand inside a function")
        elif isinstance(part, Operation) and part.operator in COMPARISONS:
            if not (isinstance(node, Function) and node.name == "I"):
                raise _fail(text, part, f"write the comparison in I(), as in I({part})")
            compared += [side for side in part.children() if isinstance(side, Text)]
        elif isinstance(part, (Text, Sequence)) and not any(part is side for side in compared):
            raise _fail(text, part, f"{part} cannot stand where a column is expected")


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
        raise _fail(text, call, f"C() has no option {unknown!r}; it takes ref and levels")
    given = {name: _literal(value, text) for name, value in call.options}
    levels = given.get("levels", [])
    if not isinstance(levels, list) or ("levels" in given and len(levels) < 2):
        raise _fail(text, call, 'C(levels=...) must list the levels, as in levels=["a", "b"]')
    named = tuple(_level(value) for value in levels)
    ref = _level(given["ref"]) if "ref" in given else None
    if isinstance(given.get("ref"), list):
        raise _fail(text, call, 'C(ref=...) must be one level, as in ref="a"')
    if len(set(named)) < len(named):
        raise _fail(text, call, "C(levels=...) names a level twice")
    if ref is not None and named and ref not in named:
        raise _fail(text, call, f"C(ref={ref!r}) is none of its levels")
    return ref, named


def _level(value: Literal) -> str:
    """The name of a level in a table: "1" for the number 1, "True" for true."""
    return repr(value) if isinstance(value, float) else str(value)


def _expand_operation(node: Operation, text: str) -> _Expansion:
    """`a * b` is a + b + a:b; `(a + b) ** k` has all products of at most k factors."""
    left = _expand(node.left, text)
    if node.operator == "**":
        right = node.right
        power = right.value if isinstance(right, Number) else 0
        if power != int(power) or not 1 <= power <= 8:
            raise _fail(text, node, "the power of a sum of terms must be a whole number, 1 to 8")
        out = left
        for _ in range(int(power) - 1):
            crossed = _cross(out, left, node, text)
            out.add(crossed)
        return out
    right = _expand(node.right, text)
    if node.operator == ":":
        return _cross(left, right, node, text)
    out = _Expansion(list(left.products), [], left.intercept)
    if node.operator == "*":
        out.add(_Expansion(right.products))
        out.add(_cross(left, right, node, text))
    else:  # a / b is a + a:b; with several products in a, the interaction joins all their columns
        whole = _Expansion([_merge(left.products)]) if left.products else left
        out.add(_cross(whole, right, node, text))
    return out


def _merge(products: list[Product]) -> Product:
    """The product of all products, with each expression once."""
    unique: dict[str, Expression] = {}
    for expression in (e for product in products for e in product):
        unique.setdefault(str(expression), expression)
    return tuple(unique.values())


def _cross(left: _Expansion, right: _Expansion, node: Operation, text: str) -> _Expansion:
    """The interactions `left:right`: each product of the left with each of the right."""
    if left.terms or right.terms:
        term = (left.terms + right.terms)[0]
        raise _fail(text, node, f"{term.label} cannot be part of an interaction")
    if not left.products or not right.products:
        raise _fail(text, node, f"'{node.operator}' needs a column on both sides")
    if len(left.products) * len(right.products) > MAX_TERMS:
        raise _fail(text, node, f"this makes more than {MAX_TERMS} terms")
    out = _Expansion()
    out.add(_Expansion([_merge([a, b]) for a in left.products for b in right.products]))
    return out


def _group_terms(node: Operation, text: str) -> list[TermCall]:
    """The group effects of `(1 + x | g)`: one term for each grouping right of the bar."""
    inner = _expand(node.left, text)
    if inner.terms:
        raise _fail(text, node.left, f"{inner.terms[0].label} cannot stand left of a bar")
    intercept = [] if inner.intercept is False else [()]
    products = tuple(intercept + sorted((p for p in inner.products if p), key=len))
    if not products:
        raise _fail(text, node, "nothing varies by group here: write (1 | g) or (x | g)")
    outer = _expand(node.right, text)
    if outer.terms or not outer.products:
        raise _fail(text, node.right, "right of the bar must stand grouping columns")
    correlated = node.operator == "|"
    calls = []
    for factor in outer.products:
        for part in factor:
            if not isinstance(part, Column):
                raise _fail(text, part, f"the grouping {part} must be a column, not an expression")
        names = tuple(str(part) for part in factor)
        left = " + ".join("1" if not p else ":".join(map(str, p)) for p in products)
        label = f"{left} {node.operator} {':'.join(names)}"
        options = {"factor": names, "correlated": correlated}
        calls.append(TermCall("group", label, products, options, node.position))
    return calls


def _number(node: Number) -> int | float:
    """The value of a number, as an int if it is whole."""
    return int(node.value) if node.value == int(node.value) else node.value


def _literal(node: Expression, text: str) -> Literal:
    """The value of an option: a number, text, True, False, None, name without quotes, or list."""
    if isinstance(node, Number):
        return _number(node)
    if isinstance(node, Text):
        return node.value
    if isinstance(node, Column):
        return {"True": True, "False": False, "None": None}.get(node.name, node.name)
    if isinstance(node, Sequence):
        return [_literal(item, text) for item in node.items]
    if isinstance(node, Function) and node.name == "c" and not node.options:  # as R lists
        return [_literal(item, text) for item in node.arguments]
    if isinstance(node, Sum) and node.signs == ("-",) and isinstance(node.operands[0], Number):
        return -_number(node.operands[0])
    raise _fail(text, node, f"{node} is not a value: expected a number, a text, a name or a list")
