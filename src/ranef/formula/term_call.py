"""`TermCall`: a term as written in a formula, with its arguments and options."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ranef.formula.expression import Expression

# Expressions whose columns are multiplied, as in an interaction; () is the intercept.
Product = tuple[Expression, ...]


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
