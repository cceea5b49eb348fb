"""Gauss and Hermite's quadrature: averages over normal variables, and integrals over levels."""

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class OverLevels:
    """Integrals over one effect root u_j of each level j, u_j ~ N(0, 1), that adds root z_i u_j.

    Attributes:
        codes: (n,) level j of each row.
        column: (n,) z.
        place: of the predictor that it adds to.
        count: of nodes x, which lie at u = centre + scale x.
        centre, scale: (J,) by level.
    """

    codes: NDArray[Any]
    column: Array
    place: int
    count: int
    centre: Array
    scale: Array

    @property
    def u(self) -> Array:
        """(count, J)."""
        return self.centre + self.scale * hermite(self.count)[0][:, None]

    @property
    def log_weights(self) -> Array:
        """(count, J) of exp(f(u) - u^2 / 2) / sqrt(2 pi) at u in the integral of it."""
        nodes, weights = hermite(self.count)
        each = np.log(weights) + nodes**2 / 2 - 0.5 * math.log(2 * math.pi)
        return each[:, None] + np.log(self.scale)


@dataclass(frozen=True)
class Integrated:
    """Sum over levels j of log int p(y_j | base + root z u) N(u; 0, 1) du, and what goes with it.

    Attributes:
        value: the sum.
        mean, variance: (J,) of u given the rows of the level.
        slope: (n, K) derivative of the sum in `base`.
        by_number: its derivatives in the family's numbers.
    """

    value: float
    mean: Array
    variance: Array
    slope: Array
    by_number: Mapping[str, Array]
