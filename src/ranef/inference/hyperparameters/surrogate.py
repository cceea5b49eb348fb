"""A surrogate of a log density: a Gaussian process through a few values and gradients.

    log p(z) = c + b . z - z' H z / 2 + delta(z),   delta ~ GP(0, a^2 exp(-|z - z'|^2 / (2 l^2)))

z are coordinates whitened at the mode. The quadratic is the least-squares fit to all observations,
and the surrogate returns to it far from them. The curvature at the mode alone would say little of
the tails where the top is flat or sharp.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Candidates for the length scale l, in posterior sds.
_LENGTHS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0)
# The quadratic is replaced by the standard normal if its least curvature is below this; the
# curvature at the mode is one.
_FLATTEST = 0.1
# Relative noise variances of the observations, of which the likeliest is taken. Searches that end
# early and gradients by differences have errors, and with too little noise two close observations
# would make waves everywhere else.
_JITTERS = (1e-6, 1e-5, 1e-4)


@dataclass(frozen=True)
class Surrogate:
    """The Gaussian process conditional on the observations.

    Attributes:
        points: places of the observations.
        constant, linear, curvature: c, b and H.
        weights: of the kernel and of its derivatives at each point.
        length: l.
    """

    points: Float[Array, "points d"]
    constant: float
    linear: Float[Array, "d"]
    curvature: Float[Array, "d d"]
    weights: Float[Array, "points d+1"]
    length: float

    @classmethod
    def of(
        cls,
        points: Float[Array, "points d"],
        values: Float[Array, "points"],
        gradients: Float[Array, "points d"],
    ) -> "Surrogate":
        """Fits a surrogate; length scale and relative noise are those of maximum likelihood.

        Args:
            points: places of the observations.
            values: of log p.
            gradients: of log p; nan where they were not evaluated.
        """
        m, d = points.shape
        constant, linear, curvature = _quadratic(points, values, gradients)
        moved = points @ curvature
        smooth = constant + points @ linear - 0.5 * (points * moved).sum(axis=1)
        observed = np.concatenate([(values - smooth)[:, None], gradients - linear + moved], axis=1)
        known = np.isfinite(observed).ravel()
        residuals = observed.ravel()[known]
        best: tuple[float, float, Array] | None = None
        for length in _LENGTHS:
            covariance = _covariance(points, length)[np.ix_(known, known)]
            own = np.diag(np.diagonal(covariance))
            for jitter in _JITTERS:
                factor = cho_factor(covariance + jitter * own, lower=True)
                solved = cho_solve(factor, residuals)
                scale = max(float(residuals @ solved) / len(residuals), 1e-30)
                log_det = 2 * np.log(np.diagonal(factor[0])).sum()
                likelihood = -0.5 * (log_det + len(residuals) * np.log(scale))
                if best is None or likelihood > best[0]:
                    weights = np.zeros(m * (1 + d))
                    weights[known] = solved
                    best = (likelihood, length, weights.reshape(m, 1 + d))
        assert best is not None
        return cls(points, constant, linear, curvature, best[2], best[1])

    def log_density(self, z: Float[Array, "B d"]) -> Float[Array, "B"]:
        """The surrogate's log density at z."""
        out = self.constant + z @ self.linear - 0.5 * (z * (z @ self.curvature)).sum(axis=1)
        squares = (z**2).sum(axis=1)[:, None] + (self.points**2).sum(axis=1)
        kernel = np.exp(-np.maximum(squares - 2 * z @ self.points.T, 0.0) / (2 * self.length**2))
        # Cov(delta(z), d delta(p) / d p) = k (z - p) / l^2.
        slopes = self.weights[:, 1:] / self.length**2
        moved = z @ slopes.T - (self.points * slopes).sum(axis=1)
        return out + (kernel * (self.weights[:, 0] + moved)).sum(axis=1)


def _covariance(
    points: Float[Array, "points d"], length: float
) -> Float[Array, "points*(d+1) points*(d+1)"]:
    """Covariance of values and gradients at the points, for a = 1."""
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


def _quadratic(
    points: Float[Array, "points d"],
    values: Float[Array, "points"],
    gradients: Float[Array, "points d"],
) -> tuple[float, Float[Array, "d"], Float[Array, "d d"]]:
    """Least-squares c, b and H; the standard normal if the least eigenvalue of H is too small."""
    m, d = points.shape
    rows, columns = np.triu_indices(d)
    design = np.zeros((m, 1 + d, 1 + d + len(rows)))
    design[:, 0, 0] = 1.0
    design[:, 0, 1 : 1 + d] = points
    design[:, 1:, 1 : 1 + d] = np.eye(d)
    for e, (i, j) in enumerate(zip(rows, columns, strict=True)):
        design[:, 0, 1 + d + e] = -points[:, i] * points[:, j] / (2 if i == j else 1)
        design[:, 1 + i, 1 + d + e] -= points[:, j]
        if i != j:
            design[:, 1 + j, 1 + d + e] -= points[:, i]
    observed = np.concatenate([values[:, None], gradients], axis=1).ravel()
    known = np.isfinite(observed)
    solution = np.linalg.lstsq(design.reshape(len(observed), -1)[known], observed[known])[0]
    curvature = np.zeros((d, d))
    curvature[rows, columns] = curvature[columns, rows] = solution[1 + d :]
    if np.linalg.eigvalsh(curvature)[0] < _FLATTEST:
        return 0.0, np.zeros(d), np.eye(d)
    return float(solution[0]), np.asarray(solution[1 : 1 + d], dtype=np.float64), curvature
