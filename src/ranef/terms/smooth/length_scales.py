"""Plausible length scales of a Gaussian process on the ranges of its columns, and their prior."""

import math
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import optimize, stats
from ranef.numerics.shapes import Float
from ranef.terms.smooth.ranges import ColumnRanges

# Shortest and longest length scale of each column.
Lengths = Float[NDArray[np.float64], "d 2"]

# Shortest plausible length scale as a share of the range of a column, by the number of columns.
_SHORTEST = {1: 1 / 20, 2: 1 / 5, 3: 1 / 4}
# Lower bound on this share for a function of every level.
_SHORTEST_BY_LEVEL = 1 / 10
# Prior probability of a length scale below the shortest plausible one, and above the longest.
_TAIL = 0.01


def plausible(seen: ColumnRanges, by_level: bool) -> Lengths:
    """The shortest and longest plausible length scale of each column.

    Args:
        seen: ranges of the columns.
        by_level: whether every level of a grouping has a function of its own.
    """
    half = (seen.high - seen.low) / 2
    share = _SHORTEST[len(half)]
    if by_level:
        share = max(share, _SHORTEST_BY_LEVEL)
    # A length scale below the average distance between distinct values cannot be resolved.
    spacing = 1 / (np.array(seen.distinct()) - 1)
    out = np.outer(2 * half, [0.0, 1.0])
    out[:, 0] = 2 * half * np.minimum(np.maximum(share, spacing), 0.25)
    return out


def common(lengths: Lengths) -> Lengths:
    """The shortest and longest plausible length scale when all columns share one."""
    return np.repeat([[lengths[:, 0].max(), lengths[:, 1].max()]], len(lengths), axis=0)


def inverse_gamma(low: float, high: float) -> tuple[float, float]:
    """Shape and scale of the inverse gamma distribution with probability `_TAIL` in each tail.

    The tails are below `low` and above `high`. The likelihood is flat for length scales that are
    shorter than the data resolve, or so long that the function is a line over their range; the
    prior bounds the length scale from both (Betancourt, 2017).
    """

    def excess(log_alpha: float) -> float:
        prior = stats.invgamma(math.exp(log_alpha))
        return float(np.log(prior.ppf(1 - _TAIL) / prior.ppf(_TAIL))) - math.log(high / low)

    root = cast(float, optimize.brentq(excess, -1.0, 7.0))
    alpha = math.exp(root)
    return alpha, float(low / stats.invgamma(alpha).ppf(_TAIL))
