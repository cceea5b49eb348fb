"""Gauss-Hermite quadrature: expectations over standard normal variables."""

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Nodes in each dimension by number of linear predictors; with more predictors than these, Stroud's
# rule of degree three is used, as a product rule would have too many points.
_NODES = {1: 7, 2: 5}


@functools.cache
def hermite(count: int) -> tuple[Float[Array, "{count}"], Float[Array, "{count}"]]:
    """Nodes and weights for integrals of f(x) exp(-x^2 / 2); they are cached.

    With the weights divided by their sum, the rule gives the expectation of f(x) for standard
    normal x.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights


def nodes_of(k: int) -> int:
    """The `count` of `rule` for the expectation over k uncertain linear predictors."""
    return _NODES.get(k, 0)


def rule(k: int, count: int) -> tuple[Float[Array, "points {k}"], Float[Array, "points"]]:
    """Points and weights for expectations over a standard normal vector.

    Args:
        k: dimension.
        count: nodes in each dimension of a product of Gauss-Hermite rules, with count^k points; 0
            for the rule of degree three of Stroud (1971), with 2 k points.
    """
    if count:
        nodes, weights = hermite(count)
        points = np.array(list(itertools.product(nodes, repeat=k)))
        shares = np.array(list(itertools.product(weights / weights.sum(), repeat=k)))
        return points, shares.prod(axis=1)
    points = math.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    return points, np.full(2 * k, 1 / (2 * k))
