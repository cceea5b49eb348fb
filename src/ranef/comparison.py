"""Comparison of fits by their expected log predictive density, with stacking weights."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError
from ranef.fit import Fit
from ranef.numerics.shapes import Float
from ranef.posterior.loo import LeaveOneOut, leave_one_out, levels_of
from ranef.posterior.posterior import Posterior

# Largest number of EM iterations for the stacking weights.
_STEPS = 5_000


def compare(
    fits: Mapping[str, Fit], group: str | None = None, *, data: object = None, seed: int = 0
) -> pd.DataFrame:
    """Compare fits by how well they predict responses that they were not fitted to.

    The fits are scored by PSIS-LOO over the rows (see `Fit.loo`); with `group`, over the levels of
    a grouping; with `data`, by `Fit.log_score` on new rows. The stacking weights (Yao, Vehtari,
    Simpson and Gelman, 2018) maximise the score of a mixture of the fits,

        max_w sum_j log sum_m w_m p_m(y_j | y_-j),   w_m >= 0, sum_m w_m = 1.

    Of two fits that predict equally well, one may get all the weight.

    Args:
        fits: name to fit; two or more fits of the same response to the same rows.
        group: a grouping that at least one of the fits has. Fits without this grouping are scored
            on its levels too.
        data: a table or path with the response. Effects of new levels are drawn from the
            distribution of the grouping's effects.
        seed: seed for whatever is sampled.

    Returns:
        A table with one row for each fit, the best first, and the columns elpd, difference (elpd
        less that of the best fit), se (standard error of the difference), p_loo (effective
        number of parameters), bad (share of k-hats above their limit) and weight (stacking
        weight). With `data` there are no p_loo and bad.

    Raises:
        OptionError: for fewer than two fits, for both `group` and `data`, or if rows or levels
            cannot be left out, as for `Fit.loo`.
        ColumnError: for a grouping that no fit has.
        DataError: for fits of different rows or responses, and as `Fit.log_score` for `data`.
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
    """PSIS-LOO of every fit. Fits without the grouping use the levels of a fit that has it."""
    known = {name: Posterior(f.program, f.training, f.draws) for name, f in fits.items()}
    levels = None
    if group is not None:
        levels = next((own for p in known.values() if (own := levels_of(p, group))), None)
    return {name: leave_one_out(p, group, seed, levels) for name, p in known.items()}


def _table(
    each: Mapping[str, Float[NDArray, "n"]], beside: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """The table of `compare` from pointwise log densities and further columns by fit."""
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


def stacking(log_density: Float[NDArray, "n fits"]) -> Float[NDArray, "fits"]:
    """Stacking weights of fits, by expectation maximisation.

    The objective sum_j log sum_m w_m p_m(y_j) is concave in w, so EM (which treats the fit that
    each response came from as missing) converges to its maximum.

    Args:
        log_density: log predictive density of each response under each fit.

    Returns:
        Weights that are not negative and sum to one.
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
    """Refuse fits of different responses or rows, whose densities cannot be compared.

    Raises:
        DataError: saying which fits differ, and how.
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
