"""A log density from few evaluations of it and of its gradient.

    log p(z) = -|z|^2 / 2 + delta(z),   delta ~ GP(0, a^2 exp(-|z - z'|^2 / (2 l^2)))

in coordinates z whitened at the mode: where nothing is known it is the normal approximation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]

_LENGTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0)
# Share of its variance by which an observation may miss: the rounding of what is observed.
_NOISE = 1e-9


@dataclass(frozen=True)
class Surrogate:
    """The Gaussian process given what was observed.

    Attributes:
        points: (m, d).
        weights: (m, 1 + d) of the kernel, and of its derivatives, at each.
        length: l.
    """

    points: Array
    weights: Array
    length: float

    @classmethod
    def of(cls, points: Array, values: Array, gradients: Array) -> "Surrogate":
        """Through values (m,) and gradients (m, d) of log p at points (m, d).

        A gradient that was not evaluated is nan.

        The length is the one under which they are likeliest.
        """
        m, d = points.shape
        observed = np.concatenate(
            [(values + 0.5 * (points**2).sum(axis=1))[:, None], gradients + points], axis=1
        )
        known = np.isfinite(observed).ravel()
        told = observed.ravel()[known]
        best: tuple[float, float, Array] | None = None
        for length in _LENGTHS:
            covariance = _covariance(points, length)[np.ix_(known, known)]
            factor = cho_factor(covariance + _NOISE * np.diag(np.diagonal(covariance)), lower=True)
            solved = cho_solve(factor, told)
            scale = max(float(told @ solved) / len(told), 1e-30)
            log_det = 2 * np.log(np.diagonal(factor[0])).sum()
            likelihood = -0.5 * (log_det + len(told) * np.log(scale))
            if best is None or likelihood > best[0]:
                weights = np.zeros(m * (1 + d))
                weights[known] = solved
                best = (likelihood, length, weights.reshape(m, 1 + d))
        assert best is not None
        return cls(points, best[2], best[1])

    def log_density(self, z: Array) -> Array:
        """(n,) at z (n, d)."""
        out = -0.5 * (z**2).sum(axis=1)
        squares = (z**2).sum(axis=1)[:, None] + (self.points**2).sum(axis=1)
        kernel = np.exp(-np.maximum(squares - 2 * z @ self.points.T, 0.0) / (2 * self.length**2))
        # Cov(delta(z), d delta(p) / d p) = k (z - p) / l^2.
        slopes = self.weights[:, 1:] / self.length**2
        moved = z @ slopes.T - (self.points * slopes).sum(axis=1)
        return out + (kernel * (self.weights[:, 0] + moved)).sum(axis=1)


def _covariance(points: Array, length: float) -> Array:
    """Of values and gradients at the points, (m (1 + d), m (1 + d)), for a = 1."""
    m, d = points.shape
    away = (points[:, None] - points) / length
    kernel = np.exp(-0.5 * (away**2).sum(axis=2))
    out = np.empty((m, 1 + d, m, 1 + d))
    out[:, 0, :, 0] = kernel
    out[:, 0, :, 1:] = kernel[..., None] * away / length
    out[:, 1:, :, 0] = -(kernel[..., None] * away / length).transpose(0, 2, 1)
    cross = np.eye(d) - away[..., :, None] * away[..., None, :]
    out[:, 1:, :, 1:] = (kernel[..., None, None] * cross / length**2).transpose(0, 2, 1, 3)
    return out.reshape(m * (1 + d), m * (1 + d))
