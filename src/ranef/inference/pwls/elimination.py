"""What every elimination of group effects offers the solver and the sampler of effects.

`NestedElimination` eliminates a chain of nested factors with dense cross-products,
`CrossedElimination` the largest of crossed factors with sparse ones. `solver.select_elimination`
chooses. The names of axes are those of the table in ``inference/README.md``. The remaining
coefficients, Q in number, are those of the factors that are not eliminated, the common effects,
and a constant -1 for the response.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.pwls.nested_elimination import EffectConditionals
from ranef.inference.pwls.schur_complement import SchurFactor, SchurLayout
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Levels = NDArray[np.int64]


@runtime_checkable
class Covariances(Protocol):
    """Blocks of the posterior covariance of the coefficients, in units of sigma^2."""

    @property
    def last(self) -> Float[Array, "B Q Q"]:
        """Covariance of the remaining coefficients."""
        ...

    def variances(self) -> tuple[dict[int, Float[Array, "B _levels _k"]], Float[Array, "B Q"]]:
        """Variances of the effects by factor, and of the remainder."""
        ...

    def combined(
        self, factor: int, combinations: Float[Array, "m k"]
    ) -> Float[Array, "B levels m"]:
        """Variances of linear combinations of each level's effects."""
        ...

    def derivatives(self) -> dict[int, tuple[Float[Array, "_k _k"], Float[Array, "_k _k"]]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, for B = 1.

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
    def log_det_random(self) -> Float[Array, "B"]:
        """Log |Lambda' Z'WZ Lambda + I|."""
        ...

    def conditionals(
        self,
        roots: tuple[Float[Array, "_B _k _k"], ...],
        sigma: Float[Array, "draws"],
        last: Float[Array, "draws Q"],
    ) -> EffectConditionals:
        """The conditional distributions of the eliminated effects.

        Args:
            roots: Lambda of each factor.
            sigma: residual sd of each draw. There are B draws unless B is 1.
            last: draws of the remaining coefficients.
        """
        ...

    def effects(self) -> tuple[dict[int, Float[Array, "B _levels _k"]], Float[Array, "B Q"]]:
        """The solution by back-substitution: coefficients by factor, and the remaining ones."""
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

    def factorize(
        self, roots: Sequence[Float[Array, "B _k _k"]], penalty: Float[Array, "B q q"]
    ) -> Factorization:
        """The factorization at B values of the hyperparameters.

        Args:
            roots: Lambda of each factor.
            penalty: prior of the common effects as a quadratic form of (beta, -1).

        Raises:
            DependentColumnError: for B = 1, if common columns are linearly dependent.
        """
        ...

    def bare(self) -> "Elimination":
        """The same elimination without what draws from `EffectConditionals` do not need."""
        ...

    def family(
        self, levels: Mapping[int, Int[Levels, "_levels"]]
    ) -> dict[int, Int[Levels, "_levels"]]:
        """These levels of eliminated factors and all their ancestors.

        Args:
            levels: by factor, levels. Those of factors that are not eliminated are ignored.

        Returns:
            By eliminated factor, sorted levels; the factor that is eliminated last comes first.
        """
        ...

    def parents(
        self, factor: int, levels: Int[Levels, "levels"]
    ) -> dict[int, Int[Levels, "levels"]]:
        """By later eliminated factor, the level in which each of `levels` is nested."""
        ...

    def drawn(
        self,
        factor: int,
        levels: Int[Levels, "levels"],
        conditionals: EffectConditionals,
        above: Iterable[Float[Array, "_l draws levels"]],
        noise: Float[Array, "k draws levels"],
    ) -> Float[Array, "k draws levels"]:
        """Exact draws of the effects of some levels, conditional on their parents and the rest.

        Args:
            factor: index of the factor.
            levels: levels to draw.
            conditionals: hyperparameters, cross-products and draws of the remaining coefficients.
            above: by later eliminated factor, draws of the levels' parents.
            noise: standard normal numbers.
        """
        ...
