"""Expands the right side of a formula in Wilkinson notation to terms.

Operators such as `*` and `**` become products of columns (Wilkinson and Rogers, 1973). All common
effects of a predictor are gathered in one term.
"""

from dataclasses import dataclass, field

from ranef import habits, registry
from ranef.formula.column_expressions import check_column_expression
from ranef.formula.expression import (
    COMPARISONS,
    AllColumns,
    Column,
    Expression,
    Function,
    Negation,
    Number,
    Operation,
    Sum,
)
from ranef.formula.grammar import error_at, position_of
from ranef.formula.imputation_models import modelled
from ranef.formula.literals import literal
from ranef.formula.term_call import Product, TermCall

# Largest number of terms of a formula.
MAX_TERMS = 1_000


def predictor_terms(right: Expression, text: str) -> tuple[TermCall, ...]:
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
            raise error_at(text, term, f"the term {term.label} appears twice")
        seen[term.label] = term
    if not terms:
        raise error_at(text, right, "the right side has no term left")
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
                raise error_at(text, operand, f"the formula has more than {MAX_TERMS} terms")
        return out
    if isinstance(node, Number):
        if node.value not in (0.0, 1.0):
            raise error_at(text, node, f"{node} is not a term: only 1 (intercept) and 0 (none) are")
        return _Expansion(intercept=node.value == 1.0)
    if isinstance(node, (Column, AllColumns)):
        return _Expansion(products=[(node,)])
    if isinstance(node, Negation):
        raise error_at(text, node, f"write the condition in I(), as in I({node})")
    if isinstance(node, Function):
        return _expand_function(node, text)
    if isinstance(node, Operation):
        if node.operator in COMPARISONS:
            raise error_at(text, node, f"write the comparison in I(), as in I({node})")
        if node.operator == "&":
            raise error_at(text, node, f"write the condition in I(), as in I({node})")
        if node.operator in ("|", "||"):
            return _Expansion(terms=_group_terms(node, text))
        return _expand_operation(node, text)
    raise error_at(text, node, f"{node} is not a term: expected a column, a function or a group")


def _expand_function(node: Function, text: str) -> _Expansion:
    """A call of a term, such as nn(x), or of a function of columns, such as log(x)."""
    if node.name in registry.NOTATION:
        raise error_at(text, node, f"{node.name}() cannot be called; write it with + and |")
    if node.name in registry.TERMS:
        term = registry.load("term", node.name)
        for argument in node.arguments:
            check_column_expression(argument, text)
            is_factor = isinstance(argument, Function) and argument.name == "C"
            if is_factor and not term.takes_factors:
                raise error_at(text, argument, f"{node.name}() takes numbers, not a factor")
        if term.models_column:
            modelled(node, text)
        options = {name: literal(value, text) for name, value in node.options}
        if len(options) < len(node.options):
            raise error_at(text, node, f"an option of {node.name}() is given twice")
        call = TermCall(node.name, str(node), node.arguments, options, node.position)
        lines = node.arguments if term.adds_lines else ()
        return _Expansion([(line,) for line in lines], [call])
    check_column_expression(node, text)
    return _Expansion(products=[(node,)])


def _expand_operation(node: Operation, text: str) -> _Expansion:
    """`a * b` is a + b + a:b; `(a + b) ** k` has all products of at most k factors."""
    left = _expand(node.left, text)
    if node.operator == "**":
        right = node.right
        power = right.value if isinstance(right, Number) else 0
        if power != int(power) or not 1 <= power <= 8:
            raise error_at(text, node, "the power of a sum of terms must be a whole number, 1 to 8")
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
        raise error_at(text, node, f"{term.label} cannot be part of an interaction")
    if not left.products or not right.products:
        raise error_at(text, node, f"'{node.operator}' needs a column on both sides")
    if len(left.products) * len(right.products) > MAX_TERMS:
        raise error_at(text, node, f"this makes more than {MAX_TERMS} terms")
    out = _Expansion()
    out.add(_Expansion([_merge([a, b]) for a in left.products for b in right.products]))
    return out


def _group_terms(node: Operation, text: str) -> list[TermCall]:
    """The group effects of `(1 + x | g)`: one term for each grouping right of the bar."""
    inner = _expand(node.left, text)
    if inner.terms:
        said = f"{inner.terms[0].label} cannot stand left of a bar"
        if inner.terms[0].kind == "group":
            said += f"; {habits.TWO_BARS}"
        raise error_at(text, node.left, said)
    intercept = [] if inner.intercept is False else [()]
    products = tuple(intercept + sorted((p for p in inner.products if p), key=len))
    if not products:
        raise error_at(text, node, "nothing varies by group here: write (1 | g) or (x | g)")
    outer = _expand(node.right, text)
    if outer.terms or not outer.products:
        raise error_at(text, node.right, "right of the bar must stand grouping columns")
    correlated = node.operator == "|"
    calls = []
    for factor in outer.products:
        for part in factor:
            if not isinstance(part, Column):
                raise error_at(
                    text, part, f"the grouping {part} must be a column, not an expression"
                )
        names = tuple(str(part) for part in factor)
        left = " + ".join("1" if not p else ":".join(map(str, p)) for p in products)
        label = f"{left} {node.operator} {':'.join(names)}"
        options = {"factor": names, "correlated": correlated}
        calls.append(TermCall("group", label, products, options, node.position))
    return calls
