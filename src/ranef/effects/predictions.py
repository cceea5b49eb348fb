"""Predictions of the response's mean, by row or averaged."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ranef.data.row_labels import Table
from ranef.effects.columns import Predictors, listed, posterior_of, repeated
from ranef.effects.contrasts import Variables, named
from ranef.effects.estimation import Request, averaged, by_unit, scale_words
from ranef.effects.grids import default_values, values_of
from ranef.effects.table import Settings
from ranef.effects.variants import Estimand, Quantity, constant
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups

if TYPE_CHECKING:
    from ranef.fit import Fit


def predictions(
    fit: Fit,
    variables: Variables = None,
    newdata: object = None,
    by: object = None,
    hypothesis: object = None,
    groups: Groups = "all",
    interval: float = 0.95,
    *,
    type: str = "response",
    new_levels: NewLevels = "error",
    weights: str | None = None,
    rope: tuple[float, float] | None = None,
    seed: int = 0,
) -> Table:
    """Predictions of the response's mean, at each row of `newdata`.

        E[y_i | draw s] for every row i and draw s

    Args:
        fit: the fit.
        variables: columns that are set to representative values in all rows: a name, a list, or a
            dict of name to values as in `datagrid`. By default a numeric column is set to its
            minimum, quartiles and maximum, and a factor to each of its levels. None leaves the
            rows as they are.
        newdata: as for `avg_comparisons`.
        by: as for `avg_comparisons`.
        hypothesis: as for `avg_comparisons`.
        groups: as for `avg_comparisons`.
        interval: as for `avg_comparisons`.
        type: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        weights: as for `avg_comparisons`.
        rope: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.

    Returns:
        A table with a row for each row of `newdata`, or for each average where `by` is given,
        and the columns rowid (position of the row, from 0) or those of `by`, group (the category,
        for responses with categories), estimate, lower and upper, followed by the predictors of
        the row.

    Raises:
        ColumnError, DataError, OptionError, FormulaError: as for `avg_comparisons`.
    """
    request = Request(
        *(fit, newdata, by, weights, groups, new_levels, seed, type, hypothesis),
        Settings(interval, rope),
        scale_words(fit, type),
    )
    rows = request.rows()
    estimands = _set(Predictors(posterior_of(fit)), variables)
    if by is None or by is False:
        return by_unit(request, rows, estimands)
    return averaged(request, rows, estimands)


def avg_predictions(
    fit: Fit,
    variables: Variables = None,
    newdata: object = None,
    by: object = None,
    hypothesis: object = None,
    groups: Groups = "all",
    interval: float = 0.95,
    *,
    type: str = "response",
    new_levels: NewLevels = "error",
    weights: str | None = None,
    rope: tuple[float, float] | None = None,
    seed: int = 0,
) -> Table:
    """Average predictions: means of `predictions` over rows, at every draw.

        (1/n) sum_i E[y_i | draw s]

    Args:
        fit: the fit.
        variables: as for `predictions`; the average is over all rows with these values.
        newdata: as for `avg_comparisons`.
        by: as for `avg_comparisons`.
        hypothesis: as for `avg_comparisons`.
        groups: as for `avg_comparisons`.
        interval: as for `avg_comparisons`.
        type: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        weights: as for `avg_comparisons`.
        rope: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.

    Returns:
        A table with a row for each average: the values of `variables`, group, the columns of
        `by`, estimate, lower and upper.

    Raises:
        ColumnError, DataError, OptionError, FormulaError: as for `avg_comparisons`.
    """
    by = True if by is None or by is False else by
    return predictions(
        *(fit, variables, newdata, by, hypothesis, groups, interval),
        type=type,
        new_levels=new_levels,
        weights=weights,
        rope=rope,
        seed=seed,
    )


def _set(predictors: Predictors, variables: Variables) -> list[Estimand]:
    """Rows as they are, or with columns set to all combinations of values."""
    if variables is None:
        return [Estimand({}, Quantity())]
    values = {
        name: default_values(predictors, name)
        if asked is None
        else values_of(predictors, name, asked)
        for name, asked in named(predictors, variables).items()
    }
    out = []
    for places in product(*(range(len(column)) for column in values.values())):
        chosen = {
            name: repeated(column, np.array([place]))
            for (name, column), place in zip(values.items(), places, strict=True)
        }
        # Values that are set identify the rows of the table.
        names = {name: listed(value)[0] for name, value in chosen.items()}
        out.append(Estimand(names, Quantity((constant(chosen),))))
    return out
