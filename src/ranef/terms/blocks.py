"""Linear and bilinear blocks of a predictor: the form in which inference methods see terms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, ArrayLike, jnp, pytree
from ranef.numerics.shapes import Float, Int

# Numbers of a run of the program, which are JAX's, or of draws and tables, which are NumPy's.
AnyArray = Array | NDArray[np.float64]
Codes = Array | NDArray[np.int32]
# Places of rows, or a mask of them.
Places = Array | NDArray[np.integer] | NDArray[np.bool_]
RowPlaces = Places | slice

# Types of the fields of a pytree, which are not checked at run time: while JAX rebuilds a pytree,
# its fields may hold anything.
if TYPE_CHECKING:
    Leaf = AnyArray
    CodesLeaf = Codes
else:
    Leaf = CodesLeaf = object


class Spectrum(ABC):
    """The prior sds of the k coefficients of a `LinearBlock` as a function of its scales.

    Subclasses are frozen dataclasses of plain numbers and texts, because compiled programs are
    cached by their hash.
    """

    @property
    @abstractmethod
    def starts(self) -> Mapping[str, float]:
        """Scales that must be positive, such as length scales, with their starting values.

        The remaining scales are sds that multiply all columns. They may be zero, and their sign is
        not identified.
        """

    @abstractmethod
    def sds(
        self, values: Mapping[str, ArrayLike], xp: ModuleType = np
    ) -> Float[AnyArray, "*draws k"]:
        """The sds at the values of the scales, which have leading axes of draws or none.

        Args:
            values: values of the scales, by site.
            xp: `numpy` or `jax.numpy`.
        """

    @abstractmethod
    def slopes(
        self, values: Mapping[str, ArrayLike]
    ) -> dict[str, Float[NDArray[np.float64], "*draws k"]]:
        """Derivatives of the sds with respect to each scale, by site, in NumPy."""


@pytree(
    data=[
        *("columns", "codes", "mean", "factor", "known", "variance", "carry", "freedom", "bounds"),
    ],
    meta=[
        *("levels", "gaussian", "sites", "shapes", "carried"),
        *("scales", "grouping", "cholesky", "correlation", "spectrum"),
    ],
)
@dataclass(frozen=True)
class LinearBlock:
    """A block of the linear predictor, linear in coefficients b with a Gaussian prior.

        eta_i = x_i . b_{j(i)} + known_i,   b_j ~ N(mean, F F')  for each level j

    Attributes:
        columns: (n, k) the rows x_i.
        codes: (n,) int32, the level j(i) of each row; None where all rows share one vector b.
        levels: number of vectors b_j.
        mean: (k,) prior mean.
        factor: F, (k, k) lower triangular, or (k,) for a diagonal one; infinite for a flat prior.
        gaussian: whether the prior is Gaussian or flat, so that b can be integrated out.
        sites: sites that hold the coefficients, in the order of the columns, with the number of
            columns of each.
        shapes: shape of each of these sites for one level.
        scales: sites of the prior sds, one for each column; with a `spectrum`, the sites from
            which it computes the sds; empty for known sds.
        grouping: name of the grouping; "" where `codes` is None.
        cholesky: site of the Cholesky factor L of the correlations, F = diag(scales) L; "" for
            independent coefficients.
        correlation: name of the parameter that takes the prior of the correlations.
        spectrum: computes the sds from the scales; None where each scale is an sd.
        known: (n,) known part of eta, or None.
        variance: (n,) variance of a random part of eta whose mean is `known`, or None.
        carry: (m, k) matrix that maps b to the m coefficients of the formula's own columns, where
            b refers to other coordinates; None where it does not.
        carried: for each coefficient of the formula's columns, in order, its name, its number of
            columns and its shape for one level.
        freedom: (k,) degrees of freedom of independent t priors with scales `factor`, infinite
            for normal and uniform ones; None where all priors are normal, or where one is none of
            these.
        bounds: (2, k) lower and upper bounds of independent uniform priors, infinite for other
            priors; None where no prior is uniform. `mean` and `factor` have the moments of the
            uniform distribution.
    """

    columns: Leaf
    codes: CodesLeaf | None
    levels: int
    mean: Leaf
    factor: Leaf
    gaussian: bool = True
    sites: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    scales: tuple[str, ...] = ()
    grouping: str = ""
    cholesky: str = ""
    correlation: str = ""
    spectrum: Spectrum | None = None
    known: Leaf | None = None
    variance: Leaf | None = None
    carry: Leaf | None = None
    carried: tuple[tuple[str, int, tuple[int, ...]], ...] = ()
    freedom: Leaf | None = None
    bounds: Leaf | None = None

    def keep(self, places: Places) -> "LinearBlock":
        """The block on the rows at `places`."""
        codes = None if self.codes is None else self.codes[places]
        known = None if self.known is None else self.known[places]
        variance = None if self.variance is None else self.variance[places]
        columns = self.columns[places]
        return replace(self, columns=columns, codes=codes, known=known, variance=variance)

    def predict(self, coefficients: Float[Array, "*levels k"]) -> Float[Array, "n"]:
        """Products x_i . b_{j(i)}, where `coefficients` holds one b, or one of each level."""
        if self.codes is None:
            return jnp.matmul(self.columns, coefficients)
        return jnp.sum(self.columns * coefficients[self.codes], axis=-1)


@dataclass(frozen=True)
class Bilinear:
    """A block of the predictor that is bilinear in two sets of effects.

        eta_i = sum_k u[j(i), k] v[m(i), k],   u_jk ~ N(0, tau_k^2),   v_mk ~ N(0, 1)

    Attributes:
        codes: the levels j(i) and m(i) of each row.
        levels: the numbers of levels J and M.
        rank: the number of components K.
        sites: the sites of u (J, K) and of v (M, K).
        scale: the site of tau (K,), which is also the name of the parameter that takes its prior.
    """

    codes: tuple[Int[Codes, "n"], Int[Codes, "n"]]
    levels: tuple[int, int]
    rank: int
    sites: tuple[str, str]
    scale: str
