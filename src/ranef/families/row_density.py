"""Log densities of rows whose derivatives are written out, so that nothing is compiled for them.

    log p(y_i | eta_i, phi)       eta_i (K,) the row's predictors, phi numbers that all rows share

with its gradient and Hessian in eta, its third derivative in each predictor, and its gradient in
phi, in NumPy. They are those of ``densities``, to which the contract of families holds them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class RowDensity(ABC):
    """Some rows of a response: a frozen dataclass whose arrays have the rows as their last axis.

    Predictors are (m, n, K) at m points of the n rows. Overflow gives infinities or NaN, which
    the caller must expect.
    """

    def take(self, rows: slice) -> "RowDensity":
        """Those of the rows alone."""
        each = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        taken = {name: x[..., rows] for name, x in each.items() if isinstance(x, np.ndarray)}
        return replace(self, **taken)  # type: ignore[type-var]

    @abstractmethod
    def derivatives(self, eta: Array, numbers: Mapping[str, Any], order: int) -> tuple[Array, ...]:
        """Log p and its derivatives in eta up to `order`, 3 at most.

        Args:
            eta: (m, n, K).
            numbers: values of phi on their own scale.
            order: how many derivatives.

        Returns:
            (m, n), (m, n, K), (m, n, K, K), and of the third each predictor's alone, (m, n, K).
        """

    @abstractmethod
    def by_number(self, eta: Array, numbers: Mapping[str, Any], weights: Array) -> dict[str, Array]:
        """The derivative of the weighted sum of log p over points and rows in each number.

        Args:
            eta: (m, n, K).
            numbers: values of phi.
            weights: (m, n), or (m, 1) for the same on all rows.

        Returns:
            of the shape of each number.
        """

    def averaged(
        self, eta: Array, numbers: Mapping[str, Any], weights: Array, order: int
    ) -> tuple[Array, ...]:
        """The `derivatives`, summed over the points with these weights (m,)."""
        found = self.derivatives(eta, numbers, order)
        return tuple(
            (weights @ each.reshape(len(weights), -1)).reshape(each.shape[1:]) for each in found
        )


def logistic(x: Any) -> tuple[Any, Any, Any, Any]:
    """F(x), F(-x), log F(x) and log F(-x) of the logistic function F, from one exponential."""
    small = np.exp(-np.abs(x))
    larger = 1.0 / (1.0 + small)
    smaller = small * larger
    above, log_larger = x >= 0, -np.log1p(small)
    ends = np.where(above, larger, smaller), np.where(above, smaller, larger)
    return *ends, np.minimum(x, 0.0) + log_larger, log_larger - np.maximum(x, 0.0)
