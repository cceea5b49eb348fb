"""What every elimination of group effects offers the solver and the sampler of effects.

`NestedElimination` eliminates a chain of nested factors with dense cross-products,
`CrossedElimination` the largest of crossed factors with sparse ones. `solver.select_elimination`
chooses. Throughout, B is the number of values of the hyperparameters, J that of the levels of a
factor, k that of its columns, M that of draws, and Q that of the remaining coefficients: those of
the factors that are not eliminated, the common effects, and a constant -1 for the response.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls.nested_elimination import EffectConditionals
from ranef.inference.pwls.schur_complement import SchurFactor, SchurLayout

Array = NDArray[np.float64]
Levels = NDArray[np.int64]


@runtime_checkable
class Covariances(Protocol):
    """Blocks of the posterior covariance of the coefficients, in units of sigma^2."""

    @property
    def last(self) -> Array:
        """(B, Q, Q) covariance of the remaining coefficients."""
        ...

    def variances(self) -> tuple[dict[int, Array], Array]:
        """Variances of the effects by factor, (B, J, k), and of the remainder, (B, Q)."""
        ...

    def combined(self, factor: int, combinations: Array) -> Array:
        """Variances (B, J, m) of linear combinations (m, k) of each level's effects."""
        ...

    def derivatives(self) -> dict[int, tuple[Array, Array]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, (k, k) each, for B = 1.

        The log determinant includes that of the common effects if they are uncertain.
        """
        ...


@runtime_checkable
class Factorization(Protocol):
    """The factorization of the whole system at B values of the hyperparameters."""

    @property
    def remainder(self) -> SchurFactor:
        """The factorization of the Schur complement."""
        ...

    @property
    def log_det_random(self) -> Array:
        """(B,) log |Lambda' Z'WZ Lambda + I|."""
        ...

    def given(self, roots: tuple[Array, ...], sigma: Array, last: Array) -> EffectConditionals:
        """The conditional distributions of the eliminated effects.

        Args:
            roots: Lambda of each factor, (B, k, k).
            sigma: (M,) residual sd of each draw; M equals B unless B is 1.
            last: (M, Q) draws of the remaining coefficients.
        """
        ...

    def effects(self) -> tuple[dict[int, Array], Array]:
        """The solution by back-substitution.

        Returns:
            The coefficients by factor, (B, J, k), and the remaining coefficients (B, Q).
        """
        ...

    def covariances(self, *, common: bool) -> Covariances:
        """Blocks of the posterior covariance.

        Args:
            common: whether common effects are uncertain; otherwise they are held fixed.
        """
        ...


@runtime_checkable
class Elimination(Protocol):
    """The elimination of the effects of one or several factors from cross-products.

    Attributes:
        takes_batches: whether `factorize` takes several values of the hyperparameters at once.
        has_row_covariances: whether the factorization has the covariances of each level with all
            coefficients that occur with it, which the variances of the rows' predictors need.
    """

    takes_batches: ClassVar[bool]
    has_row_covariances: ClassVar[bool]

    @property
    def remainder(self) -> SchurLayout:
        """The layout of the remaining coefficients."""
        ...

    @property
    def cells(self) -> int:
        """Cost of an evaluation: array elements held for one value of the hyperparameters."""
        ...

    def factorize(self, roots: Sequence[Array], penalty: Array) -> Factorization:
        """The factorization at B values of the hyperparameters.

        Args:
            roots: Lambda of each factor, (B, k, k).
            penalty: (B, p + 1, p + 1) prior of the common effects as a quadratic form of
                (beta, -1).

        Raises:
            DependentColumnError: for B = 1, if common columns are linearly dependent.
        """
        ...

    def bare(self) -> "Elimination":
        """The same elimination without what draws from `EffectConditionals` do not need."""
        ...

    def family(self, levels: Mapping[int, Levels]) -> dict[int, Levels]:
        """The given levels of eliminated factors and all their ancestors.

        Args:
            levels: by factor, levels. Those of factors that are not eliminated are ignored.

        Returns:
            By eliminated factor, sorted levels; the factor that is eliminated last comes first.
        """
        ...

    def parents(self, factor: int, levels: Levels) -> dict[int, Levels]:
        """By later eliminated factor, the level in which each of `levels` is nested."""
        ...

    def drawn(
        self,
        factor: int,
        levels: Levels,
        given: EffectConditionals,
        above: Iterable[Array],
        noise: Array,
    ) -> Array:
        """Exact draws of the effects of some levels, given their parents and the remainder.

        Args:
            factor: index of the factor.
            levels: (J,) levels to draw.
            given: hyperparameters, cross-products and draws of the remaining coefficients.
            above: by later eliminated factor, draws (k', M, J) of the levels' parents.
            noise: (k, M, J) standard normal numbers.

        Returns:
            (k, M, J) draws.
        """
        ...
