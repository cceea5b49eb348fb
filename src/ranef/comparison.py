"""Comparison of fits by their expected log predictive density, with stacking weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ranef.errors import ColumnError, DataError, OptionError
from ranef.fit import Fit
from ranef.numerics.shapes import Float
from ranef.posterior.kfold import KFold
from ranef.posterior.loo import LeaveOneOut, leave_one_out, levels_of
from ranef.posterior.posterior import Posterior
from ranef.posterior.summary import Summary

# Largest number of EM iterations for the stacking weights.
_STEPS = 5_000


class Comparison(Summary):
    """The table of `compare`: a pandas DataFrame that prints its notes below itself."""

    _metadata = [*Summary._metadata, "_notes"]
    _notes: tuple[str, ...] = ()

    @classmethod
    def with_notes(cls, table: pd.DataFrame, notes: Sequence[str]) -> "Comparison":
        """The table with notes on fits whose elpd is not to be relied on."""
        out = cls(table)
        out._notes = tuple(notes)
        out._line = (lambda: "\n".join(out._notes)) if notes else None
        return out

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is not to be relied on; () if nothing is."""
        return self._notes


# What `compare` takes: fits, or what their cross-validation returned.
Scored: TypeAlias = Fit | LeaveOneOut | KFold


def compare(
    fits: Mapping[str, Scored],
    group: str | None = None,
    *,
    data: object = None,
    folds: int | str | ArrayLike | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare fits by how well they predict responses that they were not fitted to.

    The fits are scored by PSIS-LOO over the rows (see `Fit.loo`); with `group`, over the levels of
    a grouping; with `folds`, by k-fold cross-validation (see `Fit.kfold`), which fits every model
    again; with `data`, by `Fit.log_score` on new rows. The stacking weights (Yao, Vehtari,
    Simpson and Gelman, 2018) maximise the score of a mixture of the fits,

        max_w sum_j log sum_m w_m p_m(y_j | y_-j),   w_m >= 0, sum_m w_m = 1.

    Of two fits that predict equally well, one may get all the weight.

    Args:
        fits: name to fit; two or more fits of the same response to the same rows. In place of
            every fit may stand what its `loo` or `kfold` has returned.
        group: a grouping that at least one of the fits has. Fits without this grouping are scored
            on its levels too. With `folds`, the rows of its levels are kept together.
        data: a table or path with the response. Effects of new levels are drawn from the
            distribution of the grouping's effects.
        folds: the number of folds, or the fold of each row as for `Fit.kfold`; all fits have the
            same folds.
        seed: seed for whatever is sampled.

    Returns:
        A table with one row for each fit, the best first, and the columns elpd, difference (elpd
        less that of the best fit), se (standard error of the difference), p_loo (effective
        number of parameters), bad (share of k-hats above their limit) and weight (stacking
        weight). With `data` and `folds` there are no p_loo and bad. Where k-hats are above their
        limit, the table prints a note that names the fit, since its elpd is not to be relied on
        and neither is its place; `notes` has these sentences.

    Raises:
        OptionError: for fewer than two fits, for `data` beside `group` or `folds`, or if rows or
            levels cannot be left out, as for `Fit.loo` and `Fit.kfold`.
        ColumnError: for a grouping that no fit has.
        DataError: for fits of different rows or responses, and as `Fit.log_score` for `data`.
    """
    if not isinstance(fits, Mapping) or len(fits) < 2:
        raise OptionError('compare takes two fits or more by name, as in {"a": fit, "b": other}')
    if data is not None and (group is not None or folds is not None):
        other = "group=" if group is not None else "folds="
        raise OptionError(f"compare by {other} or on data=, not both")
    whole = {name: fit for name, fit in fits.items() if isinstance(fit, Fit)}
    if len(whole) < len(fits):
        if whole or group is not None or data is not None or folds is not None:
            raise OptionError(
                "compare takes fits alone, or alone what their loo() or kfold() has returned, "
                "which is compared as it is, without group=, data= or folds="
            )
        return _of_results(fits)
    if data is not None:
        each = {
            name: np.asarray(fit.log_score(data, new_levels="sample", seed=seed))
            for name, fit in whole.items()
        }
        return _table(each, {name: {} for name in fits}, ())
    _refuse_different(whole)
    if folds is None:
        return _of_results(_left_out(whole, group, seed))
    return _of_results(_in_folds(whole, group, folds, seed))


def _in_folds(
    fits: Mapping[str, Fit], group: str | None, folds: int | str | ArrayLike, seed: int
) -> dict[str, KFold]:
    """K-fold cross-validation of every fit, all in the folds of a fit that has their column."""
    given = None if np.ndim(folds) == 0 and not isinstance(folds, str) else folds
    # A number that is none is refused by name.
    number: Any = 2 if given is not None else folds
    missing: ColumnError | None = None
    for fit in fits.values():
        try:
            own = fit.fold_of_rows(number, group, seed, given)
        except ColumnError as error:
            missing = missing or error
            continue
        return {
            name: replace(other.kfold(folds=own, seed=seed), group=group or "")
            for name, other in fits.items()
        }
    assert missing is not None
    raise missing


def _of_results(results: Mapping[str, Scored]) -> Comparison:
    """The comparison of fits by what their cross-validation has returned.

    Raises:
        OptionError: for results of different kinds.
        DataError: for results of different rows, levels, folds or responses.
    """
    (first, one), *others = results.items()
    if not isinstance(one, (LeaveOneOut, KFold)):
        raise OptionError(f"compare takes fits or results of loo() and kfold(), not {one!r:.60}")
    for name, other in others:
        if type(other) is not type(one):
            raise OptionError(
                f"{first!r} is a {type(one).__name__} and {name!r} a {type(other).__name__}, which "
                "cannot be compared; take the same of all fits"
            )
        _refuse_unlike(first, one, name, other)
    known: Mapping[str, Any] = results
    each = {name: np.asarray(found.pointwise["elpd"]) for name, found in known.items()}
    if isinstance(one, KFold):
        return _table(each, {name: {} for name in known}, ())
    beside = {name: {"p_loo": loo.p_loo, "bad": loo.bad} for name, loo in known.items()}
    return _table(each, beside, _notes(each, known))


def _refuse_unlike(first: str, one: Any, name: str, other: Any) -> None:
    """Refuse results of other rows, levels, folds or responses.

    Raises:
        DataError: saying which results differ, and how.
    """
    if one.response != other.response:
        raise DataError(
            f"{first!r} and {name!r} have different responses, {one.response} and "
            f"{other.response}, whose densities cannot be compared; fit them to the same one"
        )
    here, there = one.pointwise, other.pointwise
    alike = one.group == other.group and len(here) == len(there)
    if alike and isinstance(here, pd.DataFrame) and isinstance(there, pd.DataFrame):
        alike = here.index.equals(there.index)
    if alike and isinstance(one, KFold):
        alike = np.array_equal(np.asarray(here["fold"]), np.asarray(there["fold"]))
    if not alike:
        raise DataError(
            f"{first!r} and {name!r} have left out different rows, levels or folds; take the same "
            "of both, with one seed="
        )


def _notes(each: Mapping[str, Float[NDArray, "n"]], results: Mapping[str, Any]) -> list[str]:
    """A sentence for each fit with k-hats above their limit, that of the first fit first."""
    out = []
    for place, name in enumerate(_ranked(each)):
        loo = results[name]
        if not loo.bad:
            continue
        what = f"levels of {loo.group}" if loo.group else "rows"
        count = round(loo.bad * len(loo.pointwise))
        place_too = " and its first place are" if place == 0 else " is"
        out.append(
            f"k-hat is over {loo.limit:.2f} for {count:,} of {len(loo.pointwise):,} {what} of "
            f"{name}: its elpd{place_too} not to be relied on; compare by folds=10, or on data="
        )
    return out


def _left_out(fits: Mapping[str, Fit], group: str | None, seed: int) -> dict[str, LeaveOneOut]:
    """PSIS-LOO of every fit. Fits without the grouping use the levels of a fit that has it."""
    known = {name: Posterior(f.program, f.training, f.draws) for name, f in fits.items()}
    own = {name: None if group is None else levels_of(p, group) for name, p in known.items()}
    levels = next((each for each in own.values() if each is not None), None)
    found = {name: leave_one_out(p, group, seed, levels) for name, p in known.items()}
    tables = {name: loo.pointwise for name, loo in found.items()}
    typed = next((tables[name] for name, each in own.items() if each is not None), None)
    for name, table in tables.items():
        # A fit without the grouping does not know the type of its levels.
        if (
            own[name] is None
            and isinstance(typed, pd.DataFrame)
            and isinstance(table, pd.DataFrame)
        ):
            found[name] = replace(found[name], pointwise=table.set_axis(typed.index))
    return found


def _table(
    each: Mapping[str, Float[NDArray, "n"]],
    beside: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
) -> Comparison:
    """The table of `compare` from pointwise log densities, further columns by fit and notes."""
    names = _ranked(each)
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
    return Comparison.with_notes(pd.DataFrame(rows, index=pd.Index(names, name="fit")), notes)


def _ranked(each: Mapping[str, Float[NDArray, "n"]]) -> list[str]:
    """The names of the fits, that of the highest elpd first."""
    return sorted(each, key=lambda name: -float(each[name].sum()))


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
