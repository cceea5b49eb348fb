"""Base class of log densities with derivatives in closed form, in NumPy.

    log p(y_i | eta_i, phi)

eta_i (K,) are the linear predictors of row i and phi the family parameters that are one number
(or vector) for all rows. A density gives the gradient and the Hessian in eta, the third derivative
in each predictor, and the gradient in phi. Nothing is compiled for these, in contrast to automatic
differentiation of ``densities``. The contract test of families compares the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# A number for each row.
PerRow = Float[Array, "n"]
# K predictors of each row at m points.
Predictors = Float[Array, "m n k"]
# The family parameters phi on their own scale (not the link scale), by name.
Numbers = Mapping[str, Array | float]
# Log p and its derivatives, one axis of length K for each derivative.
Derivatives = tuple[Float[Array, "m n ..."], ...]
# Weights of points and rows, or of points alone.
Weights = Float[Array, "m #n"]
# Sums over points of what `Derivatives` has.
Averages = tuple[Float[Array, "n ..."], ...]

_Density = TypeVar("_Density", bound="RowDensity")


class RowDensity(ABC):
    """Log density of n rows at m values of their predictors.

    Subclasses are frozen dataclasses whose arrays have the rows as their last axis. Overflow gives
    infinities or NaN, which callers must handle.
    """

    def take(self: _Density, rows: slice) -> _Density:
        """The density of some of the rows."""
        each = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        taken = {name: x[..., rows] for name, x in each.items() if isinstance(x, np.ndarray)}
        return replace(self, **taken)  # type: ignore[type-var]

    @abstractmethod
    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        """Log p and its derivatives in eta up to `order`.

        Args:
            eta: the predictors.
            numbers: phi.
            order: highest derivative, 0 to 3.

        Returns:
            `order` + 1 arrays: log p (m, n), gradient (m, n, K), Hessian (m, n, K, K), and the
            third derivative in each predictor alone (m, n, K).
        """

    @abstractmethod
    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        """Gradient in phi of the weighted sum of log p over points and rows.

        Args:
            eta: the predictors.
            numbers: phi.
            weights: of each point and row, or of each point for all rows.

        Returns:
            the derivative in each parameter, of the parameter's shape, by name.
        """

    def averaged(
        self, eta: Predictors, numbers: Numbers, weights: Float[Array, "m"], order: int
    ) -> Averages:
        """The sums of `derivatives` over the m points, weighted by `weights`."""
        found = self.derivatives(eta, numbers, order)
        return tuple(
            (weights @ each.reshape(len(weights), -1)).reshape(each.shape[1:]) for each in found
        )


def logistic(
    x: Float[Array, "*x"],
) -> tuple[Float[Array, "*x"], Float[Array, "*x"], Float[Array, "*x"], Float[Array, "*x"]]:
    """F(x), F(-x), log F(x) and log F(-x), F the logistic function, from one exponential."""
    small = np.exp(-np.abs(x))
    larger = 1.0 / (1.0 + small)
    smaller = small * larger
    above, log_larger = x >= 0, -np.log1p(small)
    ends = np.where(above, larger, smaller), np.where(above, smaller, larger)
    return *ends, np.minimum(x, 0.0) + log_larger, log_larger - np.maximum(x, 0.0)
