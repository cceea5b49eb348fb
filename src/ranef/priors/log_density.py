"""Log densities of priors and their derivatives in NumPy, for methods that compile nothing."""

import math
from typing import Any

import numpy as np
from scipy.special import betaln, gammaln

from ranef import priors
from ranef.priors import Prior

_LOG_2PI = math.log(2 * math.pi)


def log_density(prior: Prior, x: Any) -> tuple[Any, Any]:
    """Normalised log density of a prior of a positive number, and its derivative.

    A flat prior has log density 0.

    Args:
        prior: the prior.
        x: positive numbers inside the support of the prior, which is not checked.

    Returns:
        log p(x) and d log p / dx, of the shape of x.

    Raises:
        TypeError: for a prior that is not one of a positive number.
    """
    p: Any = prior
    zero = np.zeros_like(x)
    match prior:
        case priors.Flat():
            return zero, zero
        case priors.HalfNormal():
            z = x / p.sigma
            return -0.5 * z**2 + math.log(2 / p.sigma) - 0.5 * _LOG_2PI, -z / p.sigma
        case priors.HalfCauchy():
            return _half_student(x, 1.0, p.sigma)
        case priors.HalfStudentT():
            return _half_student(x, p.nu, p.sigma)
        case priors.Exponential():
            return math.log(p.rate) - p.rate * x, zero - p.rate
        case priors.Gamma():
            constant = p.alpha * math.log(p.beta) - float(gammaln(p.alpha))
            return (
                (p.alpha - 1) * np.log(x) - p.beta * x + constant,
                (p.alpha - 1) / x - p.beta,
            )
        case priors.InverseGamma():
            constant = p.alpha * math.log(p.beta) - float(gammaln(p.alpha))
            return (
                -(p.alpha + 1) * np.log(x) - p.beta / x + constant,
                -(p.alpha + 1) / x + p.beta / x**2,
            )
        case priors.LogNormal():
            z = (np.log(x) - p.mu) / p.sigma
            value = -0.5 * z**2 - np.log(x) - math.log(p.sigma) - 0.5 * _LOG_2PI
            return value, -(z / p.sigma + 1) / x
        case priors.Uniform():
            return zero - math.log(p.upper - p.lower), zero
        case priors.Beta():
            value = (p.alpha - 1) * np.log(x) + (p.beta - 1) * np.log1p(-x)
            slope = (p.alpha - 1) / x - (p.beta - 1) / (1 - x)
            return value - float(betaln(p.alpha, p.beta)), slope
        case priors.PowerPrior():
            k = p.power
            value, slope = log_density(p.prior, x**k)
            along = k * x ** (k - 1)
            return value + math.log(abs(k)) + (k - 1) * np.log(x), slope * along + (k - 1) / x
    raise TypeError(f"{prior} is not the prior of a positive number")


def log_density_of_real(prior: Prior, x: Any) -> tuple[Any, Any]:
    """Normalised log density of a prior of a real number and its derivative, as `log_density`.

    Raises:
        TypeError: for a prior other than Flat, Normal, StudentT and Cauchy.
    """
    p: Any = prior
    match prior:
        case priors.Flat():
            return np.zeros_like(x), np.zeros_like(x)
        case priors.Normal():
            sigma = np.asarray(p.sigma)
            z = (x - np.asarray(p.mu)) / sigma
            return -0.5 * z**2 - np.log(sigma) - 0.5 * _LOG_2PI, -z / sigma
        case priors.StudentT() | priors.Cauchy():
            nu = getattr(p, "nu", 1.0)
            away = x - p.mu
            value, slope = _half_student(np.abs(away), nu, p.sigma)
            return value - math.log(2), np.sign(away) * slope
    raise TypeError(f"{prior} is not the prior of a real number")


def _half_student(x: Any, nu: Any, sigma: Any) -> tuple[Any, Any]:
    """Log density and derivative of HalfStudentT(nu, sigma) at x > 0."""
    z = x / sigma
    constant = (
        math.log(2 / sigma)
        + float(gammaln((nu + 1) / 2) - gammaln(nu / 2))
        - 0.5 * math.log(nu * math.pi)
    )
    value = constant - 0.5 * (nu + 1) * np.log1p(z**2 / nu)
    return value, -(nu + 1) * z / (nu + z**2) / sigma


def is_finite_at_zero(prior: Prior) -> bool:
    """Whether a prior of a positive number has a positive and finite density at zero."""
    kinds = (priors.Flat, priors.HalfNormal, priors.HalfCauchy, priors.HalfStudentT)
    return isinstance(prior, (*kinds, priors.Exponential, priors.PointEstimate)) or (
        isinstance(prior, priors.Gamma) and prior.alpha == 1
    )
