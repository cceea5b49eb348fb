"""Pareto-smoothed importance weights and their diagnostic k-hat (Vehtari et al., 2024)."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def smoothed(log_ratios: Array) -> tuple[Array, float]:
    """Normalised weights with a smoothed upper tail, (S,), and k-hat of the tail.

    The largest min(S / 5, 3 sqrt(S)) ratios are replaced by quantiles of a generalised
    Pareto distribution fitted to them.
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
            k = -np.inf  # the weights are all alike
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


def fit(excess: Array) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution, `excess` (m,) in increasing order.

    Zhang and Stephens (2009), the shape drawn towards .5 by ten observations' worth.
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
    """The largest k-hat under which the weights of `size` draws can be relied on."""
    return min(1 - 1 / np.log10(size), 0.7)
