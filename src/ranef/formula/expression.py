"""Expressions of columns, as the parser leaves them: names, numbers, functions, arithmetic.

`str(expression)` is its canonical text, which names coefficients; two expressions are
equal when their texts are. What an expression evaluates to is ``ranef.formula.transforms``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

# Between two sides of which one may be a text: 1 where it holds, else 0.
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")


@dataclass(frozen=True)
class Expression:
    """Base of the nodes; `position` is where in the formula's text it starts."""

    def children(self) -> tuple["Expression", ...]:
        return ()

    def walk(self) -> Iterator["Expression"]:
        """This node and all below it."""
        yield self
        for child in self.children():
            yield from child.walk()

    def columns(self) -> tuple[str, ...]:
        """Names of the columns it reads, each once, in order."""
        names = (node.name for node in self.walk() if isinstance(node, Column))
        return tuple(dict.fromkeys(names))

    def columns_by_use(self) -> tuple[set[str], set[str]]:
        """The columns it reads as numbers, and those whose levels it compares with a text."""
        texts: set[str] = set()
        numbers: set[str] = set()
        waiting: list[Expression] = [self]
        while waiting:
            node = waiting.pop()
            if isinstance(node, Column):
                numbers.add(node.name)
            elif isinstance(node, Operation) and node.compares_text:
                texts.update(node.columns())
            else:
                waiting += node.children()
        return numbers, texts


@dataclass(frozen=True)
class Column(Expression):
    name: str
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Number(Expression):
    value: float
    position: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.value:.15g}"


@dataclass(frozen=True)
class Text(Expression):
    """A text in quotes; `quote` is the sign that the formula has for them."""

    value: str
    position: int = field(default=0, compare=False)
    quote: str = field(default="'", compare=False)

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Sequence(Expression):
    items: tuple[Expression, ...]
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return self.items

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"


@dataclass(frozen=True)
class Sum(Expression):
    """Signed operands, as in `a + b - 1`; a lone `-a` is a sum of one."""

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
    """`left operator right`; the operator is one of * / ** : | || or a comparison."""

    operator: str
    left: Expression
    right: Expression
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return (self.left, self.right)

    @property
    def compares_text(self) -> bool:
        """Whether it compares the levels of a column with a text."""
        either = isinstance(self.left, Text) or isinstance(self.right, Text)
        return self.operator in COMPARISONS and either

    def __str__(self) -> str:
        if self.operator in COMPARISONS:
            sides = (
                f"{side.quote}{side.value}{side.quote}" if isinstance(side, Text) else str(side)
                for side in (self.left, self.right)
            )
            return f" {self.operator} ".join(sides)
        tight = self.operator in ("**", ":")
        space = "" if tight else " "
        sides = (
            f"({side})" if isinstance(side, (Operation, Sum)) else str(side)
            for side in (self.left, self.right)
        )
        return f"{space}{self.operator}{space}".join(sides)


@dataclass(frozen=True)
class Function(Expression):
    name: str
    arguments: tuple[Expression, ...]
    options: tuple[tuple[str, Expression], ...] = ()
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return self.arguments

    def __str__(self) -> str:
        shown = [str(a) for a in self.arguments]
        if self.name == "C":  # how its levels are coded is no part of its name
            return f"C({', '.join(shown)})"
        shown += [f"{name}={value}" for name, value in self.options]
        return f"{self.name}({', '.join(shown)})"
