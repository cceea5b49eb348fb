"""Variances over the training rows of what a model predicts, for every posterior draw.

Rows are gone through in chunks, and only sums over rows are kept.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.families.response_design import ResponseDesign
from ranef.lazy import jax
from ranef.numerics.shapes import Float
from ranef.posterior.new_rows import limited_program
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.posterior.program_replay import Matrix, RowChunk, refuse_out_of_reach
from ranef.program.program import Program
from ranef.program.training import Rows
from ranef.terms.base import RunOptions
from ranef.terms.capabilities import KnownSummand

# A number for each draw, and for each row of a chunk.
PerDraw = Float[NDArray[np.float64], "draws"]
Vector = Float[NDArray[np.float64], "rows"]

# Largest value of draws x rows, unless there are more rows, and the least number of draws.
_CELLS = 200_000_000
_LEAST_DRAWS = 200
# Largest share of a sum of squares that rounding can leave as a variance.
_ROUNDING = 1e-13


@dataclass
class WeightedVariance:
    """Running variance over rows of a quantity, for each draw: sum w (a - m)^2 / (sum w - 1).

    Attributes:
        total: sum of the weights.
        origin: a number near the values, which keeps the sums of squares from cancelling.
        sums: sums over rows of w (a - origin), by draw.
        squares: sums over rows of w (a - origin)^2, by draw.
    """

    total: float = 0.0
    origin: float = 0.0
    sums: PerDraw = field(default_factory=lambda: np.zeros(1))
    squares: PerDraw = field(default_factory=lambda: np.zeros(1))

    def add(self, values: Matrix, weights: Vector) -> None:
        """Add the values of some rows, with a weight for each row."""
        if not self.total:
            self.origin = float(values.mean())
        away = values - self.origin
        self.total += float(weights.sum())
        self.sums = self.sums + away @ weights
        self.squares = self.squares + away**2 @ weights

    @property
    def variance(self) -> PerDraw:
        """The variance over all rows that were added; zero for a single row."""
        if self.total <= 1:
            return np.zeros_like(self.sums)
        with np.errstate(over="ignore", invalid="ignore"):
            around = self.squares - self.sums**2 / self.total
            # What is left of a constant is the rounding of the sums.
            around = np.where(around <= _ROUNDING * self.squares, 0.0, around)
        return around / (self.total - 1)


@dataclass(frozen=True)
class RowVariances:
    """Variances over the training rows on the scale of the response, by draw.

    Attributes:
        mean: variance of the mean of the response, given all effects.
        common: variance of the mean with all group effects zero.
        groups: variance of the difference of the two.
        residual: mean over rows of the variance of the response given its parameters.
    """

    mean: PerDraw
    common: PerDraw
    groups: PerDraw
    residual: PerDraw

    @classmethod
    def of(cls, posterior: Posterior) -> RowVariances:
        """The variances, from all training rows.

        Of more than 200 million draws x rows fewer draws are used, but at least 200. A row of a
        binomial response counts once for each of its trials, of which the response is then the
        mean, so that rows with the same predictors may be merged or not.
        """
        most = max(_LEAST_DRAWS, _CELLS // posterior.training.rows.used)
        whole = predictive_of(posterior, most=most)
        beside = None
        if posterior.program.groupings():
            beside = predictive_of(posterior, limited_program(posterior, None), most)
        mean, common, groups = WeightedVariance(), WeightedVariance(), WeightedVariance()
        residual: PerDraw = np.zeros(1)
        total = 0.0
        with jax.enable_x64(True):
            for rows in posterior.training.parts():
                for chunk in whole.over(rows.designs, rows.response, rows.n):
                    weights = trials_of(chunk.response)[: chunk.count]
                    location = share_or_mean(chunk)
                    variance = own_variance(chunk)
                    mean.add(location, weights)
                    residual = residual + variance @ weights
                    total += float(weights.sum())
                    if beside is not None:
                        alone = _same_rows(beside, rows, chunk)
                        common.add(alone, weights)
                        groups.add(location - alone, weights)
        both = mean if beside is None else common
        return cls(mean.variance, both.variance, groups.variance, residual / total)


def common_variance(posterior: Posterior) -> PerDraw:
    """Variance over the training rows of the location's predictor without group effects, by draw.

    Offsets are left out, since they are known; networks and curves are included.
    """
    program = limited_program(posterior, None)
    program = copy.copy(program)
    program.terms = {
        name: tuple(term for term in terms if not isinstance(term, KnownSummand))
        for name, terms in program.terms.items()
    }
    found, predictive = WeightedVariance(), predictive_of(posterior, program)
    with jax.enable_x64(True):
        for rows in posterior.training.parts():
            for chunk in predictive.over(rows.designs, rows.response, rows.n):
                eta = chunk.own(chunk.predictors[program.location])
                found.add(eta, np.ones(chunk.count))
    return found.variance


def mean_residual(posterior: Posterior) -> PerDraw:
    """Mean over the training rows of the variance of the response, by draw."""
    total: PerDraw = np.zeros(1)
    count, predictive = 0, predictive_of(posterior)
    with jax.enable_x64(True):
        for rows in posterior.training.parts():
            for chunk in predictive.over(rows.designs, rows.response, rows.n):
                total = total + own_variance(chunk).sum(axis=1)
                count += chunk.count
    return total / count


def predictive_of(
    posterior: Posterior, program: Program | None = None, most: int | None = None
) -> Predictive:
    """Predictions of the training rows.

    Args:
        posterior: the posterior of the fit.
        program: a part of the program of the fit; None for all of it.
        most: largest number of draws; None for all of them.
    """
    draws = posterior.draws
    chains, each = draws.shape
    if most is not None and most < chains * each:
        draws = draws.thinned(most)
    options = RunOptions(training=False, new_levels="zero")
    return Predictive(
        program or posterior.program, posterior.training.state, draws, options, seed=0
    )


def share_or_mean(chunk: RowChunk) -> Matrix:
    """Draws of the mean of the response; of a binomial response, of the share of successes."""
    location = chunk.own(chunk.family.mean(chunk.response, **chunk.values))
    refuse_out_of_reach(location, chunk.places)
    return location / trials_of(chunk.response)[: chunk.count]


def own_variance(chunk: RowChunk) -> Matrix:
    """Draws of the variance of the response; of one trial of a binomial response.

    For a t distribution it is the squared scale, since its variance may be infinite.
    """
    values, response = chunk.values, chunk.response
    if chunk.family.name == "student":
        squared = np.asarray(values["sigma"], np.float64) ** 2
        weights = response.weights
        return chunk.own(squared if weights is None else squared / weights)
    variance = chunk.own(chunk.family.variance(response, **values))
    return variance / trials_of(response)[: chunk.count]


def trials_of(response: ResponseDesign) -> Vector:
    """Number of trials of each row; one for responses other than the binomial."""
    if response.form == "trials":
        return np.asarray(response.companion, np.float64)
    return np.ones(len(np.asarray(response.value)))


def _same_rows(predictive: Predictive, rows: Rows, chunk: RowChunk) -> Matrix:
    """Draws of the mean of the rows of a chunk by another program, in the same order."""
    designs, response = jax.tree.map(
        lambda a: np.asarray(a)[chunk.places], (rows.designs, rows.response)
    )
    out = np.empty((0, 0))
    for own in predictive.over(designs, response, chunk.count):
        values = share_or_mean(own)
        if not out.size:
            out = np.empty((len(values), chunk.count))
        out[:, own.places] = values
    return out
