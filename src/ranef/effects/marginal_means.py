"""Estimated marginal means: averages over a balanced grid of the predictors, as in emmeans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.row_labels import Table
from ranef.effects.columns import Predictors, posterior_of, with_columns
from ranef.effects.contrasts import Variables, named
from ranef.effects.estimation import Request, averaged_over, scale_words
from ranef.effects.grids import default_values, grid, without_labels
from ranef.effects.rows import by_names, cells_of
from ranef.effects.table import Settings
from ranef.effects.variants import Estimand, Quantity
from ranef.errors import OptionError
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups

if TYPE_CHECKING:
    from ranef.fit import Fit

# Column of the grid that holds the weights; no table has a column of this name.
_WEIGHTS = "\x00weights"


def marginal_means(
    fit: Fit,
    variables: Variables,
    by: object = None,
    hypothesis: object = None,
    groups: Groups = "all",
    interval: float = 0.95,
    *,
    at: Mapping[str, object] | None = None,
    weights: str = "equal",
    type: str = "response",
    new_levels: NewLevels = "error",
    rope: tuple[float, float] | None = None,
    seed: int = 0,
) -> Table:
    """Estimated marginal means (least-squares means) and their contrasts, as emmeans' ``~ f | g``.

        m_j = sum_k w_k E[y | f = j, other factors in combination k, numbers at their means]

    Args:
        fit: the fit.
        variables: the predictors whose values the means are for: a name, a list, or a dict of
            name to values as in `datagrid`. A factor has all of its levels by default, a numeric
            column its minimum, quartiles and maximum.
        by: further predictors, within whose values contrasts are taken: a name or a list.
        hypothesis: contrasts of the means, such as "pairwise" or "reference" (as for
            `avg_comparisons`), within the values of `by`.
        groups: as for `avg_comparisons`; only groupings among `variables`, `by` and `at` have
            effects, so that the means are those of the population.
        interval: probability of the equal-tailed interval.
        at: values of other predictors, by name, as in `datagrid`.
        weights: of the combinations k of the other factors: "equal", or "proportional" to their
            numbers of training rows.
        type: as for `avg_comparisons`. "response" averages on the scale of the response. The
            means that emmeans shows for type="response" are "invlink(link)".
        new_levels: as for `avg_comparisons`.
        rope: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.

    Returns:
        A table with a row for each combination of values of `variables` and `by`, or for each
        contrast: these values, group (the category, for responses with categories), estimate
        (posterior median), lower and upper.

    Raises:
        ColumnError, DataError, OptionError, FormulaError: as for `avg_comparisons`.

    Source: Searle, Speed and Milliken (1980); Lenth's emmeans for the grid and the weights.
    """
    if weights not in ("equal", "proportional"):
        raise OptionError(f"weights must be 'equal' or 'proportional', not {weights!r}")
    within = by_names(by)
    predictors = Predictors(posterior_of(fit))
    asked = named(predictors, variables) | {
        name: None for name in within if name not in named(predictors, variables)
    }
    asked |= dict(at or {})
    chosen = {
        name: default_values(predictors, name) if value is None else value
        for name, value in asked.items()
    }
    shown = tuple(name for name in asked if name not in (at or {}) or name in within)
    if isinstance(hypothesis, str) and within and "|" not in hypothesis and "b1" not in hypothesis:
        hypothesis = f"{hypothesis} | {' + '.join(within)}"
    frame = grid(predictors, chosen, "balanced")
    if weights == "proportional":
        share = _proportional(predictors, frame, [n for n in predictors.common if n not in chosen])
        frame = with_columns(frame, {_WEIGHTS: share})
    frame = without_labels(frame, predictors.sample.labels.form)
    request = Request(
        *(fit, frame, shown, None, groups, new_levels, seed, type, hypothesis),
        Settings(interval, rope),
        f"marginal {scale_words(fit, type)}",
    )
    rows = request.rows()
    cells = cells_of(rows, shown, _WEIGHTS if weights == "proportional" else None)
    return averaged_over(request, replace(rows), [Estimand({}, Quantity())], cells)


def _proportional(predictors: Predictors, frame: Frame, averaged: list[str]) -> NDArray[np.float64]:
    """Number of training rows with the combination of factors of each row of the grid."""
    factors = [name for name in averaged if predictors.kind(name) == "level"]
    if not factors:
        return np.ones(frame.n)

    def keys(rows: Frame) -> list[tuple[str, ...]]:
        each = [rows.levels(name) for name in factors]
        return list(zip(*(found.names[found.codes] for found in each), strict=True))

    counts: dict[tuple[str, ...], int] = {}
    for key in keys(predictors.sample):
        counts[key] = counts.get(key, 0) + 1
    return np.array([counts.get(key, 0) for key in keys(frame)], np.float64)
