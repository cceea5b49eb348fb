"""Regression of the conditional means of coefficients on the hyperparameters theta.

Draws of theta that share one factorization form a cell (``hyperparameter_cells``). Within a cell
the conditional means follow a surface, which is fitted to the conditional means of all cells:

    E[b | theta, y] = E[b | centre, y] + B (phi(theta) - mean of phi in the cell)

The features phi are theta, rotated and scaled, and with enough cells also its squares and products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.lmm.hyperparameter_cells import ThetaCell, quadratic_terms
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Cells for each coefficient of the quadratic surface below which the surface is linear.
_FOR_SQUARES = 1.5
# Ridge penalty of the surface, relative to the variance of the draws. It shrinks the slopes to
# zero along directions in which the centres of the cells hardly differ.
_RIDGE = 1e-3
# Principal directions of theta with less than this share of the largest variance are dropped.
_SAME = 1e-10


@dataclass(frozen=True)
class MeanSurface:
    """Ridge regression of the conditional means of all cells on m features of their centres.

        B = sum_c E[b | centre_c] w_c'

    The weights w_c do not depend on the means, so that B is a sum over cells.

    Attributes:
        weights: the w_c. They sum to zero over cells.
        away: the features of each draw less their mean in its cell.
    """

    weights: Float[Array, "cells m"]
    away: Float[Array, "draws m"]

    @classmethod
    def through(
        cls, x: Float[Array, "draws d"], cells: Sequence[ThetaCell]
    ) -> "MeanSurface | None":
        """The surface for draws x.

        Returns:
            The surface, or None if there is only one cell or if every draw has its own solution.
        """
        if len(cells) == 1 or all(len(cell.x) == len(cell.members) for cell in cells):
            return None
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))
        kept = values > _SAME * values[-1]
        # Whitened coordinates: the covariance of the draws is the identity.
        whiten = vectors[:, kept] / np.sqrt(values[kept])
        squares = len(cells) >= _FOR_SQUARES * quadratic_terms(whiten.shape[1])
        middle = x.mean(axis=0)

        def features(x: Array) -> Array:
            z = (x - middle) @ whiten
            if not squares:
                return z
            i, j = np.triu_indices(z.shape[1])
            return np.concatenate([z, z[:, i] * z[:, j]], axis=1)

        share = np.array([len(cell.members) for cell in cells]) / len(x)
        centres = features(np.concatenate([cell.x for cell in cells]))
        centres -= share @ centres
        weighted = share[:, None] * centres
        gram = centres.T @ weighted + _RIDGE * np.eye(centres.shape[1])
        away = features(x)
        for cell in cells:
            away[cell.members] -= away[cell.members].mean(axis=0)
        return cls(np.asarray(np.linalg.solve(gram, weighted.T).T, np.float64), away)

    def variances(self, slopes: Float[Array, "m *shape"]) -> Float[Array, "*shape"]:
        """Variances of B phi within cells, averaged over draws, for B' `slopes`."""
        within = np.linalg.qr(self.away / np.sqrt(len(self.away)), mode="r")
        return np.asarray((np.tensordot(within, slopes, axes=1) ** 2).sum(axis=0))


class SurfaceProducts:
    """B' of a surface, "m ...", accumulated over cells; zero without a surface."""

    def __init__(self, surface: MeanSurface | None) -> None:
        self.surface, self.total = surface, np.zeros(())

    def add(self, place: int, means: Float[Array, "_B ..."]) -> None:
        """Add the conditional means of the cell with index `place`, of which the first counts."""
        if self.surface is not None:
            self.total = self.total + np.multiply.outer(self.surface.weights[place], means[0])

    def variances(self) -> Array:
        """Variance of the conditional means within cells, which the surface adds."""
        return np.zeros(()) if self.surface is None else self.surface.variances(self.total)
