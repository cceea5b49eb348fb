"""Leave-one-out predictive densities of rows or of whole levels, without refitting.

Computes PSIS-LOO (Vehtari, Gelman and Gabry, 2017) with ArviZ:

    elpd = sum_j log p(y_j | y_-j),     1 / p(y_j | y_-j) = E[1 / p(y_j | phi) | y].

Here j is a row, or all rows of one level of a grouping. For a level, its own effects b_j are
integrated out first (`level_likelihood`),

    p(y_j | phi) = integral p(y_j | b_j, phi) p(b_j | phi) db_j,

and phi holds the hyperparameters, the common effects and the effects of all other levels. The
importance weights then only have to move phi from the posterior given all rows to the posterior
without level j. Weights conditional on b_j would fail, since nearly all information about b_j is
in the rows that are left out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef import markup
from ranef.data.complete_cases import CompleteCases
from ranef.errors import ColumnError, OptionError, suggestion
from ranef.numerics.psis import threshold
from ranef.numerics.shapes import Float, Int
from ranef.posterior.level_likelihood import LevelLikelihood
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.program import posterior_variables
from ranef.terms.base import RunOptions, clean_name

if TYPE_CHECKING:
    from arviz_stats.base.array import BaseArray

Array = NDArray[np.float64]
Vector = Float[Array, "m"]


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out cross-validation of a fit, as returned by `Fit.loo`. Prints as two lines.

    Attributes:
        pointwise: a table with one row for each row or level that is left out, and the columns
            elpd, p (effective number of parameters) and k (Pareto k-hat). Rows have the index
            of the fitted pandas table, or their position in the table, counted from 0. Levels
            have the type of their column. If the fitted table was a polars table, this is one
            too, with the rows or levels in its first column.
        group: the grouping whose levels are left out; "" if rows are.
        limit: the k-hat above which an elpd is not reliable, min(1 - 1 / log10(S), 0.7) for S
            draws.
        response: the response of the model, as the formula writes it.
    """

    pointwise: Any
    group: str
    limit: float
    response: str = ""

    @property
    def elpd(self) -> float:
        """Expected log pointwise predictive density, in nats, summed over rows or levels."""
        return float(np.sum(np.asarray(self.pointwise["elpd"])))

    @property
    def se(self) -> float:
        """Standard error of `elpd`: sqrt(J) times the sd of the J pointwise values."""
        each = np.asarray(self.pointwise["elpd"], np.float64)
        return math.sqrt(len(each)) * float(each.std(ddof=1))

    @property
    def p_loo(self) -> float:
        """Effective number of parameters, summed over rows or levels."""
        return float(np.sum(np.asarray(self.pointwise["p"])))

    @property
    def bad(self) -> float:
        """Share of the rows or levels whose k-hat is above `limit`."""
        return float(np.mean(np.asarray(self.pointwise["k"]) > self.limit))

    def __str__(self) -> str:
        what = f"levels of {self.group}" if self.group else "rows"
        lines = [
            f"elpd {self.elpd:,.1f} (se {self.se:,.1f}), p_loo {self.p_loo:,.1f}, "
            f"each of {len(self.pointwise):,} {what} left out",
            f"k-hat over {self.limit:.2f} for {self.bad:.1%}"
            + (": their elpd is not to be relied on" if self.bad else ""),
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return markup.lines(*str(self).splitlines())


# Smallest number of draws, a fifth of which are the tail that is smoothed: five at least.
LEAST_DRAWS = 25

# The level of each row, and the names of the levels.
Levels = tuple[Int[NDArray[np.int64], "n"], tuple[str, ...]]


def levels_of(posterior: Posterior, group: str) -> Levels | None:
    """The level of each row and the names of the levels; None if there is no such grouping."""
    codes = posterior_variables.codes(
        posterior.program, posterior.training.designs, posterior.training.state
    )
    for name, variable in posterior.variables.items():
        if variable.role == "group" and variable.factor == clean_name(str(group)):
            return np.asarray(codes[name], np.int64), variable.coords[0]
    return None


def leave_one_out(
    posterior: Posterior, group: str | None, seed: int, levels: Levels | None = None
) -> LeaveOneOut:
    """PSIS-LOO of each row, or of each level of a grouping.

    Args:
        posterior: the posterior of the fit.
        group: the grouping, or None to leave out rows.
        seed: seed for the effects and importance points that are sampled.
        levels: the levels of the grouping, for a model that does not have it.

    Raises:
        ColumnError: if the model does not have the grouping and `levels` is None.
        OptionError: if the fit has read its rows in batches or has too few draws, or the grouping
            has too many levels.
    """
    training = posterior.training
    if training.stream is not None:
        raise OptionError(
            "leaving out needs every row, and this fit has read its rows in batches and kept a "
            "sample; compare on rows it has not seen, by fit.log_score(data)"
        )
    chains, each = posterior.draws.shape
    count = chains * each
    if count < LEAST_DRAWS:
        raise OptionError(
            f"leaving out needs at least {LEAST_DRAWS} draws, and the fit has {count}; fit it "
            "with more, as in draws=1000, or use fit.kfold()"
        )
    if group is None:
        found = _of_rows(posterior, seed)
    else:
        found = _of_levels(posterior, group, seed, levels)
    response = str(posterior.program.formula.response)
    return LeaveOneOut(found, group or "", threshold(max(count, 2)), response)


def _of_rows(posterior: Posterior, seed: int) -> Any:
    training = posterior.training
    predictive = Predictive(
        posterior.program, training.state, posterior.draws, RunOptions(False, "sample"), seed
    )
    efficiency = relative_efficiency(posterior)
    found = predictive.by_log_density(
        training.designs,
        training.response,
        training.held,
        lambda log_density: smoothed_out(log_density, efficiency),
    )
    return by_training_row(training.rows, found)


def by_training_row(rows: CompleteCases, columns: Mapping[str, NDArray]) -> Any:
    """A table with one row for each training row, of the kind of the training table.

    Args:
        rows: the rows that were used, and their labels.
        columns: name to one value for each row.

    Returns:
        A pandas table with the index of the fitted table, or else the position of each row in it;
        a polars table with the position in its first column.
    """
    places = np.arange(rows.used)
    at = places if rows.places is None else np.asarray(rows.places)
    if rows.labels.form == "polars":
        return rows.labels.table({"row": at, **columns})
    labels = rows.labels.at(places).index
    return pd.DataFrame(dict(columns), index=pd.Index(at, name="row") if labels is None else labels)


def _of_levels(posterior: Posterior, group: str, seed: int, levels: Levels | None) -> Any:
    own = levels_of(posterior, group)
    known = own or levels
    if known is None:
        groups = dict.fromkeys(v.factor for v in posterior.variables.values() if v.role == "group")
        hint = suggestion(str(group), groups) if groups else "it has none"
        raise ColumnError(f"the model has no grouping {group!r} to leave out; {hint}")
    codes, names = known
    values = LevelLikelihood.of(posterior, clean_name(str(group)), codes).log_likelihood(seed)
    occurs = np.unique(codes)
    found = smoothed_out(values[:, occurs], relative_efficiency(posterior))
    return posterior.by_level(group, [names[level] for level in occurs], found)


def smoothed_out(log_density: Float[Array, "draws m"], efficiency: float) -> Mapping[str, Vector]:
    """PSIS-LOO of each column of log p(y_j | phi_s).

    Args:
        log_density: log p(y_j | phi_s) of m rows or levels.
        efficiency: effective draws per draw, for the smoothing of the tail.

    Returns:
        elpd, p (effective number of parameters) and k (k-hat).
    """
    elpd, k, p = _statistics().loo(log_density[None], chain_axis=0, draw_axis=1, r_eff=efficiency)
    return {"elpd": np.asarray(elpd), "p": np.asarray(p), "k": np.asarray(k)}


def relative_efficiency(posterior: Posterior) -> float:
    """Effective draws per draw: the mean over parameters for chains, 1 for independent draws."""
    draws = posterior.draws
    if not draws.statistics:
        return 1.0
    few = [draws.sites[n] for n in draws.sites if n not in draws.lazy_sites]
    flat = [np.asarray(v).reshape(*v.shape[:2], -1)[..., :50] for v in few]
    flat = np.concatenate([v[..., np.ptp(v, axis=(0, 1)) > 0] for v in flat], axis=-1)
    if not flat.shape[-1]:
        return 1.0
    ess = np.mean(_statistics().ess(flat, chain_axis=0, draw_axis=1, method="mean"))
    return float(min(1.0, ess / (flat.shape[0] * flat.shape[1])))


def _statistics() -> "BaseArray":
    """ArviZ's array functions, imported late: loading them takes longer than a small fit."""
    from arviz_stats.base.array import array_stats

    return array_stats
