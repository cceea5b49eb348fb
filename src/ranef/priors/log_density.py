"""Log densities of priors and their derivatives in NumPy, for methods that compile nothing."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln

from ranef import priors
from ranef.numerics.shapes import Float
from ranef.priors import Prior

# Values of a parameter, or a number for each of them.
Numbers = Float[NDArray[np.float64] | float, "*n"]
# Values of a parameter of k elements.
Vectors = Float[NDArray[np.float64], "*n k"]

_LOG_2PI = math.log(2 * math.pi)


def log_density(prior: Prior, x: Numbers) -> tuple[Numbers, Numbers]:
    """Normalised log density of a prior of a positive number, and its derivative.

    A flat prior has log density 0.

    Args:
        prior: the prior.
        x: positive numbers inside the support of the prior, which is not checked.

    Returns:
        log p(x) and d log p / dx.

    Raises:
        TypeError: for a prior that is not one of a positive number.
    """
    zero = np.zeros_like(x)
    match prior:
        case priors.Flat():
            return zero, zero
        case priors.HalfNormal():
            z = x / prior.sigma
            return -0.5 * z**2 + math.log(2 / prior.sigma) - 0.5 * _LOG_2PI, -z / prior.sigma
        case priors.HalfCauchy():
            return _half_student(x, 1.0, prior.sigma)
        case priors.HalfStudentT():
            return _half_student(x, prior.nu, prior.sigma)
        case priors.Exponential():
            return math.log(prior.rate) - prior.rate * x, zero - prior.rate
        case priors.Gamma():
            constant = prior.alpha * math.log(prior.beta) - float(gammaln(prior.alpha))
            return (
                (prior.alpha - 1) * np.log(x) - prior.beta * x + constant,
                (prior.alpha - 1) / x - prior.beta,
            )
        case priors.InverseGamma():
            constant = prior.alpha * math.log(prior.beta) - float(gammaln(prior.alpha))
            return (
                -(prior.alpha + 1) * np.log(x) - prior.beta / x + constant,
                -(prior.alpha + 1) / x + prior.beta / x**2,
            )
        case priors.LogNormal():
            z = (np.log(x) - prior.mu) / prior.sigma
            value = -0.5 * z**2 - np.log(x) - math.log(prior.sigma) - 0.5 * _LOG_2PI
            return value, -(z / prior.sigma + 1) / x
        case priors.Uniform():
            return zero - math.log(prior.upper - prior.lower), zero
        case priors.Beta():
            value = (prior.alpha - 1) * np.log(x) + (prior.beta - 1) * np.log1p(-x)
            slope = (prior.alpha - 1) / x - (prior.beta - 1) / (1 - x)
            return value - float(betaln(prior.alpha, prior.beta)), slope
        case priors.PowerPrior():
            k = prior.power
            value, slope = log_density(prior.prior, x**k)
            along = k * x ** (k - 1)
            return value + math.log(abs(k)) + (k - 1) * np.log(x), slope * along + (k - 1) / x
    raise TypeError(f"{prior} is not the prior of a positive number")


def log_density_of_real(prior: Prior, x: Vectors) -> tuple[Vectors, Vectors]:
    """Normalised log density of a prior of a real number and its derivative, as `log_density`.

    Raises:
        TypeError: for a prior other than Flat, Normal, StudentT and Cauchy.
    """
    match prior:
        case priors.Flat():
            return np.zeros_like(x), np.zeros_like(x)
        case priors.Normal():
            sigma = np.asarray(prior.sigma)
            z = (x - np.asarray(prior.mu)) / sigma
            return -0.5 * z**2 - np.log(sigma) - 0.5 * _LOG_2PI, -z / sigma
        case priors.StudentT() | priors.Cauchy() if not isinstance(prior.sigma, tuple):
            nu = getattr(prior, "nu", 1.0)
            away = x - np.asarray(prior.mu)
            value, slope = _half_student(np.abs(away), nu, prior.sigma)
            return np.asarray(value - math.log(2)), np.sign(away) * slope
    raise TypeError(f"{prior} is not the prior of a real number")


def _half_student(x: Numbers, nu: float, sigma: float) -> tuple[Numbers, Numbers]:
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
