"""Comparisons of predictions at different values of a predictor, by row or averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ranef.data.row_labels import Table
from ranef.effects.columns import Predictors, posterior_of
from ranef.effects.comparing import comparison_of
from ranef.effects.contrasts import Variables, contrasts_of, named
from ranef.effects.estimation import Request, averaged, by_unit, scale_words
from ranef.effects.table import Settings
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups

if TYPE_CHECKING:
    from ranef.fit import Fit


def comparisons(
    fit: Fit,
    variables: Variables = None,
    newdata: object = None,
    by: object = None,
    comparison: object = "difference",
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
    """Compare predictions at two values of a predictor, at each row of `newdata`.

        f(E[y_i | x = high, z_i], E[y_i | x = low, z_i]) for every row i and draw

    with f the difference, the ratio or another function.

    Args:
        fit: the fit.
        variables: as for `avg_comparisons`.
        newdata: as for `avg_comparisons`.
        by: as for `avg_comparisons`.
        comparison: as for `avg_comparisons`.
        hypothesis: as for `avg_comparisons`.
        groups: as for `avg_comparisons`.
        interval: as for `avg_comparisons`.
        type: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        weights: as for `avg_comparisons`.
        rope: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.

    Returns:
        A table with a row for each contrast and row of `newdata`, or for each average where `by`
        is given, and the columns rowid, term, contrast, group (the category, for responses with
        categories), estimate, lower, upper and pd, followed by the predictors of the row.

    Raises:
        ColumnError, DataError, OptionError, FormulaError: as for `avg_comparisons`.
    """
    function = comparison_of(comparison)
    request = Request(
        *(fit, newdata, by, weights, groups, new_levels, seed, type, hypothesis),
        Settings(interval, rope, function.null),
        f"{function.words} of the {scale_words(fit, type)}",
        function,
    )
    predictors = Predictors(posterior_of(fit))
    rows = request.rows_with(predictors, named(predictors, variables))
    estimands = contrasts_of(predictors, variables, function.label)
    if by is None or by is False:
        return by_unit(request, rows, estimands)
    return averaged(request, rows, estimands)


def avg_comparisons(
    fit: Fit,
    variables: Variables = None,
    newdata: object = None,
    by: object = None,
    comparison: object = "difference",
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
    """Compare average predictions at two values of a predictor (average marginal effects).

        f((1/n) sum_i E[y_i | x = high, z_i], (1/n) sum_i E[y_i | x = low, z_i])

    at every draw. The sides are averaged over rows before they are compared: for differences this
    is the average of the differences, while a ratio is the ratio of averages (as "ratioavg" in
    marginaleffects), the marginal risk ratio.

    Args:
        fit: the fit.
        variables: the predictors: a name, a list of names, None for all but offsets, or a dict
            of name to contrast. For a numeric column the contrast is a number (the column's
            value plus half of it against the value minus half of it; the default is 1), a pair
            of values (second against first), "sd" or "2sd" (a centred change by one or two standard
            deviations), "iqr" (third against first quartile), "minmax", or a function that maps
            the column to a pair of columns, low and high. For a factor it is "reference" (each
            level against the first; the default), "sequential" (against the one before),
            "pairwise", "all" (in both directions), "minmax" (last against first), one of these
            with "rev" before it, or a pair of levels (second against first). For logicals it is
            True against False.
        newdata: the rows: None for the training rows, a table or path, "mean" (one row with each
            number at its mean and each factor at its most common level), "median", "balanced"
            (numbers at their means, all combinations of levels), or a table of
            `rf.effects.datagrid`.
        by: a column of the rows, or several: averages are then taken within each combination of
            their values. True and None average over all rows.
        comparison: "difference", "ratio", "lnratio" (log of the ratio), "lnor" (log odds ratio),
            "lift" (ratio less one), or a function of the arrays of draws (high, low).
        hypothesis: functions of the table's rows b1, b2, ... instead of the rows themselves: a
            text such as "b1 = b2" or "b1 - 2 * b2 > 0" (or several), in which rows may also be
            called by what tells them apart, in backticks; "pairwise" (b1 - b2, ...),
            "revpairwise", "reference" (each minus the first) or "sequential" (each minus the one
            before), followed by "| column" for pairs within the values of a column; weights of
            the rows, one column for each hypothesis; or a function of the draws (draws, rows).
        groups: the groupings whose effects are included: "all", None for none of them (the
            population level), or a list. In grids of typical values only those are included
            that the grid names.
        interval: probability of the equal-tailed interval.
        type: the scale: "response", "link", "invlink(link)" (averaged on the scale of the link
            and transformed back) or a parameter of the family, such as "sigma".
        new_levels: what to do with levels of groupings that training did not see, as for
            `Fit.predict`; with "sample" a grid is of a new level of every grouping.
        weights: a column with the weights of the rows in averages.
        rope: region of practical equivalence, a lower and an upper limit.
        seed: seed for whatever is sampled.

    Returns:
        A table, of pandas or polars as the training data, with a row for each contrast, category
        and cell of `by`, and the columns term, contrast, group (the category, for responses with
        categories), those of `by`, estimate (the posterior median, as marginaleffects takes it
        for Bayesian models), lower, upper and pd (probability of direction: the share of draws on
        the estimate's side of no effect); with `rope` also in_rope, the share of draws within it.
        With `hypothesis` a column of that name stands for those that identify rows. The line
        printed below says what was averaged. `rf.effects.posterior_draws` returns the draws.

        A fit of more than 20,000 rows keeps 20,000 of them, evenly spaced, for newdata=None. Where
        rows times draws exceed 400 million, fewer draws are used, 200 at least. The line below
        the table says so in both cases.

    Raises:
        ColumnError: for a column that does not exist.
        DataError: for a level that does not exist, and for comparisons that are not finite.
        OptionError: for an invalid argument.
        FormulaError: for a text of `hypothesis` that cannot be read.

    Source: Arel-Bundock, Greifer and Heiss (2024) for names and meaning.
    """
    by = True if by is None or by is False else by
    return comparisons(
        *(fit, variables, newdata, by, comparison, hypothesis, groups, interval),
        type=type,
        new_levels=new_levels,
        weights=weights,
        rope=rope,
        seed=seed,
    )
