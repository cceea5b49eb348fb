"""Curves of the response's mean over one, two or three predictors, which a figure draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ranef.effects.columns import Held, Predictors, posterior_of
from ranef.effects.estimation import scale_words
from ranef.effects.grids import grid, values_of
from ranef.effects.predictions import predictions
from ranef.effects.table import posterior_draws
from ranef.errors import OptionError
from ranef.lazy import xr
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups
from ranef.posterior.posterior import tails_of
from ranef.posterior.reference_grid import between, dates_of

if TYPE_CHECKING:
    from ranef.fit import Fit

# Points of a curve.
_POINTS = 60
# Largest number of distinct values of a numeric column for which each is a line.
_FEW = 4
DIMS = ("x", "by", "panel")


def conditional_effects(
    fit: Fit,
    x: str,
    by: str | None = None,
    panels: str | None = None,
    groups: Groups = "all",
    interval: float = 0.95,
    *,
    at: Mapping[str, object] | None = None,
    type: str = "response",
    new_levels: NewLevels = "error",
    seed: int = 0,
) -> xr.Dataset:
    """The response's mean as a function of one, two or three predictors, others typical.

    Args:
        fit: the fit.
        x: the predictor along the horizontal axis.
        by: a predictor with a line for each value; of a numeric column, its mean and one sd to
            both sides.
        panels: a predictor with a panel for each value, chosen as for `by`.
        groups: as for `avg_comparisons`; only groupings that are named here have effects.
        interval: probability of the equal-tailed interval.
        at: values of `x`, `by`, `panels` and of other predictors, by name, as in `datagrid`.
        type: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.

    Returns:
        Variables estimate (posterior median), lower and upper with the dimensions x, by, panel
        and group (the category, for responses with categories). The coordinates are the values
        in the order that columns declare. `rf.plots.conditional_effects` draws it.

    Raises:
        ColumnError, DataError, OptionError: as for `avg_comparisons`.
    """
    names = [name for name in (x, by, panels) if name is not None]
    if len(set(names)) < len(names) or (panels is not None and by is None):
        raise OptionError("x, by and panels must be different predictors, and panels needs by")
    predictors = Predictors(posterior_of(fit))
    asked = dict(at or {})
    chosen: dict[str, Held] = {}
    for name in names:
        if name in asked:
            chosen[name] = values_of(predictors, name, asked.pop(name))
        else:
            chosen[name] = _default(predictors, name, curve=name == x)
    frame = grid(predictors, {**chosen, **asked})
    extra = int(np.prod([len(np.atleast_1d(np.asarray(v, object))) for v in asked.values()] or [1]))
    if extra != 1 and frame.n != int(np.prod([len(v) for v in chosen.values()])):
        raise OptionError("at= holds each predictor other than x, by and panels at one value")
    table = predictions(
        fit, newdata=frame, groups=groups, type=type, new_levels=new_levels, seed=seed
    )
    draws = posterior_draws(table).stack(sample=("chain", "draw")).transpose("sample", "row")
    tails = tails_of(interval)
    found = np.quantile(draws.to_numpy(), [tails[0], 0.5, tails[1]], axis=0)
    sizes = [len(v) for v in chosen.values()]
    values = found.reshape(3, -1, *sizes)
    dims = DIMS[: len(names)]
    categories = getattr(fit.program.family, "categories", ())
    groups_ = list(categories) if len(categories) == values.shape[1] else [""]
    groups_ = groups_ if len(groups_) == values.shape[1] else list(categories[1:])
    variables = {
        name: (("group", *dims), values[i]) for i, name in enumerate(("lower", "estimate", "upper"))
    }
    coords = {dim: np.asarray(v) for dim, v in zip(dims, chosen.values(), strict=True)}
    coords = {
        dim: v.astype(str) if predictors.kind(name) == "level" else v
        for (dim, v), name in zip(coords.items(), names, strict=True)
    }
    attributes = {
        "names": names,
        "response": str(fit.program.formula.response),
        "predicted": scale_words(fit, type),
        "interval": interval,
        "kinds": [predictors.kind(name) for name in names],
    }
    return xr.Dataset(variables, {**coords, "group": groups_}, attributes)


def _default(predictors: Predictors, name: str, *, curve: bool) -> Held:
    """The values of a predictor in a figure."""
    if curve and predictors.kind(name) == "date":
        return dates_of(between(predictors.sample.days(name), _POINTS))
    if predictors.kind(name) != "number":
        return predictors.held(name, predictors.levels(name))
    values = predictors.numbers(name)
    distinct = np.unique(values)
    if curve:
        return between(values, _POINTS)
    return distinct if len(distinct) <= _FEW else values_of(predictors, name, "sd")
