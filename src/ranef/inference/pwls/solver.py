"""Penalized weighted least squares (PWLS) for common and group effects.

    minimise  |y - X beta - Z Lambda u|^2_W + |u|^2 + (beta - m)' P (beta - m)

for known relative roots Lambda, where b = Lambda u are the group effects, beta are the common
(fixed) effects and P is their prior precision. Variances of y, b and beta are in units of sigma^2.
In this formulation of lme4 (Bates, Maechler, Bolker and Walker, 2015, eq. 13-22) a singular
Lambda, or one of zero, is no special case. The structure of the system is analysed once, from
cross-products. An evaluation then does not need the rows:

    products = cross_products(rows)            # and + over batches and partitions
    solver = PWLS(products)
    solution = solver.solve(roots, penalty)    # at each theta
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.inference.pwls.crossed_elimination import CrossedElimination
from ranef.inference.pwls.elimination import Covariances, Elimination, Factorization
from ranef.inference.pwls.nested_elimination import (
    EffectConditionals,
    NestedElimination,
    NestedFactorization,
    nested,
)
from ranef.inference.pwls.selected_inverse import SelectedInverse
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# Size, in numbers, of the cross-products of the eliminated factors with all other coefficients up
# to which they are always held as dense columns.
_DENSE = 300_000
# Size up to which they are held as dense columns if they are far from sparse.
_DENSE_AT_MOST = 30_000_000
# Share of nonzero cross-products with other factors above which they count as far from sparse.
_FULL = 0.15
# Largest number of effects that may remain after elimination of the largest of crossed factors:
# their dense matrix then takes 3.2 GB.
MOST_REMAINING = 20_000
# Largest number of nonzero cross-products of the largest of crossed factors with the other
# factors: 3.2 GB with their indices.
_MET = 200_000_000
# Array elements that a batch of evaluations, at several values of the hyperparameters, holds.
_BATCH = 250_000
# Cost, in array elements, up to which one evaluation takes about a tenth of a millisecond.
_CHEAP = 4_000
# Cost up to which one evaluation takes a few milliseconds.
_AFFORDABLE = 200_000
# Cost up to which one evaluation takes some tens of milliseconds.
_SERVES_CHAINS = 2_000_000


class TooManyEffectsError(DataError):
    """Crossed factors leave more effects, or more cross-products, than fit into memory."""


class PWLS:
    """The least-squares system of a set of rows, to be solved at any hyperparameters.

    Attributes:
        products: the cross-products of the rows.
        system: the elimination of group effects that suits them.

    Raises:
        TooManyEffectsError: if crossed factors leave more effects, or more cross-products, than
            fit into memory.
    """

    def __init__(self, products: CrossProducts) -> None:
        self.products = products
        transform, self._offset = products.centre.transform(products.predictor)
        # The inverse of T is 2 I - T, because (T - I)^2 = 0.
        self._back = 2 * np.eye(len(transform)) - transform
        self.system = select_elimination(products)

    @property
    def p(self) -> int:
        """Number of common columns."""
        return len(self._offset)

    @property
    def cost(self) -> int:
        """Cost of an evaluation: the number of array elements, each used some tens of times."""
        return self.system.cells

    @property
    def largest(self) -> int:
        """Upper bound on the columns of a dense matrix.

        It counts the common effects and the effects of all factors except the largest.
        """
        sizes = [j * k for j, k in zip(self.products.levels, self.products.widths, strict=True)]
        return sum(sizes) - max(sizes, default=0) + self.p

    @property
    def is_cheap(self) -> bool:
        """Whether thousands of evaluations take a second or less."""
        return self.system.takes_batches and self.cost <= _CHEAP

    @property
    def is_affordable(self) -> bool:
        """Whether thousands of evaluations can be afforded if cheaper methods fail."""
        return self.system.takes_batches and self.cost <= _AFFORDABLE

    @property
    def serves_chains(self) -> bool:
        """Whether thousands of evaluations take minutes at most."""
        return self.cost <= _SERVES_CHAINS

    @property
    def batch(self) -> int:
        """Number of values of the hyperparameters that are solved for at once."""
        return batch_size(self.system)

    def penalty(self, mean: Float[Array, "p"], precision: Float[Array, "p"]) -> Float[Array, "q q"]:
        """The normal prior of the common effects as a quadratic form of (beta, -1).

        Here beta are the coefficients of the centred columns.

        Args:
            mean: prior means of the common effects.
            precision: prior precisions, in units of 1 / sigma^2; 0 for a flat prior.

        Returns:
            The matrix of the form.
        """
        inverse = self._back
        moved = inverse @ (2 * mean - inverse @ mean - self._offset)
        out = np.empty((self.p + 1, self.p + 1))
        out[:-1, :-1] = inverse.T @ (precision[:, None] * inverse)
        out[:-1, -1] = out[-1, :-1] = inverse.T @ (precision * moved)
        out[-1, -1] = precision @ moved**2
        return out

    def solve(
        self,
        roots: Sequence[Float[Array, "_k _k"] | Float[Array, "#B _k _k"]],
        penalty: Float[Array, "q q"] | Float[Array, "#B q q"] | None = None,
    ) -> "Solution":
        """The minimum at one value of the hyperparameters, or at B values at once.

        Args:
            roots: by factor, Lambda. It need not be triangular, nor of full rank.
            penalty: from `penalty`; None for flat priors.

        Returns:
            The solution at these hyperparameters.

        Raises:
            DependentColumnError: for B = 1, if common columns are linearly dependent. With
                several values the results of those that fail are nan.
        """
        penalty = np.zeros((self.p + 1, self.p + 1)) if penalty is None else penalty
        penalty = penalty.reshape(-1, *penalty.shape[-2:])
        full = [root.reshape(-1, *root.shape[-2:]) for root in roots]
        batch = max([len(penalty), *(len(root) for root in full)])
        full = [np.broadcast_to(root, (batch, *root.shape[1:])) for root in full]
        penalty = np.broadcast_to(penalty, (batch, *penalty.shape[1:]))
        return Solution(self, self.system.factorize(full, penalty), tuple(full))

    def chunks(self, count: int) -> Iterator[slice]:
        """Yield slices of `count` values of the hyperparameters, each of at most `batch`."""
        for start in range(0, count, self.batch):
            yield slice(start, min(count, start + self.batch))


def batch_size(system: Elimination) -> int:
    """Number of values of the hyperparameters that an elimination factorizes at once."""
    return max(1, _BATCH // system.cells) if system.takes_batches else 1


def select_elimination(products: CrossProducts) -> NestedElimination | CrossedElimination:
    """The elimination that `EliminationPlan` chooses.

    Args:
        products: the cross-products.

    Returns:
        Elimination along a chain of nested factors, which begins with the factor that has most
        coefficients, with dense columns; or, if these would be large and sparse, elimination of
        this factor alone with sparse cross-products.

    Raises:
        TooManyEffectsError: if the sparse elimination would not fit into memory either.
    """
    plan = EliminationPlan.of(products)
    if plan.too_many is not None:
        raise TooManyEffectsError(plan.too_many)
    if plan.crossed:
        return CrossedElimination.of(products, plan.eliminated[0], plan.remaining)
    return NestedElimination.of(products, plan.eliminated, plan.remaining)


@dataclass(frozen=True)
class EliminationPlan:
    """Which factors to eliminate, and whether their cross-products are dense or sparse.

    Attributes:
        eliminated: factors to eliminate: a chain of nested ones, which begins with the factor that
            has most coefficients, or this factor alone.
        remaining: the other factors.
        crossed: whether the cross-products of the eliminated factor are held sparse.
        too_many: why the elimination does not fit into memory, as the rest of a sentence that
            begins with the name of a method; None if it does.
    """

    eliminated: list[int]
    remaining: list[int]
    crossed: bool = False
    too_many: str | None = None

    @staticmethod
    def surely_dense(eliminated: int, beside: int) -> bool:
        """Whether dense columns of so many effects with all coefficients beside them are small."""
        return eliminated * beside <= _DENSE

    @classmethod
    def of(cls, products: CrossProducts) -> "EliminationPlan":
        """The plan for cross-products, of which it reads the shapes and the pairs of levels."""
        sizes = np.array([j * k for j, k in zip(products.levels, products.widths, strict=True)])
        # A factor of one level is not eliminated, because that would gain nothing.
        one = [f for f, levels in enumerate(products.levels) if levels == 1]
        order = [int(f) for f in np.argsort(-sizes, kind="stable") if f not in one]
        chain = order[:1]
        order += one
        for f in order[1 : len(order) - len(one)]:
            if all(nested(products, c, f) for c in chain):
                chain.append(f)
        rest = [f for f in order if f not in chain]
        remaining = int(sizes[rest].sum())
        if not rest or not chain:
            return cls(chain, rest)
        first = order[0]
        cells = int(sizes[chain].sum()), remaining + len(products.common)
        met = sum(products.pairs[min(first, f), max(first, f)].values.size for f in rest)
        full = met > _FULL * int(sizes[first]) * remaining
        if cls.surely_dense(*cells) or (full and math.prod(cells) <= _DENSE_AT_MOST):
            return cls(chain, rest)
        too_many = None
        remaining = int(sizes[order[1:]].sum())
        if met > _MET:
            too_many = (
                f"at most {_MET:,} cross-products of the largest grouping with what is beside it, "
                f"and here are {met:,}"
            )
        elif remaining > MOST_REMAINING:
            too_many = (
                f"factors a dense matrix of at most {MOST_REMAINING:,} effects, and the groupings "
                f"beside the largest have {remaining:,} together"
            )
        return cls([first], order[1:], True, too_many)


@dataclass(frozen=True)
class Solution:
    """The minimum, and the Gaussian posterior of the coefficients, at B values of hyperparameters.

    Variances and covariances are in units of sigma^2.

    Attributes:
        solver: the least-squares system.
        system: its factorization.
        roots: Lambda of each factor.
    """

    solver: PWLS
    system: Factorization
    roots: tuple[Float[Array, "B _k _k"], ...]
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def log_det_random(self) -> Float[Array, "B"]:
        """Log |Lambda' Z'WZ Lambda + I|."""
        return self.system.log_det_random

    @property
    def log_det_common(self) -> Float[Array, "B"]:
        """Log |X' V^-1 X + P|, V = W^-1 + Z Lambda Lambda' Z'."""
        return self.system.remainder.log_det_common

    @property
    def residual(self) -> Float[Array, "B"]:
        """The minimum: the penalized weighted residual sum of squares."""
        return self.system.remainder.residual

    @cached_property
    def _means(self) -> tuple[dict[int, Float[Array, "B _levels _k"]], Float[Array, "B Q"]]:
        """Effects by factor, and the remaining coefficients, at the minimum."""
        return self.system.effects()

    @property
    def effects(self) -> tuple[Float[Array, "B _levels _k"], ...]:
        """By factor, the group effects b at the minimum."""
        return tuple(self._means[0][f] for f in range(len(self.roots)))

    @property
    def common(self) -> Float[Array, "B p"]:
        """The common effects beta at the minimum."""
        return self._uncentred(self._means[1])

    @property
    def centred_common(self) -> Float[Array, "B p"]:
        """The coefficients of the centred common columns."""
        last = self._means[1]
        return last[:, last.shape[1] - 1 - self.solver.p : last.shape[1] - 1]

    def _uncentred(self, last: Float[Array, "draws Q"]) -> Float[Array, "draws p"]:
        """Common effects of the uncentred columns, from the remaining coefficients."""
        solver = self.solver
        centred = last[:, last.shape[1] - 1 - solver.p : last.shape[1] - 1]
        return (centred + solver._offset) @ solver._back.T

    @property
    def covariances(self) -> Covariances:
        """Blocks of the posterior covariance."""
        # Not a cached property: before Python 3.12 these share one lock across all instances, so
        # that threads would wait for each other.
        if "covariances" not in self._cache:
            self._cache["covariances"] = self.system.covariances(common=True)
        return self._cache["covariances"]

    def whole_covariances(self) -> SelectedInverse:
        """Every covariance block that the variance of a row's predictor needs.

        It requires an elimination with `has_row_covariances`. In contrast to `covariances`, the
        covariances of a single stage with the remaining coefficients are included.
        """
        assert isinstance(self.system, NestedFactorization)
        return SelectedInverse(self.system, common=True, whole=True)

    @property
    def effect_variances(self) -> tuple[Float[Array, "B _levels _k"], ...]:
        """By factor, marginal posterior variances of the group effects."""
        found = self.covariances.variances()[0]
        return tuple(found[f] for f in range(len(self.roots)))

    def combined_variances(
        self, factor: int, combinations: Float[Array, "m k"]
    ) -> Float[Array, "B levels m"]:
        """Variances of linear combinations of the effects of each level."""
        return self.covariances.combined(factor, combinations)

    @property
    def common_covariance(self) -> Float[Array, "B p p"]:
        """Posterior covariance of the common effects."""
        back = self.solver._back
        return back @ self._centred_covariance @ back.T

    @property
    def _centred_covariance(self) -> Float[Array, "B p p"]:
        last = self.covariances.last
        p = self.solver.p
        first = last.shape[1] - 1 - p
        return last[:, first : first + p, first : first + p]

    def root_derivatives(
        self, *, common: bool = True
    ) -> list[tuple[Float[Array, "_k _k"], Float[Array, "_k _k"]]]:
        """Derivatives of the log determinant and of the residual in each Lambda, for B = 1.

        Args:
            common: whether the log determinant is `log_det_random` + `log_det_common`; otherwise
                it is `log_det_random` alone.

        Returns:
            By factor, d log det / d Lambda and d residual / d Lambda.
        """
        inverse = self.covariances if common else self.system.covariances(common=False)
        found = inverse.derivatives()
        return [found[f] for f in range(len(self.roots))]

    def penalty_derivatives(self, penalty: Float[Array, "q q"]) -> tuple[float, float]:
        """Derivatives in t for a prior of P + t `penalty` in place of P, at t = 0 and for B = 1.

        Args:
            penalty: direction, a quadratic form of (beta, -1).

        Returns:
            d log det / d t and d residual / d t.
        """
        last = self._means[1][0]
        beta = last[len(last) - 1 - self.solver.p :]
        inside = penalty[:-1, :-1]
        return float((self._centred_covariance[0] * inside).sum()), float(beta @ penalty @ beta)

    def remainder_draws(
        self, rng: np.random.Generator, sigma: Float[Array, "draws"]
    ) -> Float[Array, "draws Q"]:
        """Exact posterior draws of the coefficients that are not eliminated.

        Args:
            rng: source of the noise.
            sigma: residual sd of each draw. There are B draws unless B is 1.

        Returns:
            The draws, an argument of `conditionals` and `common_of`.
        """
        remainder = self.system.remainder
        return remainder.draws(sigma, rng.standard_normal((len(sigma), remainder.layout.size - 1)))

    def common_of(self, remainder: Float[Array, "draws Q"]) -> Float[Array, "draws p"]:
        """The common effects in draws from `remainder_draws`."""
        return self._uncentred(remainder)

    def conditionals(
        self, sigma: Float[Array, "draws"], remainder: Float[Array, "draws Q"]
    ) -> EffectConditionals:
        """The conditional distributions of the eliminated effects.

        Args:
            sigma: residual sd of each draw.
            remainder: draws from `remainder_draws` at the same sigma.
        """
        return self.system.conditionals(self.roots, sigma, remainder)
