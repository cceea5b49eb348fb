"""Gauss and Hermite's quadrature: averages over normal variables."""

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Nodes for each predictor where rows may be uncertain; of more predictors the rule of degree three.
_NODES = {1: 7, 2: 5}


@functools.cache
def hermite(count: int) -> tuple[Array, Array]:
    """Nodes and weights for integrals of f(x) exp(-x^2 / 2), (count,) each, made once.

    With the weights divided by their sum it is the average of f over a standard normal x.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights


def nodes_of(k: int) -> int:
    """How many nodes `rule` is to have for k predictors that may be uncertain."""
    return _NODES.get(k, 0)


def rule(k: int, count: int) -> tuple[Array, Array]:
    """Points (m, k) and weights (m,) for averages over a standard normal vector.

    A product of rules of `count` nodes, or of degree three (Stroud, 1971) for a count of 0.
    """
    if count:
        nodes, weights = hermite(count)
        points = np.array(list(itertools.product(nodes, repeat=k)))
        shares = np.array(list(itertools.product(weights / weights.sum(), repeat=k)))
        return points, shares.prod(axis=1)
    points = math.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    return points, np.full(2 * k, 1 / (2 * k))
