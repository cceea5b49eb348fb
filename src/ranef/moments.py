"""Means and spreads learned from rows: of the columns of a term, and of the response."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measures:
    """Mean and sd of each column of a term over the training rows, both (k,)."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


@dataclass(frozen=True)
class Scale:
    """Where a family parameter's predictor lies and how far it spreads, on its link scale.

    Attributes:
        location, spread: of which default priors are made.
        away: from the location to where a search begins, which for one of several components
            is another place than for the next.
    """

    location: float
    spread: float
    away: float = 0.0

    @property
    def start(self) -> float:
        """Where a search begins."""
        return self.location + self.away


@dataclass(frozen=True)
class Moments:
    """Running mean and sum of squares of columns, merged without cancellation.

    Chan, Golub and LeVeque (1979).
    """

    n: int = 0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, columns: NDArray[np.float64]) -> "Moments":
        m = len(columns)
        if m == 0:
            return self
        mean = columns.mean(axis=0)
        squares = ((columns - mean) ** 2).sum(axis=0)
        total = self.n + m
        shift = mean - self.mean
        return Moments(
            total,
            self.mean + shift * m / total,
            self.squares + squares + shift**2 * self.n * m / total,
        )

    def measures(self) -> Measures:
        return Measures(
            np.atleast_1d(self.mean), np.atleast_1d(np.sqrt(self.squares / max(self.n - 1, 1)))
        )
