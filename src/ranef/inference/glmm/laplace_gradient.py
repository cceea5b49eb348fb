"""The gradient of Laplace's approximation of log p(y | beta, theta, phi), for one predictor.

    T = log p(y | eta) - |u|^2 / 2 - log |H| / 2,    eta = X beta + Z Lambda u
    H = Lambda' Z' W Z Lambda + I,    W = -diag(d2 log p / d eta2)

T is taken at the u that maximises the first two terms. They are stationary in u, but the
determinant is not. Let h_i be the variance of row i's predictor under H^-1, s_i = h_i (d3 log p / d
eta3)_i / 2, and t = Lambda H^-1 Lambda' Z' s. Then

    dT / d eta     = d log p / d eta + s - W Z t            for a constant added to each row's eta
    dT / d Lambda  = its value at fixed W + (D G' + G D') Lambda,    D = Z'(s - W Z t)
    dT / d phi     = d / d phi [log p + h' d2 log p / 2 + (Z t)' d log p]    at fixed eta, h, t

summed over levels, with G = Z' d log p / d eta. Kristensen et al. (2016, section 2) take the same
derivative by automatic differentiation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ranef.inference.glmm.arrays import Array, FamilyValues, PerRow, Roots
from ranef.inference.glmm.gaussian_approximation import GaussianApproximator, GaussianPosterior
from ranef.inference.glmm.predictor_variances import predictor_covariances
from ranef.inference.pwls.solver import PWLS
from ranef.numerics.shapes import Float


@dataclass(frozen=True)
class LaplaceGradient:
    """Derivatives of T at the mode of the group effects.

    Attributes:
        working: the rows, with known common effects.
        q: the normal approximation at the mode.
        by_eta: derivatives in constants added to each row's predictor.
        by_root: derivatives in the root of each factor's covariance.
        variance: h, the variance of each row's predictor given theta and beta.
        response: Z t, the change of each predictor along the gradient of log |H|.
    """

    working: GaussianApproximator
    q: GaussianPosterior
    by_eta: PerRow
    by_root: Mapping[int, Float[Array, "_ _"]]
    variance: PerRow
    response: PerRow

    @classmethod
    def at(
        cls,
        working: GaussianApproximator,
        q: GaussianPosterior,
        roots: Roots,
        numbers: FamilyValues,
    ) -> "LaplaceGradient":
        """The derivatives for a model whose common effects are known.

        Args:
            working: the rows, at the mode, with one predictor and no common effects.
            q: the end of the search for the mode.
            roots: by factor, the root of its covariance.
            numbers: values of the family parameters that all rows share.
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
            g, d = rows.sums_by_level(f, q.slope), rows.sums_by_level(f, bent)
            by_root[f] = (d @ g.T + g @ d.T) @ roots[f] - 0.5 * (log_det + residual)
        return cls(working, q, q.slope[:, 0] + bent[:, 0], by_root, variance, moved[:, 0])

    def by_family_values(self, numbers: FamilyValues) -> float:
        """T as a function of the family parameters at fixed eta, h and t, to first order.

        Only its differences have a meaning.
        """
        nothing = np.zeros_like(self.q.covariance)
        total, slope, curvature = self.working.averages.of(numbers, self.q.mean, nothing)
        bend = -0.5 * float(self.variance @ curvature[:, 0, 0])
        return total + bend + float(self.response @ slope[:, 0])
