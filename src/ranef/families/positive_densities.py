"""Log densities of gamma and beta responses with derivatives in closed form.

These are densities of ``row_density``.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammaln, zeta

from ranef.families.row_density import (
    Array,
    Derivatives,
    Numbers,
    PerRow,
    Predictors,
    RowDensity,
    Weights,
    logistic,
)
from ranef.lazy import ArrayLike


@dataclass(frozen=True)
class GammaDensity(RowDensity):
    """Gamma responses with mean mu and shape a, in eta = log mu.

    log p(y) = a log(a / mu) - log Gamma(a) + (a - 1) log y - a y / mu

    Attributes:
        value: y.
        log_value: log y.
    """

    value: PerRow
    log_value: PerRow

    @classmethod
    def of(cls, value: ArrayLike) -> "GammaDensity":
        """The density of the responses `value`."""
        y = np.asarray(value, np.float64)
        return cls(y, np.log(y))

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        shape = float(numbers["alpha"])
        log_rate = np.log(shape) - eta[..., 0]
        ratio = self.value * np.exp(log_rate)
        rows = (shape - 1.0) * self.log_value - gammaln(shape)
        out = (
            shape * log_rate + rows - ratio,
            (ratio - shape)[..., None],
            -ratio[..., None, None],
            ratio[..., None],
        )
        return out[: order + 1]

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        shape = float(numbers["alpha"])
        log_rate = np.log(shape) - eta[..., 0]
        ratio = self.value * np.exp(log_rate) / shape
        each = log_rate + 1.0 - digamma(shape) + self.log_value - ratio
        return {"alpha": np.asarray((weights * each).sum())}


@dataclass(frozen=True)
class BetaDensity(RowDensity):
    """Beta(a, b) responses with a = mu kappa and b = (1 - mu) kappa, in eta = logit mu.

    With q = da / deta = kappa mu (1 - mu) and u = psi(1 + b) - psi(1 + a) + logit y, where psi is
    the digamma function, the derivative of log p in eta is q u + 1 - 2 mu. The formulas use
    Gamma(a) = Gamma(1 + a) / a, which keeps its digits down to a = 0.

    Attributes:
        log_value: log y.
        log_rest: log(1 - y).
    """

    log_value: PerRow
    log_rest: PerRow

    @classmethod
    def of(cls, value: ArrayLike) -> "BetaDensity":
        """The density of the responses `value`."""
        y = np.asarray(value, np.float64)
        return cls(np.log(y), np.log1p(-y))

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        kappa = float(numbers["kappa"])
        mu, rest, log_mu, log_rest = logistic(eta[..., 0])
        a, b = mu * kappa, rest * kappa
        logs = log_mu + log_rest + 2.0 * np.log(kappa)
        value = (
            gammaln(kappa)
            - gammaln(1.0 + a)
            - gammaln(1.0 + b)
            + logs
            + (a - 1.0) * self.log_value
            + (b - 1.0) * self.log_rest
        )
        if order == 0:
            return (value,)
        u = digamma(1.0 + b) - digamma(1.0 + a) + self.log_value - self.log_rest
        q, away = a * rest, rest - mu
        slope = (q * u + away)[..., None]
        if order == 1:
            return value, slope
        # psi'(x) = zeta(2, x) and psi''(x) = -2 zeta(3, x), with Hurwitz's zeta function.
        trigamma = zeta(2, 1.0 + a) + zeta(2, 1.0 + b)
        q_slope, variance = q * away, mu * rest
        second = (q_slope * u - q * q * trigamma - 2.0 * variance)[..., None, None]
        if order == 2:
            return value, slope, second
        q_bend = q * (away * away - 2.0 * variance)
        tetragamma = 2.0 * (zeta(3, 1.0 + a) - zeta(3, 1.0 + b))
        third = q_bend * u - 3.0 * q * q_slope * trigamma + q * q * q * tetragamma
        return value, slope, second, (third - 2.0 * variance * away)[..., None]

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        kappa = float(numbers["kappa"])
        mu, rest, _, _ = logistic(eta[..., 0])
        of_a = mu * (self.log_value - digamma(1.0 + mu * kappa))
        of_b = rest * (self.log_rest - digamma(1.0 + rest * kappa))
        each = digamma(kappa) + 2.0 / kappa + of_a + of_b
        return {"kappa": np.asarray((weights * each).sum())}
