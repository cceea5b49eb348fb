"""Families in their natural parameter, whose derivatives need no automatic differentiation.

    log p(y_i | eta_i) = y_i eta_i - m_i A(eta_i) + c_i

A is the cumulant function; the derivatives in eta are y - m A', -m A'' and so on (McCullagh and
Nelder, 1989, section 2.2). One exponential serves A and all of its derivatives, by NumPy or by
JAX. The contract of families holds them to the automatic ones.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ExponentialFamilyRows(ABC):
    """Some rows of a response.

    Attributes:
        value: (n,) y.
        size: (n,) m.
        constant: the sum over rows of c.
    """

    value: Array
    size: Array
    constant: float

    @staticmethod
    @abstractmethod
    def cumulants(xp: Any, eta: Any, order: int) -> tuple[Any, ...]:
        """A(eta) and its derivatives up to `order`, 3 at most, each of eta's shape.

        `xp` is NumPy or JAX's.
        """

    @staticmethod
    def averaged(mean: Array, variance: Array, order: int) -> tuple[Array, ...] | None:
        """The same on the average over eta ~ N(mean, variance); None leaves it to quadrature."""
        return None


@dataclass(frozen=True)
class LogisticRows(ExponentialFamilyRows):
    """Successes among trials: A = log(1 + e^eta), m the trials."""

    @classmethod
    def of(cls, successes: Array, trials: Array | None) -> "LogisticRows":
        if trials is None:
            return cls(successes, np.ones_like(successes), 0.0)
        choices = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
        return cls(successes, trials, float(choices.sum()))

    @staticmethod
    def cumulants(xp: Any, eta: Any, order: int) -> tuple[Any, ...]:
        small = xp.exp(-xp.abs(eta))
        inverse = 1.0 / (1.0 + small)
        p = xp.where(eta >= 0, inverse, small * inverse)
        out = [xp.maximum(eta, 0.0) + xp.log1p(small)]
        if order > 0:
            out.append(p)
        if order > 1:
            out.append(small * inverse * inverse)
        if order > 2:
            out.append(out[2] * (1.0 - 2.0 * p))
        return tuple(out)


@dataclass(frozen=True)
class CountRows(ExponentialFamilyRows):
    """Poisson counts: A = e^eta, m of one."""

    @classmethod
    def of(cls, counts: Array) -> "CountRows":
        return cls(counts, np.ones_like(counts), -float(gammaln(counts + 1).sum()))

    @staticmethod
    def cumulants(xp: Any, eta: Any, order: int) -> tuple[Any, ...]:
        return (xp.exp(eta),) * (order + 1)

    @staticmethod
    def averaged(mean: Array, variance: Array, order: int) -> tuple[Array, ...]:
        """E e^eta = exp(mean + variance / 2)."""
        return (np.exp(mean + 0.5 * variance),) * (order + 1)
