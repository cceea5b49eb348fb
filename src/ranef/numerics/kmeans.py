"""Clusters of numbers by k-means, with Lloyd's algorithm (Lloyd, 1982)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float, Int

# Smallest cluster, as a share of n / k.
_LEAST_PART = 0.1
# Largest number of rounds of k-means.
_ROUNDS = 100


def clusters(values: Float[NDArray, "n"], k: int) -> list[Int[NDArray[np.int64], "_"]]:
    """Clusters of numbers by Lloyd's k-means, started from k equal parts of the sorted numbers.

    Where a cluster would have fewer than max(2, 0.1 n / k) numbers, the equal parts are returned.

    Args:
        values: the numbers.
        k: number of clusters.

    Returns:
        for each cluster, in increasing order, the indices of its numbers.
    """
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    even = np.linspace(0, len(values), k + 1).round().astype(int)
    ends = even
    for _ in range(_ROUNDS):
        centres = np.array([ranked[a:b].mean() if b > a else np.nan for a, b in pairwise(ends)])
        middles = np.searchsorted(ranked, (centres[1:] + centres[:-1]) / 2)
        moved = np.r_[0, middles, len(values)]
        if np.isnan(centres).any() or np.array_equal(moved, ends):
            break
        ends = moved
    if np.diff(ends).min() < max(2, _LEAST_PART * len(values) / k):
        ends = even
    # With fewer numbers than clusters some parts are empty; those get all numbers.
    return [order[a:b] if b > a else order for a, b in pairwise(ends)]
