"""The reference posterior with which an approximation q is compared.

It holds draws of q and moments of the posterior in the same coordinates phi: common effects as
they are; a positive parameter t as asinh(t / m), with m its posterior median; correlations as the
inverse hyperbolic tangent of their canonical partial correlations. asinh(t / m) behaves as a
logarithm far above m, and is linear near zero, so that values near zero do not form a long tail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.psis import smoothed
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]
Vector = Float[Array, "d"]
Matrix = Float[Array, "d d"]
# Draws of all coordinates.
Draws = Float[Array, "draws d"]
# Numbers by level.
ByLevel = Float[Array, "_"]
# Draws of a parameter by q, draws of the reference, and the weights of these.
ScaleDraws = tuple[Float[Array, "draws"], Float[Array, "weighted"], Float[Array, "weighted"]]


@dataclass(frozen=True)
class Reference:
    """A reference posterior, beside the draws of q that are checked.

    Attributes:
        labels: names of the coordinates phi.
        q: draws of the approximation.
        mean: mean of the reference.
        covariance: covariance of the reference.
        size: effective number of independent draws behind the moments of the reference.
        k_hat: of q for the posterior of phi, everything else integrated out; None if it was not
            computed, as when q is not known to be normal.
        scales: positive parameters on their original scale. By label: draws of q, draws of the
            reference and the weights of these.
        levels: group effects. By site: mean and sd under q, mean and sd under the reference.
        level_k_hat: largest k-hat over single levels; None if it was not computed.
        levels_seen: number of levels for which it was computed.
        kurtosis: of the effects under q, by site, at least the 3 of a normal distribution.
        source: how the reference was computed, as a phrase.
    """

    labels: tuple[str, ...]
    q: Draws
    mean: Vector
    covariance: Matrix
    size: float
    k_hat: float | None
    scales: Mapping[str, ScaleDraws]
    levels: Mapping[str, tuple[ByLevel, ByLevel, ByLevel, ByLevel]]
    level_k_hat: float | None = None
    levels_seen: int = 0
    kurtosis: Mapping[str, ByLevel] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class NoReference:
    """The answer where no reference could be computed.

    Attributes:
        reason: why, as a clause.
    """

    reason: str


def scale_coordinate(values: Float[Array, "draws"], middle: float) -> Float[Array, "draws"]:
    """asinh(t / m) of values t with median m, `middle`."""
    return np.arcsinh(values / max(middle, np.finfo(np.float64).tiny))


def kurtosis_of(draws: Float[Array, "draws m"]) -> Float[Array, "m"]:
    """Kurtosis E (x - m)^4 / s^4 of each column, at least 3 as of a normal distribution."""
    square = (draws - draws.mean(axis=0)) ** 2
    variance = np.maximum(square.mean(axis=0), np.finfo(np.float64).tiny)
    return np.maximum((square**2).mean(axis=0) / variance**2, 3.0)


def normal_k_hat(z: Draws, log_density: Float[Array, "draws"]) -> float | None:
    """k-hat of a normal q for a target.

    The density of q is that of the normal distribution with the moments of the draws.

    Args:
        z: draws of q.
        log_density: log density of the target at these draws, up to a constant.

    Returns:
        k-hat; None if there are too few draws to estimate their covariance, fewer than 20 d, or if
        it is singular.
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
