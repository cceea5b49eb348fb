"""What an approximation is held against: draws of q and moments of the posterior, side by side.

Both are in coordinates phi: common effects as they are, a scale t as asinh(t / m) with m its
posterior median (a logarithm far above zero, and no wall at zero), correlations as the inverse
hyperbolic tangent of their canonical partial correlations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.psis import smoothed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The posterior beside the draws that are judged.

    Attributes:
        labels: of the coordinates phi, (d,).
        q: (S, d) draws of the approximation.
        mean, covariance: (d,) and (d, d) of the posterior.
        size: how many draws of the posterior its moments are as good as.
        k_hat: of q for the posterior of phi, everything else integrated; None where q is not
            known to be normal.
        scales: positive parameters as they are reported: label to draws of q (S,), draws of the
            posterior (R,) and the weights of these.
        levels: site of group effects to mean and sd under q and under the posterior, each (m,).
        level_k_hat: the worst over single levels; None where it was not looked for.
        levels_seen: how many levels that was over.
        kurtosis: of the effects under q, by site, (m,); normal ones have 3.
        source: how the reference was computed, as a phrase.
    """

    labels: tuple[str, ...]
    q: Array
    mean: Array
    covariance: Array
    size: float
    k_hat: float | None
    scales: Mapping[str, tuple[Array, Array, Array]]
    levels: Mapping[str, tuple[Array, Array, Array, Array]]
    level_k_hat: float | None = None
    levels_seen: int = 0
    kurtosis: Mapping[str, Array] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class NoReference:
    """That a reference could not be had.

    Attributes:
        reason: why, as a clause.
    """

    reason: str


def scale_coordinate(values: Array, middle: float) -> Array:
    """asinh(t / m)."""
    return np.arcsinh(values / max(middle, np.finfo(np.float64).tiny))


def kurtosis_of(draws: Array) -> Array:
    """Of each column, E (x - m)^4 / s^4, and at least the normal distribution's."""
    square = (draws - draws.mean(axis=0)) ** 2
    variance = np.maximum(square.mean(axis=0), np.finfo(np.float64).tiny)
    return np.maximum((square**2).mean(axis=0) / variance**2, 3.0)


def normal_k_hat(z: Array, log_density: Array) -> float | None:
    """k-hat of a normal q for a target, from draws z (S, d) of q and the target there (S,).

    q's density is that of the normal distribution of the draws' moments. None for more
    coordinates than these can tell the covariance of.
    """
    size, d = z.shape
    if d == 0 or size < 20 * d or not np.isfinite(log_density).any():
        return None
    away = z - z.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(away.T).reshape(d, d))
    if values[0] <= 0:
        return None
    log_q = -0.5 * ((away @ vectors) ** 2 / values).sum(axis=1) - 0.5 * np.log(values).sum()
    ratios = np.where(np.isfinite(log_density), log_density - log_q, -1e300)
    return smoothed(ratios)[1]
