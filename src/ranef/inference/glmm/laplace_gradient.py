"""The gradient of Laplace's approximation of log p(y | beta, theta, phi) for one predictor.

    T = log p(y | eta) - |u|^2 / 2 - log |H| / 2,    eta = X beta + Z Lambda u
    H = Lambda' Z' W Z Lambda + I,    W = -diag(d2 log p / d eta2)

at the u that maximises the first two terms. These are stationary in u, the determinant is not:
with h_i the variance of row i's predictor under H, s_i = h_i (d3 log p / d eta3)_i / 2, and
t = Lambda H^-1 Lambda' Z' s,

    dT / d eta     = d log p / d eta + s - W Z t                   of what all rows add to eta
    dT / d Lambda  = that at fixed W, and (D G' + G D') Lambda,    D = Z'(s - W Z t)
    dT / d phi     = d / d phi [log p + h' d2 log p / 2 + (Z t)' d log p]    at fixed eta, h, t

summed over levels, G = Z' d log p / d eta (as in Kristensen et al., 2016, section 2, where the
same derivative is taken automatically).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.inference.glmm.gaussian_approximation import GaussianApproximator, GaussianPosterior
from ranef.inference.glmm.predictor_variances import predictor_covariances
from ranef.inference.pwls.solver import PWLS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LaplaceGradient:
    """Derivatives of T where the mode of the random effects has been found.

    Attributes:
        by_eta: (n,) in what is added to each row's predictor.
        by_root: by factor, in the root of its covariance, (k, k).
        variance: (n,) h, of each row's predictor given theta and beta.
        response: (n,) Z t, how each predictor answers to a slope of log |H|.
    """

    working: GaussianApproximator
    q: GaussianPosterior
    by_eta: Array
    by_root: Mapping[int, Array]
    variance: Array
    response: Array

    @classmethod
    def at(
        cls,
        working: GaussianApproximator,
        q: GaussianPosterior,
        roots: list[Array],
        numbers: Mapping[str, Any],
    ) -> "LaplaceGradient":
        """Of a model whose common effects are known.

        Args:
            working: at the mode, with one predictor and without common effects.
            q: where its search ended.
            roots: of the factors' covariances, (k, k).
            numbers: of the family.
        """
        rows, solution = working.rows, q.solution
        variance = predictor_covariances(solution.whole_covariances(), rows)[:, 0, 0]
        third = working.averages.third(numbers, q.mean, np.zeros_like(q.covariance))[:, 0]
        s = 0.5 * variance * third
        answer = PWLS(rows.right(solution.solver.products, s[:, None])).solve(
            [root[None] for root in roots]
        )
        known = rows.layout.known
        moved = rows.predictors(np.zeros(0), tuple(b[0] for b in answer.effects)) - known
        bent = (s - q.curvature[:, 0, 0] * moved[:, 0])[:, None]
        by_root = {}
        for f, (log_det, residual) in enumerate(solution.root_derivatives(common=False)):
            g, d = rows.levelwise(f, q.slope), rows.levelwise(f, bent)
            by_root[f] = (d @ g.T + g @ d.T) @ roots[f] - 0.5 * (log_det + residual)
        return cls(working, q, q.slope[:, 0] + bent[:, 0], by_root, variance, moved[:, 0])

    def number_part(self, numbers: Mapping[str, Any]) -> float:
        """What the family's numbers change T by at fixed eta, up to terms of second order."""
        nothing = np.zeros_like(self.q.covariance)
        total, slope, curvature = self.working.averages.of(numbers, self.q.mean, nothing)
        bend = -0.5 * float(self.variance @ curvature[:, 0, 0])
        return total + bend + float(self.response @ slope[:, 0])
