"""Computes P(Y <= y) for the distributions of the families, in NumPy and SciPy.

NumPyro has this function for some of its distributions alone. Distributions are told apart by the
names of their classes, so that NumPyro is not imported before it is used. A new family whose
distribution is not here gets a line in `_FUNCTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ranef.lazy import dist
from ranef.numerics.shapes import Float

# Responses y, a parameter, and a probability, which are broadcast; the last axis is that of rows.
_Values = Float[NDArray[np.float64], "..."]


@dataclass(frozen=True)
class Cumulative:
    """The function P(Y <= y) of many distributions, one for each draw and row.

    Attributes:
        function: ``function(y, *arguments)``.
        arguments: parameters of the distributions, with the rows as their last axis, or functions
            of its components for a mixture.
    """

    function: Callable[..., _Values]
    arguments: tuple[_Values | Cumulative, ...]

    @classmethod
    def of(cls, distribution: dist.Distribution) -> Cumulative:
        """The function of a family's distribution.

        Raises:
            TypeError: for a distribution that is not in `_FUNCTIONS`.
        """
        own: Any = distribution
        name = type(own).__name__
        if name == "MixtureDistribution":
            shares = np.exp(np.asarray(own.log_shares, np.float64))
            return cls(_mixture, (shares, *map(cls.of, own.each)))
        if name == "NumberedCategories":
            each = np.moveaxis(np.asarray(own.shares, np.float64), -1, 0)
            return cls(_categories, (np.cumsum(each, axis=0),))
        if name == "ZeroInflatedProbs":
            return cls(_zero_inflated, (np.asarray(own.gate, np.float64), cls.of(own.base_dist)))
        if name not in _FUNCTIONS:
            raise TypeError(f"families/cumulative.py has no function for the distribution {name}")
        function, parameters = _FUNCTIONS[name]
        values = (getattr(own, parameter) for parameter in parameters)
        return cls(function, tuple(np.asarray(value, np.float64) for value in values))

    def __call__(self, y: _Values) -> _Values:
        """P(Y <= y) for y that broadcasts against (draws, rows)."""
        with np.errstate(over="ignore", under="ignore", divide="ignore"):
            return self.function(y, *self.arguments)

    def part(self, draws: slice, rows: slice | NDArray[np.int64]) -> Cumulative:
        """The function at some of the draws and rows."""

        def some(argument: _Values | Cumulative) -> _Values | Cumulative:
            if isinstance(argument, Cumulative):
                return argument.part(draws, rows)
            if argument.ndim > 1 and argument.shape[-2] > 1:
                argument = argument[..., draws, :]
            shared = argument.ndim == 0 or argument.shape[-1] == 1
            return argument if shared else argument[..., rows]

        return Cumulative(self.function, tuple(map(some, self.arguments)))


def _normal(y: _Values, location: _Values, scale: _Values) -> _Values:
    return special.ndtr((y - location) / scale)


def _student(y: _Values, nu: _Values, location: _Values, scale: _Values) -> _Values:
    return special.stdtr(nu, (y - location) / scale)


def _lognormal(y: _Values, location: _Values, scale: _Values) -> _Values:
    return special.ndtr((np.log(np.maximum(y, 0.0)) - location) / scale)


def _gamma(y: _Values, shape: _Values, rate: _Values) -> _Values:
    return special.gammainc(shape, rate * np.maximum(y, 0.0))


def _exponential(y: _Values, rate: _Values) -> _Values:
    return -np.expm1(-rate * np.maximum(y, 0.0))


def _beta(y: _Values, a: _Values, b: _Values) -> _Values:
    return special.betainc(a, b, np.clip(y, 0.0, 1.0))


def _bernoulli(y: _Values, p: _Values) -> _Values:
    return np.where(y < 0, 0.0, np.where(y < 1, 1.0 - p, 1.0))


def _binomial(y: _Values, trials: _Values, p: _Values) -> _Values:
    """I_(1-p)(n - y, y + 1), the regularized incomplete beta function."""
    successes = np.clip(np.floor(y), 0.0, np.maximum(trials - 1.0, 0.0))
    inside = special.betainc(np.maximum(trials - successes, 1.0), successes + 1.0, 1.0 - p)
    return np.where(y < 0, 0.0, np.where(y >= trials, 1.0, inside))


def _poisson(y: _Values, mean: _Values) -> _Values:
    """Q(y + 1, mu), the regularized upper incomplete gamma function."""
    return np.where(y < 0, 0.0, special.gammaincc(np.maximum(np.floor(y), 0.0) + 1.0, mean))


def _negative_binomial(y: _Values, shape: _Values, rate: _Values) -> _Values:
    """I_q(a, y + 1) with q = rate / (1 + rate); the rate of the gamma means is a / mu."""
    with np.errstate(invalid="ignore"):
        share = np.where(np.isinf(rate), 1.0, rate / (1.0 + rate))
    found = special.betainc(shape, np.maximum(np.floor(y), 0.0) + 1.0, share)
    return np.where(y < 0, 0.0, found)


def _categories(y: _Values, reached: _Values) -> _Values:
    """The probability of the categories 1, ..., floor(y).

    Args:
        y: the responses.
        reached: cumulative probabilities, with the K categories as first axis.
    """
    out = np.zeros(np.broadcast_shapes(np.shape(y), reached.shape[1:]))
    for k, share in enumerate(reached, 1):
        out = np.where(y >= k, share, out)
    return np.where(y >= len(reached), 1.0, out)


def _zero_inflated(y: _Values, gate: _Values, counts: Cumulative) -> _Values:
    """Zero with probability `gate`, else a count."""
    return np.where(y < 0, 0.0, gate + (1.0 - gate) * counts(y))


def _mixture(y: _Values, shares: _Values, *components: Cumulative) -> _Values:
    """sum_k w_k F_k(y)."""
    each = (w * component(y) for w, component in zip(shares, components, strict=True))
    return sum(each, np.zeros(()))


# NumPyro's name of a distribution to the function and the attributes that are its arguments.
_FUNCTIONS: dict[str, tuple[Callable[..., _Values], tuple[str, ...]]] = {
    "Normal": (_normal, ("loc", "scale")),
    "StudentT": (_student, ("df", "loc", "scale")),
    "LogNormal": (_lognormal, ("loc", "scale")),
    "Gamma": (_gamma, ("concentration", "rate")),
    "Exponential": (_exponential, ("rate",)),
    "Beta": (_beta, ("concentration1", "concentration0")),
    "BernoulliProbs": (_bernoulli, ("probs",)),
    "BinomialProbs": (_binomial, ("total_count", "probs")),
    "Poisson": (_poisson, ("rate",)),
    "NegativeBinomial2": (_negative_binomial, ("concentration", "rate")),
}
