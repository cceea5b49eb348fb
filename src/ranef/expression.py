"""Expressions of columns, as the parser leaves them: names, numbers, functions, arithmetic.

`str(expression)` is its canonical text, which names coefficients; two expressions are
equal when their texts are. What an expression evaluates to is ``ranef.transforms``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


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
    value: str
    position: int = field(default=0, compare=False)

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
    """`left operator right`; the operator is one of * / ** : | ||."""

    operator: str
    left: Expression
    right: Expression
    position: int = field(default=0, compare=False)

    def children(self) -> tuple[Expression, ...]:
        return (self.left, self.right)

    def __str__(self) -> str:
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
        shown += [f"{name}={value}" for name, value in self.options]
        return f"{self.name}({', '.join(shown)})"
