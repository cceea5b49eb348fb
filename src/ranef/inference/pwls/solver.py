"""Penalized weighted least squares over common columns and group factors.

    minimise  |y - X beta - Z Lambda u|^2_W + |u|^2 + (beta - m)' P (beta - m)

for given relative roots Lambda, b = Lambda u; the variances of y, u and beta are in units of
sigma^2. Written as in lme4 (Bates, Maechler, Bolker and Walker, 2015, eq. 13-22), a Lambda of
zero is no special case. The structure is analysed once, from cross-products; an evaluation
then never sees the rows:

    products = cross_products(rows)            # and + over batches and partitions
    solver = PWLS(products)
    solution = solver.solve(roots, penalty)    # at each theta
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.inference.pwls.crossed_elimination import (
    CrossedCovariances,
    CrossedElimination,
    CrossedFactorization,
)
from ranef.inference.pwls.nested_elimination import (
    EffectConditionals,
    NestedElimination,
    NestedFactorization,
    nested,
)
from ranef.inference.pwls.selected_inverse import SelectedInverse

Array = NDArray[np.float64]

# Cross-products of the largest factor with the others are held densely up to so many numbers,
# or more where many levels meet.
_DENSE, _DENSE_AT_MOST, _FULL = 300_000, 30_000_000, 0.15
# Coefficients left after the elimination that one dense matrix may hold: 3.2 GB of it.
MOST_REMAINING = 20_000
# Those of them that a sparse matrix may have: 3.2 GB of it.
_MET = 200_000_000
# Numbers held at once for several values of the hyperparameters; up to which one evaluation
# takes about a tenth of a millisecond; a few milliseconds; and some tens of them.
_BATCH, _CHEAP, _AFFORDABLE, _SERVES_CHAINS = 250_000, 4_000, 200_000, 2_000_000


class TooManyEffectsError(DataError):
    """Crossed factors that leave more than a dense matrix can hold."""


class PWLS:
    """The system of a set of rows, ready to be solved at any hyperparameters.

    Raises:
        TooManyEffectsError: where the crossed factors leave more than a dense matrix can hold.
    """

    def __init__(self, products: CrossProducts) -> None:
        self.products = products
        transform, self._offset = products.centre.transform(products.predictor)
        self._back = 2 * np.eye(len(transform)) - transform  # its inverse: T - I is nilpotent
        self.system = _analysed(products)

    @property
    def p(self) -> int:
        """The number of common columns."""
        return len(self._offset)

    @property
    def cost(self) -> int:
        """Of an evaluation: how many numbers it goes through, some tens of times."""
        return self.system.cells

    @property
    def largest(self) -> int:
        """Columns that a dense matrix has at most."""
        sizes = [j * k for j, k in zip(self.products.levels, self.products.widths, strict=True)]
        return sum(sizes) - max(sizes, default=0) + self.p

    @property
    def is_cheap(self) -> bool:
        """Whether thousands of evaluations can be afforded."""
        return isinstance(self.system, NestedElimination) and self.cost <= _CHEAP

    @property
    def is_affordable(self) -> bool:
        """Whether they can where nothing less serves."""
        return isinstance(self.system, NestedElimination) and self.cost <= _AFFORDABLE

    @property
    def serves_chains(self) -> bool:
        """Whether thousands of evaluations take minutes at most."""
        return self.cost <= _SERVES_CHAINS

    @property
    def batch(self) -> int:
        """How many values of the hyperparameters are solved for at once."""
        return max(1, _BATCH // self.cost) if isinstance(self.system, NestedElimination) else 1

    def penalty(self, mean: Array, precision: Array) -> Array:
        """The normal prior of the common effects as a quadratic form of (beta, -1).

        Args:
            mean: (p,).
            precision: (p,) in units of 1 / sigma^2; 0 for a flat prior.
        """
        inverse = self._back
        moved = inverse @ (2 * mean - inverse @ mean - self._offset)
        out = np.empty((self.p + 1, self.p + 1))
        out[:-1, :-1] = inverse.T @ (precision[:, None] * inverse)
        out[:-1, -1] = out[-1, :-1] = inverse.T @ (precision * moved)
        out[-1, -1] = precision @ moved**2
        return out

    def solve(self, roots: Sequence[Array], penalty: Array | None = None) -> "Solution":
        """The minimum at given hyperparameters, or at B of them at once.

        Args:
            roots: by factor, Lambda (k, k) or (B, k, k), of any shape: it need not be
                triangular, nor of full rank.
            penalty: (p + 1, p + 1) or (B, p + 1, p + 1) from `penalty`; None for flat priors.

        Raises:
            DependentColumnError: where the common columns cannot be told apart.
        """
        penalty = np.zeros((self.p + 1, self.p + 1)) if penalty is None else penalty
        penalty = penalty.reshape(-1, *penalty.shape[-2:])
        full = [root.reshape(-1, *root.shape[-2:]) for root in roots]
        batch = max([len(penalty), *(len(root) for root in full)])
        full = [np.broadcast_to(root, (batch, *root.shape[1:])) for root in full]
        penalty = np.broadcast_to(penalty, (batch, *penalty.shape[1:]))
        return Solution(self, self.system.factorize(full, penalty), tuple(full))

    def chunks(self, count: int) -> Iterator[slice]:
        """Slices of `count` values of the hyperparameters, each as many as go at once."""
        for start in range(0, count, self.batch):
            yield slice(start, min(count, start + self.batch))


def _analysed(products: CrossProducts) -> NestedElimination | CrossedElimination:
    """Which factor to eliminate, and how to hold what it meets."""
    sizes = np.array([j * k for j, k in zip(products.levels, products.widths, strict=True)])
    # Coefficients of one level are columns of the remainder: nothing is gained by elimination.
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
        return NestedElimination.of(products, chain, rest)
    first = order[0]
    cells = int(sizes[chain].sum()) * (remaining + len(products.common))
    met = sum(products.pairs[min(first, f), max(first, f)].values.size for f in rest)
    full = met > _FULL * int(sizes[first]) * remaining
    if cells <= _DENSE or (full and cells <= _DENSE_AT_MOST):
        return NestedElimination.of(products, chain, rest)
    if met > _MET:
        raise TooManyEffectsError(
            f"at most {_MET:,} cross-products of the largest grouping with what is beside it, and "
            f"here are {met:,}"
        )
    remaining = int(sizes[order[1:]].sum())
    if remaining > MOST_REMAINING:
        raise TooManyEffectsError(
            f"factors a dense matrix of at most {MOST_REMAINING:,} effects, and the groupings "
            f"beside the largest have {remaining:,} together"
        )
    return CrossedElimination.of(products, first, order[1:])


@dataclass(frozen=True)
class Solution:
    """The minimum, and the Gaussian posterior around it, at B values of the hyperparameters.

    Variances are in units of sigma^2.
    """

    solver: PWLS
    system: NestedFactorization | CrossedFactorization
    roots: tuple[Array, ...]
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def log_det_random(self) -> Array:
        """(B,) log |Lambda' Z'WZ Lambda + I|."""
        return self.system.log_det_random

    @property
    def log_det_common(self) -> Array:
        """(B,) log |X' V^-1 X + P|, V = W^-1 + Z Lambda Lambda' Z'."""
        return self.system.remainder.log_det_common

    @property
    def residual(self) -> Array:
        """(B,) the minimum."""
        return self.system.remainder.residual

    @cached_property
    def _means(self) -> tuple[dict[int, Array], Array]:
        return self.system.effects()

    @property
    def effects(self) -> tuple[Array, ...]:
        """By factor, the b that minimise, (B, J, k)."""
        return tuple(self._means[0][f] for f in range(len(self.roots)))

    @property
    def common(self) -> Array:
        """The beta that minimise, (B, p)."""
        return self._uncentred(self._means[1])

    @property
    def centred_common(self) -> Array:
        """The coefficients of the centred common columns, (B, p)."""
        last = self._means[1]
        return last[:, last.shape[1] - 1 - self.solver.p : last.shape[1] - 1]

    def _uncentred(self, last: Array) -> Array:
        """Common effects of the columns as given, from the remainder's coefficients (M, Q)."""
        solver = self.solver
        centred = last[:, last.shape[1] - 1 - solver.p : last.shape[1] - 1]
        return (centred + solver._offset) @ solver._back.T

    @property
    def covariances(self) -> SelectedInverse | CrossedCovariances:
        """Blocks of the inverse."""
        # Before Python 3.12 cached properties of all instances wait for one lock.
        if "covariances" not in self._cache:
            self._cache["covariances"] = self._inverse(common=True)
        return self._cache["covariances"]

    def whole_covariances(self) -> SelectedInverse:
        """Every block that rows need, after an elimination along a chain."""
        assert isinstance(self.system, NestedFactorization)
        return SelectedInverse(self.system, common=True, whole=True)

    def _inverse(self, *, common: bool) -> SelectedInverse | CrossedCovariances:
        if isinstance(self.system, CrossedFactorization):
            return CrossedCovariances(self.system, common=common)
        return SelectedInverse(self.system, common=common)

    @property
    def effect_variances(self) -> tuple[Array, ...]:
        """By factor, (B, J, k), the uncertainty of the common effects included."""
        found = self.covariances.variances()[0]
        return tuple(found[f] for f in range(len(self.roots)))

    def combined_variances(self, factor: int, combinations: Array) -> Array:
        """(B, J, m) the variances of combinations (m, k) of each level's effects of a factor."""
        return self.covariances.combined(factor, combinations)

    @property
    def common_covariance(self) -> Array:
        """(B, p, p)."""
        back = self.solver._back
        return back @ self._centred_covariance @ back.T

    @property
    def _centred_covariance(self) -> Array:
        last = self.covariances.last
        p = self.solver.p
        first = last.shape[1] - 1 - p
        return last[:, first : first + p, first : first + p]

    def root_derivatives(self, *, common: bool = True) -> list[tuple[Array, Array]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, (k, k) each, for B = 1.

        The log determinant is `log_det_random` + `log_det_common`; without `common` the
        first alone.
        """
        inverse = self.covariances if common else self._inverse(common=False)
        found = inverse.derivatives()
        return [found[f] for f in range(len(self.roots))]

    def penalty_derivatives(self, penalty: Array) -> tuple[float, float]:
        """D log det / d t and d residual / d t along penalty + t penalty, at B = 1, t = 0."""
        last = self._means[1][0]
        beta = last[len(last) - 1 - self.solver.p :]
        inside = penalty[:-1, :-1]
        return float((self._centred_covariance[0] * inside).sum()), float(beta @ penalty @ beta)

    def remainder_draws(self, rng: np.random.Generator, sigma: Array) -> Array:
        """Exact draws of what is not eliminated, (M, Q), for `given` and `common_of`.

        Args:
            rng: of the noise.
            sigma: (M,); M is B, or anything where B is 1.
        """
        remainder = self.system.remainder
        return remainder.draws(sigma, rng.standard_normal((len(sigma), remainder.layout.size - 1)))

    def common_of(self, remainder: Array) -> Array:
        """The common effects (M, p) of `remainder_draws`."""
        return self._uncentred(remainder)

    def given(self, sigma: Array, remainder: Array) -> EffectConditionals:
        """What effects are drawn from, given `remainder_draws` at the same sigma."""
        return self.system.given(self.roots, sigma, remainder)
