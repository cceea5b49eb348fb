"""`Formula`: a model formula in Wilkinson notation (Wilkinson and Rogers, 1973).

    response ~ term + term + ...  [; parameter ~ term + ...]

``ranef.formula.grammar`` parses the text to expressions, and ``ranef.formula.expansion`` expands
operators such as `*` to terms. Names refer to columns of the table only. Columns and their
interactions are common effects (fixed effects); group effects (random effects) are written with
`|` and `||` as in lme4. A dot stands for all other columns of the table, which
``ranef.formula.all_columns`` writes out once the table is known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ranef import registry
from ranef.errors import FormulaError
from ranef.formula.all_columns import written_out
from ranef.formula.expansion import predictor_terms
from ranef.formula.expression import (
    AllColumns,
    Column,
    Expression,
    Function,
)
from ranef.formula.grammar import error_at, parse_parts, position_of
from ranef.formula.imputation_models import ColumnModel, column_models, modelled
from ranef.formula.response import ResponseCall, response_call
from ranef.formula.term_call import TermCall

# The terms of a predictor that is an intercept alone.
_CONSTANT = (TermCall("common", "common", ((),)),)


@dataclass(frozen=True)
class Formula:
    """A parsed formula.

    Attributes:
        text: the formula as the user wrote it.
        response: left side of the first part.
        predictors: terms of each family parameter in order; the key "" is the first part, which
            predicts the location.
        columns: model of each column in mi(), whose missing values are imputed.
        dots: places in the text where a dot stands for all other columns of the table.
    """

    text: str
    response: ResponseCall
    predictors: Mapping[str, tuple[TermCall, ...]]
    columns: Mapping[str, ColumnModel] = field(default_factory=lambda: MappingProxyType({}))
    dots: tuple[int, ...] = ()

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
        predictors = {"": predictor_terms(terms, text)}
        models: dict[str, tuple[Function, tuple[TermCall, ...]]] = {}
        for left, right in others:
            if isinstance(left, Function) and registry.models_column(left.name):
                column = modelled(left, text)
                if column in models:
                    raise error_at(text, left, f"{column!r} has two predictors")
                models[column] = left, predictor_terms(right, text)
                continue
            name = _parameter_name(left, text)
            if name in predictors:
                raise FormulaError.at(text, position_of(left), f"{name!r} has two predictors")
            predictors[name] = predictor_terms(right, text)
        columns = column_models(predictors, models, _CONSTANT, text)
        sides = (side for part in parts for side in part)
        dots = (n.position for side in sides for n in side.walk() if isinstance(n, AllColumns))
        call, by_name = response_call(response, text), MappingProxyType(predictors)
        formula = cls(text, call, by_name, columns, tuple(dots))
        _refuse_homonyms(formula)
        return formula

    def with_columns(self, names: Sequence[str]) -> "Formula":
        """The formula with each dot written out.

        A dot stands for all columns of the table but those on a left side, the groupings, and
        those in terms such as s(x), nn(x) or offset(x).

        Args:
            names: the columns of the table, in order.

        Raises:
            FormulaError: if no column is left for the dot, or too many are.
        """
        if not self.dots:
            return self
        left = [self.response.value, self.response.companion]
        taken = {name for side in left if side is not None for name in side.columns()}
        taken |= set(self.columns)
        for call in self.calls():
            taken.update(call.options.get("factor", ()))
            if call.kind not in ("common", "group"):
                taken.update(name for e in call.expressions() for name in e.columns())
        others = [name for name in names if name not in taken]
        return Formula.parse(written_out(self.text, self.dots, others))

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
                raise error_at(
                    formula.text,
                    expression,
                    f"{expression} is coded in two ways; give it one ref, levels and contrast",
                )
            if known != expression:
                raise error_at(
                    formula.text,
                    expression,
                    f"a column and a function are both written {expression}; rename the column",
                )


def _parameter_name(left: Expression, text: str) -> str:
    """The family parameter that a further part predicts, as in `sigma ~ x`."""
    if isinstance(left, Column):
        return left.name
    raise error_at(text, left, "a further part must be written 'parameter ~ terms'")
