"""Syntax trees of expressions: columns, numbers, texts, functions and operations.

`str(expression)` is the canonical text of an expression, by which coefficients are named.
Expressions are equal if their trees are equal, whatever their positions in the formula.
``ranef.formula.transforms`` evaluates them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

# Comparison operators, which give 1 where they hold and 0 elsewhere. One side may be a text.
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")

# Operators that join conditions: both hold, or either does.
JOINED = ("&", "|")


@dataclass(frozen=True)
class Expression:
    """Base class of the nodes; `position` is the index at which a node starts in the formula."""

    def children(self) -> tuple["Expression", ...]:
        """The nodes directly below this one."""
        return ()

    def walk(self) -> Iterator["Expression"]:
        """This node and all nodes below it."""
        yield self
        for child in self.children():
            yield from child.walk()

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the expression reads, each once, in order."""
        names = (node.name for node in self.walk() if isinstance(node, Column))
        return tuple(dict.fromkeys(names))

    def needs(self) -> dict[str, str]:
        """Column to its use: "number", "level" if compared with texts alone, "date" in days()."""
        out: dict[str, str] = {}
        waiting: list[tuple[Expression, str]] = [(self, "number")]
        while waiting:
            node, use = waiting.pop()
            if isinstance(node, Column):
                # A column that is a number in some place must be one.
                out[node.name] = use if out.get(node.name, use) == use else "number"
            elif isinstance(node, Operation) and node.compares_text:
                waiting += [(child, "level") for child in node.children()]
            else:
                own = "date" if isinstance(node, Function) and node.name == "days" else "number"
                waiting += [(child, own) for child in node.children()]
        return {name: out[name] for name in self.columns()}


@dataclass(frozen=True)
class Column(Expression):
    """A column of the table."""

    name: str
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Number(Expression):
    """A number."""

    value: float
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.value:.15g}"


@dataclass(frozen=True)
class Text(Expression):
    """A text in quotes; `quote` is the quotation mark in the formula."""

    value: str
    position: int = field(default=0, compare=False)
    quote: str = field(default="'", compare=False)

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Sequence(Expression):
    """A list in square brackets."""

    items: tuple[Expression, ...]
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return self.items

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True)
class Sum(Expression):
    """A sum of signed operands, as in `a + b - 1`; `-a` alone is a sum of one operand."""

    operands: tuple[Expression, ...]
    signs: tuple[str, ...]
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return self.operands

    def __str__(self) -> str:
        shown = "".join(
            f" {sign} {operand}" for sign, operand in zip(self.signs, self.operands, strict=True)
        )
        return shown[3:] if self.signs[0] == "+" else f"-{shown[3:]}"


@dataclass(frozen=True)
class Operation(Expression):
    """`left operator right`, where the operator is one of * / ** : | || & or a comparison."""

    operator: str
    left: Expression
    right: Expression
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return (self.left, self.right)

    @property
    def compares_text(self) -> bool:
        """Whether it is a comparison with a text."""
        either = isinstance(self.left, Text) or isinstance(self.right, Text)
        return self.operator in COMPARISONS and either

    def __str__(self) -> str:
        if self.operator in JOINED:
            # In a chain of one operator, brackets would only say that it is read from the left.
            chained = isinstance(self.left, Operation) and self.left.operator == self.operator
            left = str(self.left) if chained else _bracketed(self.left)
            return f"{left} {self.operator} {_bracketed(self.right)}"
        if self.operator in COMPARISONS:
            sides = (
                f"{side.quote}{side.value}{side.quote}" if isinstance(side, Text) else str(side)
                for side in (self.left, self.right)
            )
            return f" {self.operator} ".join(sides)
        tight = self.operator in ("**", ":")
        space = "" if tight else " "
        sides = map(_bracketed, (self.left, self.right))
        return f"{space}{self.operator}{space}".join(sides)


def _bracketed(node: Expression) -> str:
    """The text of a node as an operand, in brackets if it has operators itself."""
    return f"({node})" if isinstance(node, (Operation, Sum, Negation)) else str(node)


@dataclass(frozen=True)
class Negation(Expression):
    """`!condition`: 1 where the condition does not hold, and 0 where it does."""

    operand: Expression
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return (self.operand,)

    def __str__(self) -> str:
        return f"!{_bracketed(self.operand)}"


@dataclass(frozen=True)
class AllColumns(Expression):
    """`.`: all columns of the table that have no other part in the formula."""

    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True)
class Function(Expression):
    """A call `name(arguments, option=value)`."""

    name: str
    arguments: tuple[Expression, ...]
    options: tuple[tuple[str, Expression], ...] = ()
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return self.arguments

    def __str__(self) -> str:
        shown = [str(a) for a in self.arguments]
        if self.name == "C":  # coefficient names do not include the coding of the levels
            return f"C({', '.join(shown)})"
        shown += [f"{name}={value}" for name, value in self.options]
        return f"{self.name}({', '.join(shown)})"
