"""Integrals over the effects of each level, by adaptive Gauss-Hermite quadrature."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.glmm.arrays import Array, PerLevel, PerRow, Predictors
from ranef.numerics.gauss_hermite import hermite
from ranef.numerics.shapes import Float, Int

Nodes = Float[Array, "count J"]


@dataclass(frozen=True)
class LevelQuadrature:
    """Quadrature over one standardised effect u_j ~ N(0, 1) per level j.

    The effect adds root z_i u_j to a predictor of row i, root being the sd of the effects.

    Attributes:
        codes: level j of each row.
        column: z.
        place: which predictor the effect is added to.
        count: number of nodes x, placed at u = centre + scale x.
        centre, scale: by level.
    """

    codes: Int[NDArray, "n"]
    column: PerRow
    place: int
    count: int
    centre: PerLevel
    scale: PerLevel

    @property
    def u(self) -> Nodes:
        """The nodes."""
        return self.centre + self.scale * hermite(self.count)[0][:, None]

    @property
    def log_weights(self) -> Nodes:
        """Log quadrature weights.

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
        mean, variance: posterior moments of u given the level's rows.
        slope: derivatives of the sum in the predictors `base`.
        by_number: derivatives of the sum in the family parameters.
    """

    value: float
    mean: PerLevel
    variance: PerLevel
    slope: Predictors
    by_number: Mapping[str, Array]
