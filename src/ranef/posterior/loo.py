"""Leave-one-out predictive densities, of rows and of whole groups, without refitting.

    elpd = sum_j log p(y_j | y_-j),     1 / p(y_j | y_-j) = E[1 / p(y_j | phi) | y]

j a row, or all rows of a level of a grouping, whose own effects b_j are integrated out:

    p(y_j | phi) = integral p(y_j | b_j, phi) p(b_j | phi) db_j

so that phi, the scales, common effects and effects of everything else, is what importance
weights carry from the posterior of all rows to that without them; conditional on b_j they could
not. The weights are Pareto-smoothed (Vehtari, Gelman and Gabry, 2017), by ArviZ.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import ColumnError, OptionError, suggestion
from ranef.numerics.psis import threshold
from ranef.posterior.level_likelihood import LevelLikelihood
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.terms.base import RunOptions, clean_name

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LeaveOneOut:
    """What `Fit.loo` returns; it prints as a few lines.

    Attributes:
        pointwise: by row or by level: elpd, p (effective parameters) and k, the Pareto k-hat. Rows
            have the index of the fitted table, or their place in it, from 0; levels the type of
            their column. A polars table, with these in a column, for a fit of one.
        group: the grouping whose levels are left out; "" for rows.
        limit: of k-hat, above which an elpd cannot be relied on.
    """

    pointwise: Any
    group: str
    limit: float

    @property
    def elpd(self) -> float:
        """The expected log pointwise predictive density, a sum."""
        return float(np.sum(np.asarray(self.pointwise["elpd"])))

    @property
    def se(self) -> float:
        """Its standard error, from how rows or levels differ."""
        each = np.asarray(self.pointwise["elpd"], np.float64)
        return math.sqrt(len(each)) * float(each.std(ddof=1))

    @property
    def p_loo(self) -> float:
        """The effective number of parameters."""
        return float(np.sum(np.asarray(self.pointwise["p"])))

    @property
    def bad(self) -> float:
        """The share whose k-hat is over the limit."""
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


Levels = tuple[NDArray[np.int64], tuple[str, ...]]


def levels_of(posterior: Posterior, group: str) -> Levels | None:
    """The level of each row (n,), and the levels' names; None without such a grouping."""
    codes = posterior.program.codes(posterior.training.designs, posterior.training.state)
    for name, variable in posterior.variables.items():
        if variable.role == "group" and variable.factor == clean_name(str(group)):
            return np.asarray(codes[name], np.int64), variable.coords[0]
    return None


def leave_one_out(
    posterior: Posterior, group: str | None, seed: int, levels: Levels | None = None
) -> LeaveOneOut:
    """Of rows, or of the levels of a grouping.

    Args:
        posterior: of the fit.
        group: the grouping, or None.
        seed: of what is sampled.
        levels: of the grouping, for a model that does not have it.

    Raises:
        ColumnError: for a grouping the model does not have.
        OptionError: for a fit that has read its rows in batches.
    """
    training = posterior.training
    if training.stream is not None:
        raise OptionError(
            "leaving out needs every row, and this fit has read its rows in batches and kept a "
            "sample; compare on rows it has not seen, by fit.log_score(data)"
        )
    if group is None:
        found = _of_rows(posterior, seed)
    else:
        found = _of_levels(posterior, group, seed, levels)
    draws = posterior.draws
    count = next((v.shape[0] * v.shape[1] for v in draws.sites.values()), 1)
    return LeaveOneOut(found, group or "", threshold(max(count, 2)))


def _of_rows(posterior: Posterior, seed: int) -> Any:
    training = posterior.training
    predictive = Predictive(
        posterior.program, training.state, posterior.draws, RunOptions(False, "sample"), seed
    )
    efficiency = _efficiency(posterior)
    found = predictive.by_log_density(
        training.designs,
        training.response,
        training.held,
        lambda log_density: smoothed_out(log_density, efficiency),
    )
    rows, places = training.rows, np.arange(training.held)
    at = places if rows.places is None else np.asarray(rows.places)
    if rows.labels.form == "polars":
        return rows.labels.table({"row": at, **found})
    labels = rows.labels.at(places).index
    return pd.DataFrame(found, index=pd.Index(at, name="row") if labels is None else labels)


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
    found = smoothed_out(values[:, occurs], _efficiency(posterior))
    return posterior.by_level(group, [names[level] for level in occurs], found)


def smoothed_out(log_density: Array, efficiency: float) -> Mapping[str, Array]:
    """Elpd, p and k of each column of log p(y_j | draw), (draws, m)."""
    elpd, k, p = _statistics().loo(log_density[None], chain_axis=0, draw_axis=1, r_eff=efficiency)
    return {"elpd": np.asarray(elpd), "p": np.asarray(p), "k": np.asarray(k)}


def _efficiency(posterior: Posterior) -> float:
    """Effective draws for each draw: 1 but for chains, whose draws depend on each other."""
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


def _statistics() -> Any:
    """Imported when it is needed: it takes longer to load than a small model to fit."""
    from arviz_stats.base.array import array_stats

    return array_stats
