"""Gauss and Hermite's quadrature."""

import functools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@functools.cache
def hermite(count: int) -> tuple[Array, Array]:
    """Nodes and weights for integrals of f(x) exp(-x^2 / 2), (count,) each, made once.

    With the weights divided by their sum it is the average of f over a standard normal x.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights
