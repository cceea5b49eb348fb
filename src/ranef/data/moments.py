"""Means, sds and covariances of columns over the rows, computed batch by batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float


@dataclass(frozen=True)
class ColumnMoments:
    """Moments of the k columns of a term over the training rows.

    Attributes:
        mean: means of the columns.
        sd: sds of the columns.
        covariance: covariance with divisor n, or the weighted one for rows with weights;
            None for a term that does not need it (`Measured.needs_covariance`).
    """

    mean: Float[NDArray, "k"]
    sd: Float[NDArray, "k"]
    covariance: Float[NDArray, "k k"] | None = None


@dataclass(frozen=True)
class Scale:
    """Location and scale of a family parameter's linear predictor, on its link scale.

    Default priors are scaled by these numbers.

    Attributes:
        location: centre of the predictor.
        sd: scale of the predictor: the sd of the response for an identity link, and 1 for most
            other links.
        away: distance from `location` to the starting value of a search. It differs between the
            components of a mixture, so that they do not start at the same point.
    """

    location: float
    sd: float
    away: float = 0.0

    @property
    def start(self) -> float:
        """Starting value of a search."""
        return self.location + self.away


@dataclass(frozen=True)
class Moments:
    """Running mean and sum of squares of k columns (Chan, Golub and LeVeque, 1979).

    Batches A and B with total weights W_A and W_B are merged without cancellation,

        mean = mean_A + d W_B / W,    S = S_A + S_B + d^2 W_A W_B / W,

    where d = mean_B - mean_A and W = W_A + W_B.

    Attributes:
        crossed: whether to compute the sums of products of all pairs of columns.
        n: number of rows.
        weight: sum of the rows' weights; n for rows without weights.
        mean: weighted means; 0 before the first row.
        squares: weighted sums of squares about the means, or sums of products if `crossed`; 0
            before the first row.
    """

    crossed: bool = False
    n: int = 0
    weight: float = 0.0
    mean: Float[NDArray, "k"] | float = 0.0
    squares: Float[NDArray, "k k"] | Float[NDArray, "k"] | float = 0.0

    def add(
        self, columns: Float[NDArray, "m k"], weights: Float[NDArray, "m"] | None = None
    ) -> "Moments":
        """The moments with further rows added.

        Args:
            columns: the rows.
            weights: their weights; None for rows without weights.
        """
        m = len(columns)
        if m == 0:
            return self
        own = float(m) if weights is None else float(weights.sum())
        mean = columns.mean(axis=0) if weights is None else weights @ columns / own
        away = columns - mean
        weighted = away if weights is None else weights[:, None] * away
        squares = weighted.T @ away if self.crossed else (weighted * away).sum(axis=0)
        total = self.weight + own
        shift = mean - self.mean
        between = np.multiply.outer(shift, shift) if self.crossed else shift**2
        return Moments(
            self.crossed,
            self.n + m,
            total,
            self.mean + shift * (own / total),
            self.squares + squares + between * (self.weight * own / total),
        )

    def measures(self) -> ColumnMoments:
        """The means, sds and covariances of all rows so far.

        The sds have the divisor n - 1 for rows without weights, and otherwise the total weight.
        """
        squares = np.diagonal(self.squares) if self.crossed else np.atleast_1d(self.squares)
        divisor = max(self.n - 1, 1) if self.weight == self.n else self.weight
        covariance = np.atleast_2d(self.squares) / self.weight if self.crossed else None
        return ColumnMoments(np.atleast_1d(self.mean), np.sqrt(squares / divisor), covariance)
