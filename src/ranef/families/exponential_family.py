"""Exponential families in their natural parameter, with derivatives in closed form.

    log p(y_i | eta_i) = y_i eta_i - m_i A(eta_i) + c_i

A is the cumulant function, so that the first two derivatives in eta are y - m A' and -m A''
(McCullagh and Nelder, 1989, section 2.2). A and its derivatives share one exponential and are
computed by NumPy or JAX. The contract test of families compares them with automatic
differentiation.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ranef.families.row_density import PerRow
from ranef.lazy import Array as JaxArray
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]
Numbers = Float[Array, "*shape"]

_Eta = TypeVar("_Eta", Array, JaxArray)


@dataclass(frozen=True)
class ExponentialFamilyRows(ABC):
    """Rows of a response in the natural parameter of its family.

    Attributes:
        value: y.
        size: m.
        constant: sum of c over the rows.
    """

    value: PerRow
    size: PerRow
    constant: float

    @staticmethod
    @abstractmethod
    def cumulants(xp: ModuleType, eta: _Eta, order: int) -> tuple[_Eta, ...]:
        """A(eta) and its derivatives up to `order`.

        Args:
            xp: `numpy` or `jax.numpy`.
            eta: natural parameters of any shape.
            order: highest derivative, 0 to 3.

        Returns:
            `order` + 1 arrays of the shape of `eta`.
        """

    @staticmethod
    def averaged(mean: Numbers, variance: Numbers, order: int) -> tuple[Numbers, ...] | None:
        """Expectations of `cumulants` over eta ~ N(mean, variance).

        Args:
            mean: means of eta.
            variance: variances of eta.
            order: highest derivative, 0 to 3.

        Returns:
            `order` + 1 arrays, or None without a closed form; callers then use quadrature.
        """
        return None


@dataclass(frozen=True)
class LogisticRows(ExponentialFamilyRows):
    """Binomial rows in eta = logit p: A = log(1 + e^eta), y successes among m trials."""

    @classmethod
    def of(cls, successes: PerRow, trials: PerRow | None) -> "LogisticRows":
        """Rows of `successes` among `trials`, or among one trial each if None."""
        if trials is None:
            return cls(successes, np.ones_like(successes), 0.0)
        choices = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
        return cls(successes, trials, float(choices.sum()))

    @staticmethod
    def cumulants(xp: ModuleType, eta: _Eta, order: int) -> tuple[_Eta, ...]:
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
    """Poisson rows in eta = log mu: A = e^eta and m = 1."""

    @classmethod
    def of(cls, counts: PerRow) -> "CountRows":
        """Rows of `counts`."""
        return cls(counts, np.ones_like(counts), -float(gammaln(counts + 1).sum()))

    @staticmethod
    def cumulants(xp: ModuleType, eta: _Eta, order: int) -> tuple[_Eta, ...]:
        return (xp.exp(eta),) * (order + 1)

    @staticmethod
    def averaged(mean: Numbers, variance: Numbers, order: int) -> tuple[Numbers, ...]:
        """All are E e^eta = exp(mean + variance / 2)."""
        return (np.exp(mean + 0.5 * variance),) * (order + 1)
