"""Log density of Student's t with derivatives in closed form, a density of ``row_density``."""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln

from ranef.families.row_density import (
    Array,
    Derivatives,
    Numbers,
    PerRow,
    Predictors,
    RowDensity,
    Weights,
)
from ranef.lazy import ArrayLike
from ranef.numerics.shapes import Float


@dataclass(frozen=True)
class StudentDensity(RowDensity):
    """Student's t responses in eta = mu: log p(y) = log t_nu(e) - log s with e = (y - mu) / s.

    The scale is s = sigma / sqrt(w) for a row of weight w. With q = nu + e^2 the first, second and
    third derivatives in eta are

        (nu + 1) e / (q s),
        (nu + 1) (e^2 - nu) / (q s)^2,
        2 (nu + 1) e (e^2 - 3 nu) / (q s)^3.

    Attributes:
        value: y.
        root_weight: sqrt(w); 1 for rows without weights.
    """

    value: PerRow
    root_weight: PerRow

    @classmethod
    def of(cls, value: ArrayLike, weights: PerRow | None) -> "StudentDensity":
        """The density of the responses `value` with their precision weights, if any."""
        y = np.asarray(value, np.float64)
        return cls(y, np.ones_like(y) if weights is None else np.sqrt(weights))

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        nu, e, s = self._scaled(eta, numbers)
        constant = gammaln((nu + 1.0) / 2.0) - gammaln(nu / 2.0) - 0.5 * np.log(np.pi * nu)
        squared = e * e
        value = constant - np.log(s) - 0.5 * (nu + 1.0) * np.log1p(squared / nu)
        if order == 0:
            return (value,)
        inverse = 1.0 / (nu + squared)
        along = (nu + 1.0) * inverse / s
        slope = (along * e)[..., None]
        if order == 1:
            return value, slope
        bend = along * inverse / s
        second = (bend * (squared - nu))[..., None, None]
        if order == 2:
            return value, slope, second
        third = 2.0 * bend * inverse / s * e * (squared - 3.0 * nu)
        return value, slope, second, third[..., None]

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        nu, e, _ = self._scaled(eta, numbers)
        squared = e * e
        tail = (nu + 1.0) * squared / (nu + squared)
        constant = digamma((nu + 1.0) / 2.0) - digamma(nu / 2.0) - 1.0 / nu
        of_nu = 0.5 * (constant - np.log1p(squared / nu) + tail / nu)
        return {
            "sigma": np.asarray((weights * (tail - 1.0)).sum() / numbers["sigma"]),
            "nu": np.asarray((weights * of_nu).sum()),
        }

    def _scaled(
        self, eta: Predictors, numbers: Numbers
    ) -> tuple[float, Float[Array, "m n"], PerRow]:
        """The degrees of freedom nu, the scaled residuals e and the scales s."""
        s = float(numbers["sigma"]) / self.root_weight
        return float(numbers["nu"]), (self.value - eta[..., 0]) / s, s
