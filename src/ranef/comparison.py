"""Fits of the same rows beside each other, by how well they predict what they have not seen."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError
from ranef.fit import Fit
from ranef.posterior.loo import LeaveOneOut, leave_one_out, levels_of
from ranef.posterior.posterior import Posterior

Array = NDArray[np.float64]

# Steps of the search for the weights, each of which raises the score.
_STEPS = 5_000


def compare(
    fits: Mapping[str, Fit], group: str | None = None, *, data: Any = None, seed: int = 0
) -> pd.DataFrame:
    """A table of fits, the best first.

    By rows left out; by the levels of a grouping left out, if `group`; or by rows that no fit
    has seen, if `data`. Weights are those of stacking (Yao, Vehtari, Simpson and Gelman, 2018),

        max_w sum_j log sum_m w_m p_m(y_j | y_-j),   w_m >= 0, sum_m w_m = 1,

    the mixture of the fits that predicts best: of two that predict alike one may get all.

    Args:
        fits: by name, two or more, of the same response on the same rows.
        group: as of `Fit.loo`. A grouping of one fit at least: the others, which do not vary by
            it, are scored on its levels too.
        data: a table or path with the response; new levels are drawn from their prior.
        seed: of what is sampled.

    Returns:
        By fit: elpd; difference from the best and the standard error of that difference; p_loo
        and bad (the share of k-hats over their limit) where something was left out; weight.

    Raises:
        OptionError: for fewer than two fits, or both `group` and `data`.
        ColumnError: for a grouping that no fit has.
        DataError: for fits of different rows or responses.
    """
    if not isinstance(fits, Mapping) or len(fits) < 2:
        raise OptionError('compare takes two fits or more by name, as in {"a": fit, "b": other}')
    if group is not None and data is not None:
        raise OptionError("compare by group= or on data=, not both")
    if data is None:
        _refuse_different(fits)
        found = _left_out(fits, group, seed)
        each = {name: np.asarray(loo.pointwise["elpd"]) for name, loo in found.items()}
        beside = {name: {"p_loo": loo.p_loo, "bad": loo.bad} for name, loo in found.items()}
    else:
        each = {
            name: np.asarray(fit.log_score(data, new_levels="sample", seed=seed))
            for name, fit in fits.items()
        }
        beside = {name: {} for name in fits}
    return _table(each, beside)


def _left_out(fits: Mapping[str, Fit], group: str | None, seed: int) -> dict[str, LeaveOneOut]:
    """Of every fit; one without the grouping takes its levels from one that has it."""
    known = {name: Posterior(f.program, f.training, f.draws) for name, f in fits.items()}
    levels = None
    if group is not None:
        levels = next((own for p in known.values() if (own := levels_of(p, group))), None)
    return {name: leave_one_out(p, group, seed, levels) for name, p in known.items()}


def _table(each: Mapping[str, Array], beside: Mapping[str, Mapping[str, float]]) -> Any:
    names = sorted(each, key=lambda name: -float(each[name].sum()))
    first = each[names[0]]
    values = np.column_stack([each[name] for name in names])
    rows = []
    for name, weight in zip(names, stacking(values), strict=True):
        away = each[name] - first
        rows.append(
            {
                "elpd": float(each[name].sum()),
                "difference": float(away.sum()),
                "se": float(np.sqrt(len(away)) * away.std(ddof=1)),
                **beside[name],
                "weight": weight,
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="fit"))


def stacking(log_density: Array) -> Array:
    """Weights (M,) of the mixture that predicts best, from log densities (n, M).

    By expectation maximisation over which fit each response came from, which is convex here.
    """
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    weights = np.full(density.shape[1], 1 / density.shape[1])
    for _ in range(_STEPS):
        shares = weights * density
        before, weights = weights, (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(weights - before).max() < 1e-9:
            break
    return weights


def _refuse_different(fits: Mapping[str, Fit]) -> None:
    """Refuse fits whose densities are not of the same responses.

    Raises:
        DataError: saying which differ, and how.
    """
    (first, one), *others = fits.items()
    for name, fit in others:
        a, b = (f.program.formula.response for f in (one, fit))
        if str(a) != str(b):
            raise DataError(
                f"{first!r} and {name!r} have different responses, {a} and {b}, whose densities "
                "cannot be compared; fit them to the same one"
            )
        here, there = (np.asarray(f.training.response.value) for f in (one, fit))
        if len(here) != len(there) or one.rows.used != fit.rows.used:
            raise DataError(
                f"{first!r} has used {one.rows.used:,} rows and {name!r} {fit.rows.used:,}; fit "
                "them to the same rows, dropping gaps before"
            )
        if not np.array_equal(here, there):
            raise DataError(
                f"{first!r} and {name!r} were fitted to different rows, or to the same in another "
                "order; fit them to one table"
            )
