"""R2 by leave-one-out: how much of the variance of the response its predictions explain.

    R2 = 1 - V(y_i - m_i) / V(y_i),    m_i = E[y_i | y_-i]

The predictions m_i come from importance sampling without refits (PSIS), and the distribution of R2
from the Bayesian bootstrap, which gives the rows random weights (Vehtari, Gelman, Goodrich and
Gabry, 2019; Rubin, 1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError
from ranef.lazy import jax
from ranef.numerics.psis import threshold
from ranef.numerics.shapes import Float
from ranef.posterior.loo import LEAST_DRAWS, relative_efficiency
from ranef.posterior.posterior import Posterior
from ranef.posterior.program_replay import Matrix
from ranef.posterior.row_variances import Vector, predictive_of, share_or_mean, trials_of

# Resamples of the bootstrap.
Samples = Float[NDArray[np.float64], "resamples"]

# Number of resamples of the bootstrap, and the least number where there are very many rows.
_RESAMPLES = 4000
_LEAST_RESAMPLES = 500
# Largest number of weights of the bootstrap that is drawn in all, unless there are more rows.
_WEIGHTS = 200_000_000
# Largest number of weights that is held at once.
_CELLS = 4_000_000


@dataclass(frozen=True)
class LeaveOneOutR2:
    """The bootstrap distribution of R2 by leave-one-out.

    Attributes:
        samples: its resamples.
        bad: share of the rows whose k-hat is above the limit of reliable weights.
    """

    samples: Samples
    bad: float


def leave_one_out_r2(posterior: Posterior, seed: int) -> LeaveOneOutR2:
    """R2 by leave-one-out of the rows of a fit.

    Args:
        posterior: the posterior of the fit.
        seed: seed of the bootstrap.

    Raises:
        OptionError: if the fit has read its rows in batches, or has too few draws.
        DataError: for a response that is the same in every row.
    """
    training = posterior.training
    if training.stream is not None:
        raise OptionError(
            "leaving out needs every row, and this fit has read its rows in batches and kept a "
            "sample; ask for kind='bayes' or kind='nakagawa'"
        )
    chains, each = posterior.draws.shape
    if chains * each < LEAST_DRAWS:
        raise OptionError(
            f"kind='loo' needs at least {LEAST_DRAWS} draws, and the fit has {chains * each}; fit "
            "it with more, as in draws=1000"
        )
    response = training.response
    trials = trials_of(response)
    y = np.asarray(response.value, np.float64) / trials
    # Within a row of a binomial response, s of the trials are one and the others zero.
    within = y * (1 - y) if response.form == "trials" else np.zeros(len(y))
    predicted, k = _predictions(posterior)
    samples = _bootstrap(y, predicted, trials, within, seed)
    if not np.isfinite(samples).all():
        raise DataError(
            f"the response {posterior.program.formula.response.value} is the same in every row, "
            "so there is no variance to explain"
        )
    return LeaveOneOutR2(samples, float(np.mean(k > threshold(max(chains * each, 2)))))


def _predictions(posterior: Posterior) -> tuple[Vector, Vector]:
    """E[y_i | y_-i] and k-hat of every training row."""
    # Imported here because loading it takes longer than a small fit.
    from arviz_stats.base.array import array_stats

    training = posterior.training
    settings: dict[str, Any] = {"r_eff": relative_efficiency(posterior)}
    predicted, k = np.empty(training.held), np.empty(training.held)
    predictive = predictive_of(posterior)
    with jax.enable_x64(True):
        for chunk in predictive.over(training.designs, training.response, training.held):
            # The function takes log p(y_i | draw), and negates it for the importance ratios.
            log_density = predictive.log_density(chunk)
            log_weights, shape = array_stats.psislw(log_density, axis=0, **settings)
            weights = np.exp(np.asarray(log_weights).T)
            location = share_or_mean(chunk)
            predicted[chunk.places] = (weights * location).sum(axis=0) / weights.sum(axis=0)
            k[chunk.places] = shape
    return predicted, k


def _bootstrap(y: Vector, predicted: Vector, trials: Vector, within: Vector, seed: int) -> Samples:
    """Resamples of 1 - V(y - predicted) / V(y), cut to [-1, 1], under Dirichlet(1) weights.

    Args:
        y: the responses; the shares of binomial ones.
        predicted: their predictions.
        trials: number of trials of each row.
        within: variance of the trials within each row.
        seed: seed of the weights.
    """
    n = len(y)
    size = int(np.clip(_WEIGHTS // n, _LEAST_RESAMPLES, _RESAMPLES))
    rng = np.random.default_rng(seed)
    away, error = y - y.mean(), y - predicted
    columns = (
        np.stack([np.ones(n), away, away**2 + within, error, error**2 + within], axis=1)
        * trials[:, None]
    )
    sums = np.zeros((size, columns.shape[1]))
    step = max(1, _CELLS // size)
    for start in range(0, n, step):
        own = columns[start : start + step]
        # Weights of a Dirichlet distribution are exponential variates over their sum.
        sums += rng.standard_exponential((size, len(own))) @ own
    moments: Matrix = sums[:, 1:] / sums[:, :1]
    total = moments[:, 1] - moments[:, 0] ** 2
    left = moments[:, 3] - moments[:, 2] ** 2
    if not (total > 0).all():
        return np.full(size, np.nan)
    return np.clip(1 - left / total, -1.0, 1.0)
