"""Means and spreads learned from rows: of the columns of a term, and of the response."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ColumnMoments:
    """Moments of the k columns of a term over the training rows.

    Attributes:
        mean: (k,) of each column.
        sd: (k,) of each column.
        covariance: (k, k) mean product of the columns' distances from their means, weighted as
            the rows are; None for a term that does not ask for it (`Term.needs_covariance`).
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    covariance: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Scale:
    """Where a family parameter's predictor lies and how far it spreads, on its link scale.

    Attributes:
        location, spread: of which default priors are made.
        away: from the location to where a search begins, which for one of several components
            is another place than for the next.
    """

    location: float
    sd: float
    away: float = 0.0

    @property
    def start(self) -> float:
        """Where a search begins."""
        return self.location + self.away


@dataclass(frozen=True)
class Moments:
    """Running mean and sum of squares of columns, merged without cancellation.

    Chan, Golub and LeVeque (1979).

    Attributes:
        crossed: whether sums of products of different columns are kept too.
        n: rows.
        weight: sum of the rows' weights; n where they have none.
        mean: (k,) weighted mean.
        squares: (k,) weighted sum of squares about the mean; (k, k) of products if `crossed`.
    """

    crossed: bool = False
    n: int = 0
    weight: float = 0.0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(
        self, columns: NDArray[np.float64], weights: NDArray[np.float64] | None = None
    ) -> "Moments":
        """With further rows (m, k), and their weights (m,) if they have any."""
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
        """Means, sds and covariances. Of rows without weights the sd has n - 1 for divisor."""
        squares = np.diagonal(self.squares) if self.crossed else np.atleast_1d(self.squares)
        divisor = max(self.n - 1, 1) if self.weight == self.n else self.weight
        covariance = np.atleast_2d(self.squares) / self.weight if self.crossed else None
        return ColumnMoments(np.atleast_1d(self.mean), np.sqrt(squares / divisor), covariance)
