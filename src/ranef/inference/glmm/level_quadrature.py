"""Integrals over the effects of each level, by adaptive Gauss-Hermite quadrature."""

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
    """Quadrature over one standardised effect u_j ~ N(0, 1) per level j.

    The effect adds root z_i u_j to a predictor of row i, root being the sd of the effects.

    Attributes:
        codes: (n,) level j of each row.
        column: (n,) z.
        place: which predictor the effect is added to.
        count: number of nodes x, placed at u = centre + scale x.
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
        """The nodes, (count, J)."""
        return self.centre + self.scale * hermite(self.count)[0][:, None]

    @property
    def log_weights(self) -> Array:
        """Log quadrature weights (count, J).

        The integral of exp(f(u)) N(u; 0, 1) is the sum over the nodes of exp(log_weights + f(u) -
        u^2 / 2).
        """
        nodes, weights = hermite(self.count)
        each = np.log(weights) + nodes**2 / 2 - 0.5 * math.log(2 * math.pi)
        return each[:, None] + np.log(self.scale)


@dataclass(frozen=True)
class LevelIntegrals:
    """Sum over levels j of log int p(y_j | base + root z u) N(u; 0, 1) du, and its derivatives.

    Attributes:
        value: the sum.
        mean, variance: (J,) posterior moments of u given the level's rows.
        slope: (n, K) derivatives of the sum in the predictors `base`.
        by_number: derivatives of the sum in the family parameters.
    """

    value: float
    mean: Array
    variance: Array
    slope: Array
    by_number: Mapping[str, Array]
