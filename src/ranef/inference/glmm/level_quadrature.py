"""Integrals over the effects of each level, by Gauss and Hermite's quadrature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.gauss_hermite import hermite

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LevelQuadrature:
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
class LevelIntegrals:
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
