"""Models of columns with missing values, from the terms mi(x) and parts mi(x) ~ z of a formula."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ranef import registry
from ranef.errors import FormulaError
from ranef.formula.expression import Column, Expression, Function, Text
from ranef.formula.grammar import error_at
from ranef.formula.term_call import TermCall


@dataclass(frozen=True)
class ColumnModel:
    """Model of a column with missing values.

    Attributes:
        family: name of the family of its values.
        predictor: terms of the predictor of their location.
    """

    family: str
    predictor: tuple[TermCall, ...]


def modelled(call: Function, text: str) -> str:
    """Name of the column x in mi(x) or mi(x, family=...).

    Raises:
        FormulaError: for other arguments or options.
    """
    if len(call.arguments) != 1 or not isinstance(call.arguments[0], Column):
        raise error_at(
            text,
            call,
            f"{call.name}() takes one column by its name; put what is computed of it into a column "
            "of the table",
        )
    unknown = [name for name, _ in call.options if name != "family"]
    if unknown:
        raise error_at(text, call, f"{call.name}() has no option {unknown[0]!r}; it has family")
    return call.arguments[0].name


def column_models(
    predictors: Mapping[str, tuple[TermCall, ...]],
    models: Mapping[str, tuple[Function, tuple[TermCall, ...]]],
    constant: tuple[TermCall, ...],
    text: str,
) -> Mapping[str, ColumnModel]:
    """The model of every column in mi(), ordered so that each follows its predictors.

    Args:
        predictors: terms of each family parameter of the response.
        models: for each column with a part of its own, the left side and the terms of that part.
        constant: terms for columns without a part.
        text: the formula, for messages.

    Returns:
        the models by name of the column; the family is gaussian unless the formula names another.

    Raises:
        FormulaError: for a part of a column without a term mi(), two families for one column, and
            columns that predict each other or themselves.
    """
    everywhere = [*predictors.values(), *(terms for _, terms in models.values())]
    families: dict[str, set[str]] = {}
    for call in (c for terms in everywhere for c in terms if registry.models_column(c.kind)):
        own = families.setdefault(call.arguments[0].name, set())
        own.update(str(value) for value in call.options.values())
    for column, (left, _) in models.items():
        if column not in families:
            raise error_at(text, left, f"no term {left.name}({column}) is there to take this model")
        families[column].update(_name(value) for _, value in left.options)
    out: dict[str, ColumnModel] = {}
    for column, named in families.items():
        if len(named) > 1:
            listed = " and ".join(sorted(named))
            raise FormulaError(f"mi({column}) is given two families, {listed}; leave one out")
        terms = models[column][1] if column in models else constant
        out[column] = ColumnModel(next(iter(named), "gaussian"), terms)
    return MappingProxyType({column: out[column] for column in _in_order(out)})


def _in_order(models: Mapping[str, ColumnModel]) -> list[str]:
    """The columns in topological order, each after those that predict it.

    Raises:
        FormulaError: for columns that predict each other or themselves.
    """
    needed = {
        column: {
            call.arguments[0].name for call in model.predictor if registry.models_column(call.kind)
        }
        for column, model in models.items()
    }
    out: list[str] = []
    while len(out) < len(models):
        free = [c for c in models if c not in out and needed[c] <= set(out)]
        if not free:
            circle = " and ".join(f"mi({c})" for c in models if c not in out)
            raise FormulaError(
                f"{circle} are predicted by each other or themselves; take one out of the other's "
                "model"
            )
        out += free
    return out


def _name(value: Expression) -> str:
    """The name of a family, with or without quotes in the formula."""
    return value.value if isinstance(value, Text) else str(value)
