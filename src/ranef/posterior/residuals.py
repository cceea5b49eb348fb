"""Residuals of rows: of the response, divided by its sd, and quantile residuals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from ranef.errors import OptionError
from ranef.lazy import jax
from ranef.numerics.shapes import Float
from ranef.posterior.predictive import Predictive, refuse_limits
from ranef.posterior.row_draws import PredictedRows
from ranef.posterior.row_variances import share_or_mean, trials_of

Vector = Float[NDArray[np.float64], "rows"]

# Quantile residuals are cut where a probability is as near to 1 as doubles are, some 8.2 sds out.
_NEAREST = 2.0**-53


def response_residuals(rows: PredictedRows, predictive: Predictive) -> Vector:
    """y_i less the posterior mean of its mean; shares of successes for binomial responses."""
    out = np.empty(rows.n)
    with jax.enable_x64(True):
        for chunk in predictive.over(rows.designs, rows.response, rows.n):
            observed = np.asarray(chunk.response.value) / trials_of(chunk.response)
            out[chunk.places] = observed[: chunk.count] - share_or_mean(chunk).mean(axis=0)
    return out


def pearson_residuals(rows: PredictedRows, predictive: Predictive) -> Vector:
    """The posterior mean of (y_i - mu_i) / sd(y_i | parameters).

    Raises:
        OptionError: where the variance of the response is infinite in a draw.
    """
    out, family = np.empty(rows.n), rows.program.family
    with jax.enable_x64(True):
        for chunk in predictive.over(rows.designs, rows.response, rows.n):
            refuse_limits(chunk)
            observed = np.asarray(chunk.response.value, np.float64)[: chunk.count]
            mean = share_or_mean(chunk) * trials_of(chunk.response)[: chunk.count]
            variance = chunk.own(family.variance(chunk.response, **chunk.values))
            if not np.isfinite(variance).all():
                raise OptionError(
                    "Pearson residuals divide by the sd of the response, which is infinite in some "
                    "draws; ask for kind='quantile'"
                )
            # Where a probability is 0 or 1 to all digits, so is the response or the draw is off.
            sd = np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))
            with np.errstate(over="ignore"):
                out[chunk.places] = ((observed - mean) / sd).mean(axis=0)
    return out


def quantile_residuals(rows: PredictedRows, predictive: Predictive, seed: int) -> Vector:
    """Randomized quantile residuals (Dunn and Smyth, 1996): the normal quantile of the PIT."""
    limits = predictive.transform_limits(rows.designs, rows.response, rows.n)
    share = np.random.default_rng(seed).random(rows.n)
    pit = limits["lower"] + share * (limits["upper"] - limits["lower"])
    return ndtri(np.clip(pit, _NEAREST, 1 - _NEAREST))
