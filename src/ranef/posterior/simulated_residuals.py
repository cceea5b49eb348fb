"""Scaled residuals by simulation and tests of them, as in R's package DHARMa (Hartig, 2024).

S tables of responses are simulated from the posterior predictive distribution. With group effects
drawn anew in each table the observed one is, if the model is right, one of S + 1 tables that
nothing tells apart. The scaled residual of a row is the rank of its response among the S + 1, made
continuous by a uniform number (Dunn and Smyth, 1996). A test compares a statistic of the observed
table with those of the simulated ones.

Overdispersion and excess zeros show within levels too, where the group effects are known. Their
tests therefore keep the effects of the posterior. The variance is taken around the means mu_is of
the same draw in the observed and in the simulated table (Gelman, Meng and Stern, 1996): around
posterior means, which the rows have shaped, it would be too small in the observed table.

Rows are gone through in chunks, and only counts and sums over rows are kept for each table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.families.base import Family
from ranef.lazy import jax, xr
from ranef.numerics.shapes import Float, Int
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive, refuse_limits
from ranef.posterior.row_draws import PredictedRows
from ranef.posterior.row_variances import WeightedVariance
from ranef.program.training import Designs, evenly
from ranef.terms.base import Design, RunOptions

# A number for each row, and for each table, of which the first is the observed one.
Vector = Float[NDArray[np.float64], "rows"]
PerTable = Float[NDArray[np.float64], "tables"]
PerDraw = Float[NDArray[np.float64], "draws"]
Tables = Float[NDArray[np.float64], "tables rows"]
Ranks = Int[NDArray[np.int64], "tables rows"]

# Simulated tables, as DHARMa simulates by default.
SIMULATIONS = 250
_COLUMNS = ["statistic", "expected", "p"]
# A p value below this is pointed out.
_POINTED_OUT = 0.05


@dataclass(frozen=True)
class SimulatedResiduals:
    """Scaled residuals, and statistics of the observed and of each simulated table.

    Attributes:
        scaled: scaled residual of each row, between 0 and 1.
        fitted: mean of each row's response over draws of the group effects too.
        ranks: number of rows of each table with each rank.
        outliers: number of rows of each table beyond all other tables.
        zeros: number of zeros of each table.
        spread: variance over rows of y_i - mu_is by draw, for the observed responses and for the
            simulated ones.
        counted: whether the responses are counts.
    """

    scaled: Vector
    fitted: Vector
    ranks: Int[NDArray[np.int64], "tables tables"]
    outliers: PerTable
    zeros: PerTable
    spread: tuple[PerDraw, PerDraw]
    counted: bool

    @classmethod
    def of(cls, rows: PredictedRows, predictive: Predictive) -> SimulatedResiduals:
        """Scaled residuals of rows, and the statistics of the tests.

        Args:
            rows: the rows, with their responses.
            predictive: predictions with one draw for each simulated table, in which the effects of
                new levels are drawn.
        """
        family = rows.program.family
        rng = np.random.default_rng(predictive.seed)
        scaled, fitted = np.empty(rows.n), np.empty(rows.n)
        counts: _RankCounts | None = None
        for places, observed, mean, drawn in _simulated(rows, redrawn(rows), predictive, rng):
            tables = np.concatenate([observed[None], drawn])
            counts = counts or _RankCounts.zero(len(tables))
            order = _ordered(tables, rng, family.discrete)
            ranks = counts.add(tables, order)
            scaled[places] = (ranks[0] + rng.random(len(places))) / len(tables)
            fitted[places] = mean.mean(axis=0)
        assert counts is not None
        zeros = np.zeros(len(counts.outliers))
        own, simulated = WeightedVariance(), WeightedVariance()
        for places, observed, mean, drawn in _simulated(rows, rows.designs, predictive, rng):
            zeros += (np.concatenate([observed[None], drawn]) == 0).sum(axis=1)
            with np.errstate(over="ignore", invalid="ignore"):
                own.add(observed - mean, np.ones(len(places)))
                simulated.add(drawn - mean, np.ones(len(places)))
        counted = family.discrete and not family.categorised and family.name != "bernoulli"
        spread = (own.variance, simulated.variance)
        return cls(scaled, fitted, counts.ranks, counts.outliers, zeros, spread, counted)

    def tests(self) -> dict[str, tuple[float, float, float]]:
        """Statistic, its expectation under the model, and p value of each test.

        A p value is the share of the S + 1 tables whose statistic is at least as extreme as that
        of the observed one; for other tests than uniformity, twice the smaller share of the two
        sides (Davison and Hinkley, 1997, section 4.2).
        """
        distance = self._distances
        out = {
            "uniformity": (
                float(distance[0]),
                float(distance[1:].mean()),
                float(np.mean(distance >= distance[0])),
            )
        }
        observed, simulated = self.spread
        expected = float(simulated.mean())
        if np.isfinite(observed).all() and np.isfinite(expected) and expected > 0:
            ratio = float(observed.mean()) / expected
            out["dispersion"] = (ratio, 1.0, _two_sided(simulated, observed))
        out["outliers"] = (
            float(self.outliers[0]),
            float(self.outliers[1:].mean()),
            _two_sided(self.outliers[1:], self.outliers[0]),
        )
        if self.counted and self.zeros.any():
            out["zeros"] = (
                float(self.zeros[0]),
                float(self.zeros[1:].mean()),
                _two_sided(self.zeros[1:], self.zeros[0]),
            )
        return out

    def table(self) -> tuple[pd.DataFrame, str]:
        """The tests as a table, and the lines below it that say what stands out."""
        tests = self.tests()
        table = pd.DataFrame.from_dict(tests, orient="index", columns=_COLUMNS)
        table.index.name = "test"
        said = _sentences(self, tests)
        if "dispersion" not in tests:
            said.append("dispersion is left out, as the responses have no finite variance")
        return table, "\n".join(said or ["nothing stands out: every p value is at least .05"])

    @property
    def _distances(self) -> PerTable:
        """Largest distance of the distribution function of each table's ranks from the uniform.

        The Kolmogorov-Smirnov statistic of the scaled residuals, up to 1 / (S + 1).
        """
        reached = np.cumsum(self.ranks, axis=1) / self.ranks[0].sum()
        ranks = self.ranks.shape[1]
        return np.abs(reached - np.arange(1, ranks + 1) / ranks).max(axis=1)


@dataclass
class _RankCounts:
    """Running counts over rows, for each table.

    Attributes:
        ranks: number of rows with each rank.
        outliers: number of rows beyond all other tables.
    """

    ranks: Int[NDArray[np.int64], "tables tables"]
    outliers: PerTable

    @classmethod
    def zero(cls, tables: int) -> _RankCounts:
        """The counts of no rows."""
        return cls(np.zeros((tables, tables), np.int64), np.zeros(tables))

    def add(self, tables: Tables, order: Ranks) -> Ranks:
        """Add some rows, and return the rank of each table in each row, from 0.

        Args:
            tables: the responses.
            order: the tables in the order of their responses.
        """
        size, width = tables.shape
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(size)[:, None], axis=0)
        flat = np.arange(size)[:, None] * size + ranks
        self.ranks += np.bincount(flat.ravel(), minlength=size**2).reshape(size, size)
        columns = np.arange(width)
        for end, beside in ((0, 1), (-1, -2)):
            alone = tables[order[end], columns] != tables[order[beside], columns]
            self.outliers += np.bincount(order[end][alone], minlength=size)
        return ranks


def _simulated(
    rows: PredictedRows, designs: Designs, predictive: Predictive, rng: np.random.Generator
) -> Iterator[tuple[Ranks, Vector, Tables, Tables]]:
    """Places, responses, means by draw and simulated responses by draw, chunk by chunk."""
    family = rows.program.family
    with jax.enable_x64(True):
        for chunk in predictive.over(designs, rows.response, rows.n):
            refuse_limits(chunk)
            observed = np.asarray(chunk.response.value, np.float64)[: chunk.count]
            drawn = chunk.own(family.sample(rng, chunk.response, **chunk.values))
            mean = chunk.own(family.mean(chunk.response, **chunk.values))
            yield chunk.places, observed, mean, drawn


def redrawn(rows: PredictedRows) -> Designs:
    """The designs with every level of a grouping as a new one, whose effects are drawn anew."""
    out = dict(rows.designs)
    state = rows.posterior.training.state
    for (label, place), grouped in rows.program.level_sites(state).items():
        design = out[label]
        codes = np.asarray(design.arrays[grouped.codes])
        number = grouped.levels + design.unseen(place)
        new = list(design.new)
        new[place] = tuple(f"{place}:{level}" for level in range(number))
        arrays = {**design.arrays, grouped.codes: (codes + grouped.levels).astype(codes.dtype)}
        out[label] = Design(arrays, tuple(new))
    return out


def scaled_residuals(posterior: Posterior, seed: int) -> xr.Dataset:
    """The group "scaled_residuals" of a DataTree: scaled and fitted, (row,), of training rows.

    Attributes hold the p value of each test, by its name.

    Raises:
        OptionError: for categories without an order.
    """
    refuse_unordered(posterior.program.family, "scaled residuals")
    rows = some_rows(posterior, None)
    predictive = Predictive(
        posterior.program,
        posterior.training.state,
        posterior.draws.thinned(SIMULATIONS),
        RunOptions(training=False, new_levels="sample"),
        seed,
    )
    found = SimulatedResiduals.of(rows, predictive)
    return xr.Dataset(
        {"scaled": ("row", found.scaled), "fitted": ("row", found.fitted)},
        {"row": evenly(posterior.training.held)},
        {name: p for name, (_, _, p) in found.tests().items()},
    )


def refuse_unordered(family: Family, what: str) -> None:
    """Refuse residuals of categories without an order.

    Args:
        family: the family of the response.
        what: what was asked for, in the plural.

    Raises:
        OptionError: naming the response.
    """
    if family.name == "categorical":
        raise OptionError(
            f"the categories of {family.response.value} have no order, so there are no {what}; "
            "family='ordinal' is for ordered ones"
        )


def some_rows(posterior: Posterior, data: object) -> PredictedRows:
    """At most 20,000 evenly spaced rows of a table, or of the training rows if it is None.

    Args:
        posterior: the posterior of the fit.
        data: a table or path with the response, or None.

    Raises:
        OptionError, DataError, ColumnError: as `PredictedRows.of`.
    """
    if data is None:
        training = posterior.training
        labels = training.rows.labels
        rows = PredictedRows(
            posterior,
            posterior.program,
            training.designs,
            training.response,
            training.held,
            labels,
            None,
        )
    else:
        rows = PredictedRows.of(
            posterior, data, groups="all", new_levels="sample", response=True, companion=True
        )
    places = evenly(rows.n)
    if len(places) == rows.n:
        return rows
    designs, response = jax.tree.map(
        lambda a: np.asarray(a)[places], (dict(rows.designs), rows.response)
    )
    return replace(
        rows, designs=designs, response=response, n=len(places), labels=rows.labels.at(places)
    )


def _sentences(
    found: SimulatedResiduals, tests: Mapping[str, tuple[float, float, float]]
) -> list[str]:
    """What each test with a small p value says."""
    out = []
    for name, (statistic, expected, p) in tests.items():
        if p >= _POINTED_OUT:
            continue
        if name == "uniformity":
            out.append(
                "uniformity: the distribution of the responses is not that of the family at the "
                "fitted predictors; rf.plots.residual_checks(fit) shows where"
            )
        elif name == "dispersion":
            what = "overdispersion" if statistic > 1 else "underdispersion"
            out.append(
                f"dispersion: responses vary {statistic:.2g} times as much as the model says "
                f"({what})"
            )
        elif name == "outliers":
            out.append(
                f"outliers: {statistic:,.0f} of {len(found.scaled):,} responses lie beyond all "
                f"simulated ones, and {expected:,.1f} are expected"
            )
        else:
            out.append(
                f"zeros: {statistic:,.0f} responses are zero, and {expected:,.1f} are expected"
            )
    return out


def _two_sided(simulated: PerDraw, observed: PerDraw | float) -> float:
    """Twice the smaller share of tables with at most, or at least, the observed statistic.

    The observed table is one of the tables, and so counts in both shares. At most 1.
    """
    size = len(simulated) + 1
    below = 1 + np.count_nonzero(simulated <= observed)
    above = 1 + np.count_nonzero(simulated >= observed)
    return float(min(1.0, 2 * min(below, above) / size))


def _ordered(tables: Tables, rng: np.random.Generator, discrete: bool) -> Ranks:
    """The tables in the order of their responses in each row; ties are broken at random."""
    if discrete:
        return np.lexsort((rng.random(tables.shape), tables), axis=0)
    return np.argsort(tables, axis=0)
