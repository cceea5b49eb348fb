"""The formula of an estimator, with the response that `fit` is given as its left side."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ranef.errors import FormulaError, OptionError
from ranef.formula.expression import Column
from ranef.formula.formula import Formula

# Column that holds the groups which `fit` is given.
GROUPS = "groups"
# Column that holds precision weights which `fit` is given.
WEIGHTS = "sample_weight"

# A name that a formula takes without backticks.
_PLAIN = re.compile(r"\.?[^\W\d][\w.]*")


@dataclass(frozen=True)
class CompletedFormula:
    """A formula whose left side is a column for the response of `fit`.

    Attributes:
        text: the formula.
        response: name of that column.
    """

    text: str
    response: str


def completed(
    formula: str | None,
    columns: Sequence[str],
    groupings: Sequence[str],
    *,
    weighted: bool,
) -> CompletedFormula:
    """The formula of an estimator as `rf.Model` takes it.

    Args:
        formula: the user's formula, with a response or without; None for all columns as common
            effects and an intercept for each level of each grouping.
        columns: names of the columns of X.
        groupings: columns that are groupings if there is no formula.
        weighted: whether the response has precision weights in the column `WEIGHTS`.

    Raises:
        FormulaError: for a formula that does not parse, or a left side that is not one column.
        OptionError: for weights beside se(y, s) or weights(y, w).
    """
    if formula is None:
        common = [quoted(name) for name in columns if name not in groupings]
        varying = [f"(1 | {quoted(name)})" for name in groupings]
        right = " + ".join([*(common or ["1"]), *varying])
        return _joined(_free("y", columns), right, weighted=weighted)
    if not isinstance(formula, str):
        raise FormulaError(f"formula must be a text such as '~ x + (1 | g)', not {formula!r}")
    left, tilde, right = formula.partition("~")
    if not tilde or not left.strip():
        name = _free("y", [*columns, *re.findall(r"\w+", formula)])
        return _joined(name, right if tilde else formula, weighted=weighted)
    response = Formula.parse(formula).response
    if not isinstance(response.value, Column) or response.form == "trials":
        raise FormulaError(
            f"the left side of the formula, {response}, must be a column for the y that fit() is "
            "given; transform y before, as by TransformedTargetRegressor, or leave the side out, "
            "as in '~ x + (1 | g)'"
        )
    if weighted and response.form != "plain":
        raise OptionError(
            f"the formula has {response.form}() on its left side, so leave out sample_weight"
        )
    name = response.value.name
    return _joined(name, right, weighted=True) if weighted else CompletedFormula(formula, name)


def quoted(name: str) -> str:
    """A column's name as formulas write it, in backticks where it needs them.

    Raises:
        FormulaError: for a name with a backtick, which no formula can write.
    """
    if _PLAIN.fullmatch(name):
        return name
    if "`" in name or not name:
        raise FormulaError(
            f"the column {name!r} cannot stand in a formula, because of its backtick or because "
            "its name is empty; rename it"
        )
    return f"`{name}`"


def _joined(name: str, right: str, *, weighted: bool) -> CompletedFormula:
    left = f"weights({quoted(name)}, {WEIGHTS})" if weighted else quoted(name)
    return CompletedFormula(f"{left} ~ {right.strip()}", name)


def _free(name: str, taken: Sequence[str]) -> str:
    """A name that is not among those taken: `name`, with as many "_" behind it as needed."""
    while name in taken:
        name += "_"
    return name
