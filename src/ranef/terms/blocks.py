"""Linear and bilinear blocks of a predictor: all that inference knows of terms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ranef.lazy import Array, jnp, pytree


class Spectrum(ABC):
    """sd = f(scales): how the scales of a `LinearBlock` make the sds of its k columns.

    It is compared and hashed, so that programs compiled with it are found again: a frozen
    dataclass of plain numbers.
    """

    @property
    @abstractmethod
    def starts(self) -> Mapping[str, float]:
        """Scales that are never zero, such as length scales, with where a search begins.

        The others are sds: all columns vanish where one does, and its sign says nothing.
        """

    @abstractmethod
    def sds(self, values: Mapping[str, Any], xp: Any = np) -> Any:
        """(..., k) from values (...) of the scales by site.

        Args:
            values: of the scales.
            xp: NumPy, or the module of JAX that stands for it.
        """

    @abstractmethod
    def slopes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The derivative of each sd in each scale, (..., k) by site, in NumPy."""


@pytree(
    data=[
        *("columns", "codes", "mean", "factor", "known", "variance", "carry", "freedom"),
    ],
    meta=[
        *("levels", "gaussian", "sites", "shapes", "carried"),
        *("scales", "grouping", "cholesky", "correlation", "spectrum"),
    ],
)
@dataclass(frozen=True)
class LinearBlock:
    """eta_i = columns_i . b[codes_i], with b[j] ~ N(mean, factor factor') for each level j.

    Attributes:
        columns: (n, k).
        codes: (n,) int32, or None where all rows share one vector of coefficients.
        levels: number of vectors b[j].
        mean: (k,) prior mean.
        factor: (k, k) lower triangular prior scale factor, or (k,) for a diagonal one;
            infinite for a flat prior.
        gaussian: whether the prior is Gaussian (or flat), so that b can be integrated out.
        sites: the sites that hold the columns of b in order, with how many each holds.
        shapes: the shape of each of these sites, for one level.
        scales: the sites that hold the sd of each column, where it is a parameter; or those of
            which `spectrum` makes the sds.
        grouping: the name of the grouping, where codes is not None.
        cholesky: the site that holds the Cholesky factor of their correlations; "" for none.
            factor = diag(scales) cholesky.
        correlation: the parameter that takes the prior of the correlations.
        spectrum: how the scales make the sds of the columns, None where each is one.
        known: (n,) added to eta, or None.
        variance: (n,) of what is added, where `known` is the mean of it; or None.
        carry: (m, k) the matrix that makes of b the coefficients of the columns as the formula
            has them, where b is of other ones; or None.
        carried: the names of these coefficients in order, with how many each has, and the shape
            of each for one level.
        freedom: (k,) the degrees of freedom of independent t priors with these means and scales,
            infinite for normal ones; None where all are normal, or one is neither.
    """

    columns: Any
    codes: Any
    levels: int
    mean: Any
    factor: Any
    gaussian: bool = True
    sites: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    scales: tuple[str, ...] = ()
    grouping: str = ""
    cholesky: str = ""
    correlation: str = ""
    spectrum: Spectrum | None = None
    known: Any = None
    variance: Any = None
    carry: Any = None
    carried: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    freedom: Any = None

    def keep(self, places: Any) -> "LinearBlock":
        """Some of the rows."""
        codes = None if self.codes is None else self.codes[places]
        known = None if self.known is None else self.known[places]
        variance = None if self.variance is None else self.variance[places]
        columns = self.columns[places]
        return replace(self, columns=columns, codes=codes, known=known, variance=variance)

    def predict(self, coefficients: Array) -> Array:
        """Eta (n,) for coefficients (levels, k), or (k,) where codes is None."""
        if self.codes is None:
            return self.columns @ coefficients
        return jnp.sum(self.columns * coefficients[self.codes], axis=-1)


@dataclass(frozen=True)
class Bilinear:
    """eta_i = sum_k u[left_i, k] v[right_i, k], u_jk ~ N(0, tau_k^2), v_mk ~ N(0, 1).

    Attributes:
        codes: (n,) levels j and m of each row.
        levels: J and M.
        rank: K.
        sites: of u (J, K) and of v (M, K).
        scale: site of tau (K,), which is also its name among the priors.
    """

    codes: tuple[Any, Any]
    levels: tuple[int, int]
    rank: int
    sites: tuple[str, str]
    scale: str
