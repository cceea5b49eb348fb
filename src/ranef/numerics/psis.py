"""Pareto-smoothed importance sampling (PSIS) and its diagnostic k-hat (Vehtari et al., 2024)."""

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

Array = NDArray[np.float64]


def smoothed(log_ratios: Float[Array, "draws"]) -> tuple[Float[Array, "draws"], float]:
    """Normalised importance weights with a smoothed upper tail.

    The largest min(S / 5, 3 sqrt(S)) ratios are replaced by quantiles of a generalised Pareto
    distribution that is fitted to them.

    Args:
        log_ratios: logarithms of the unnormalised importance ratios, S in number.

    Returns:
        The weights, which sum to one, and k-hat, the shape of the fitted distribution. It is
        infinite if there are too few ratios to fit one, and -infinity if the ratios of the tail
        are equal.
    """
    size = len(log_ratios)
    log_weights = log_ratios - log_ratios.max()
    tail = int(min(0.2 * size, 3 * np.sqrt(size)))
    k = np.inf
    if tail >= 5:
        order = np.argsort(log_weights, kind="stable")
        places, cut = order[-tail:], np.exp(log_weights[order[-tail - 1]])
        excess = np.exp(log_weights[places]) - cut
        if excess[-1] <= 1e-12 * max(cut, np.finfo(np.float64).tiny):
            k = -np.inf  # All ratios of the tail are equal.
        elif excess[0] >= 0 and np.isfinite(excess).all():
            k, scale = fit(excess)
            if np.isfinite(k):
                share = (np.arange(tail) + 0.5) / tail
                quantiles = (
                    -scale * np.log1p(-share) if abs(k) < 1e-9
                    else scale * np.expm1(-k * np.log1p(-share)) / k
                )  # fmt: skip
                log_weights[places] = np.minimum(np.log(cut + quantiles), 0.0)
    weights = np.exp(log_weights)
    return weights / weights.sum(), float(k)


def fit(excess: Float[Array, "tail"]) -> tuple[float, float]:
    """Fit a generalised Pareto distribution by the method of Zhang and Stephens (2009).

    The shape is shrunk towards 1/2 with the weight of ten observations.

    Args:
        excess: values above the threshold, in increasing order.

    Returns:
        Shape and scale.
    """
    x = np.maximum(excess, np.finfo(np.float64).tiny)
    n = len(x)
    count = 30 + int(np.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    b = 1 / x[-1] + (1 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3 * quartile)
    shapes = np.log1p(-b[:, None] * x).mean(axis=1)
    with np.errstate(all="ignore"):
        profile = n * (np.log(-b / shapes) - shapes - 1)
        weights = 1 / np.exp(profile - profile[:, None]).sum(axis=1)
    weights = np.where(np.isfinite(weights), weights, 0.0)
    mean = float((b * weights).sum() / weights.sum())
    k = float(np.log1p(-mean * x).mean())
    scale = -k / mean
    return (n * k + 10 * 0.5) / (n + 10), scale


def threshold(size: int) -> float:
    """The largest k-hat with which importance weights of `size` draws are reliable."""
    return min(1 - 1 / np.log10(size), 0.7)
