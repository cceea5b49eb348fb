"""Maximum likelihood and REML of a linear mixed model, by the profiled deviance of lme4.

Priors are ignored. With relative Cholesky factors Lambda(theta) and W the weights, the deviance,
profiled over the common effects beta and the residual sd sigma, is (Bates, Maechler, Bolker and
Walker, 2015, eq. 34 and 41)

    ML    log|L|^2 + n (1 + log(2 pi r^2 / n)) - log|W|
    REML  log|L|^2 + log|R_X|^2 + (n - p) (1 + log(2 pi r^2 / (n - p))) - log|W|

where |L|^2 = |Lambda' Z'WZ Lambda + I|, |R_X|^2 = |X' V^-1 X| and r^2 is the penalized residual
sum of squares. It is minimised by BFGS.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError
from ranef.inference.lmm.model import LinearMixedModel, RandomEffectsTerm, dependent
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.solver import Solution
from ranef.numerics.bfgs import minimise
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

# A residual below this share of the total sum of squares is rounding error of cross-products.
_FITTED = 1e-13
# Relative sds of all effects that are tried as a start; the search begins at the best of them.
STARTS = (1.0, 0.3, 0.1)
# Relative sd below which a scale counts as zero.
_AT_ZERO = 1e-3
# Relative sds that are tried in place of zero.
_SIZES = (0.02, 0.05, 0.1, 0.2, 0.4)
# Share of the deviance by which another theta must be lower to count as better.
_LOWER = 1e-11
# Largest number of searches that start again from a theta off the boundary.
RESTARTS = 5


class Estimates(TypedDict):
    """Estimates of maximum likelihood or REML.

    Attributes:
        theta: elements of the relative Cholesky factors.
        deviance: the profiled deviance there.
        fixef: table of the common effects: estimate and se.
        varcorr: table of sds and correlations: estimate.
        sigma: the residual sd.
    """

    theta: Float[Array, "d"]
    deviance: float
    fixef: pd.DataFrame
    varcorr: pd.DataFrame
    sigma: float


@dataclass(frozen=True)
class ProfiledDeviance:
    """The profiled deviance of one model and its data, as a function of theta.

    theta has the elements of the relative Cholesky factors column by column, terms in order of
    decreasing number of levels. A term without correlations contributes its diagonal alone.

    Attributes:
        mixed: the model and its cross-products.

    Raises:
        OptionError: for a term in which one scale determines the sds of several columns.
    """

    mixed: LinearMixedModel

    def __post_init__(self) -> None:
        tied = next((g.label for g in self.mixed.groupings if g.is_tied), None)
        if tied is not None:
            raise OptionError(
                f"the likelihood criterion is lme4's, which has no {tied}; leave the term out, or "
                "read fit.summary()"
            )

    @property
    def order(self) -> list[int]:
        """Indices of the terms in the order of lme4, by decreasing number of levels."""
        groupings = self.mixed.groupings
        return sorted(range(len(groupings)), key=lambda g: -groupings[g].levels)

    @property
    def size(self) -> int:
        """The length of theta."""
        return sum(len(_elements(g)) for g in self.mixed.groupings)

    @property
    def start(self) -> Float[Array, "d"]:
        """The theta whose relative Cholesky factors are identity matrices."""
        return np.concatenate(
            [np.array([float(i == j) for i, j in _elements(self.mixed.groupings[g])])
             for g in self.order] or [np.zeros(0)]
        )  # fmt: skip

    def roots(self, theta: Float[Array, "d"]) -> list[Float[Array, "_k _k"]]:
        """The relative Cholesky factor of each grouping factor."""
        own: list[Array] = [np.zeros((0, 0))] * len(self.mixed.groupings)
        start = 0
        for g in self.order:
            grouping = self.mixed.groupings[g]
            places = _elements(grouping)
            root = np.zeros((grouping.width, grouping.width))
            for (i, j), value in zip(places, theta[start:], strict=False):
                root[i, j] = value
            own[g] = root
            start += len(places)
        return self.mixed.roots(own)

    def deviance(self, theta: object, reml: bool = False) -> float:
        """The profiled deviance: -2 log likelihood at theta, or -2 log restricted likelihood.

        Args:
            theta: elements of the relative Cholesky factors, as many as `size`.
            reml: whether the likelihood is the restricted one.

        Raises:
            OptionError: for a theta of wrong length, or one that is not finite.
            DataError: if common columns are linearly dependent or fit the response exactly.
        """
        return self._value(self._solve(self.checked(theta)), reml)

    def checked(self, theta: object) -> Float[Array, "d"]:
        """`theta` as an array of numbers.

        Raises:
            OptionError: for a theta of wrong length, or one that is not finite.
        """
        try:
            values = np.atleast_1d(np.asarray(theta, dtype=np.float64))
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.shape != (self.size,) or not np.isfinite(values).all():
            raise OptionError(f"theta must be {self.size} finite numbers, not {theta!r}")
        return values

    def _solve(self, theta: Float[Array, "d"]) -> Solution:
        try:
            return self.mixed.solver.solve(self.roots(theta))
        except DependentColumnError as error:
            raise dependent(self.mixed, error) from None

    def _freedom(self, reml: bool) -> int:
        """Divisor of the residual sum of squares in sigma^2: n, or n - p for REML."""
        return self.mixed.n - (self.mixed.solver.p if reml else 0)

    def _value(self, solution: Solution, reml: bool) -> float:
        """The deviance of a solution; a `DataError` if the residual is zero up to rounding."""
        freedom = self._freedom(reml)
        residual = float(solution.residual[0])
        if freedom <= 0 or residual <= _FITTED * self.mixed.total:
            raise DataError(
                "the columns fit the response exactly, so the likelihood has no maximum; take "
                "fewer columns"
            )
        out = float(solution.log_det_random[0]) - self.mixed.log_weights
        if reml:
            out += float(solution.log_det_common[0])
        return out + freedom * (1.0 + math.log(2.0 * math.pi * residual / freedom))

    def value_and_gradient(
        self, theta: Float[Array, "d"], reml: bool = False
    ) -> tuple[float, Float[Array, "d"]]:
        """The deviance and its gradient at theta."""
        solution = self._solve(theta)
        ratio = self._freedom(reml) / float(solution.residual[0])
        found = solution.root_derivatives(common=reml)
        by_root = {f: log_det + ratio * residual for f, (log_det, residual) in enumerate(found)}
        return self._value(solution, reml), self.by_theta(by_root)

    def by_theta(self, by_root: Mapping[int, Float[Array, "_k _k"]]) -> Float[Array, "d"]:
        """The gradient in theta of a function, from its derivatives in each factor's root."""
        out: list[float] = []
        for g in self.order:
            grouping = self.mixed.groupings[g]
            own = by_root[grouping.factor][grouping.columns, grouping.columns]
            out += [own[i, j] for i, j in _elements(grouping)]
        return np.array(out)

    def maximum(self, reml: bool = False) -> Estimates:
        """Maximum likelihood or REML estimates.

        Args:
            reml: whether the restricted likelihood is maximised.

        Raises:
            DataError: if common columns are linearly dependent or fit the response exactly.
        """
        start = self.start
        self._value(self._solve(start), reml)

        def objective(theta: Array) -> tuple[float, Array]:
            try:
                return self.value_and_gradient(theta, reml)
            except DataError:  # The start is valid, so this step went too far.
                return math.inf, np.zeros_like(theta)

        with threads_for(self.mixed.solver.largest):
            first = min((scale * start for scale in STARTS), key=lambda at: objective(at)[0])
            found = minimise(objective, first)
            for _ in range(RESTARTS):
                inside = self.off_the_boundary(lambda at: objective(at)[0], found.x, found.value)
                if inside is None:
                    break
                found = minimise(objective, inside)
        theta = self.signed(found.x)
        solution = self._solve(theta)
        sigma = math.sqrt(float(solution.residual[0]) / self._freedom(reml))
        return {
            "theta": theta,
            "deviance": self._value(solution, reml),
            "fixef": self.fixef(solution.common[0], sigma**2 * solution.common_covariance[0]),
            "varcorr": self.varcorr(theta, sigma),
            "sigma": sigma,
        }

    def on_boundary(self, theta: Float[Array, "d"]) -> list[int]:
        """Indices in theta of scales that are zero."""
        places = [place for g in self.order for place in _elements(self.mixed.groupings[g])]
        return [e for e, (i, j) in enumerate(places) if i == j and abs(theta[e]) <= _AT_ZERO]

    def off_the_boundary(
        self, deviance: Callable[[Array], float], theta: Float[Array, "d"], least: float
    ) -> Float[Array, "d"] | None:
        """Look for a theta of lower deviance in which a scale is not zero.

        The deviance is an even function of a scale. Its derivative at zero is therefore zero
        whether or not zero is the minimum, and only values at other scales can tell.

        Args:
            deviance: the deviance as a function of theta.
            theta: where the search ended.
            least: the deviance at theta.

        Returns:
            The first theta of lower deviance found, or None.
        """
        for e in self.on_boundary(theta):
            for size in _SIZES:
                inside = theta.copy()
                inside[e] = size
                if deviance(inside) < least - _LOWER * abs(least):
                    return inside
        return None

    def signed(self, theta: Float[Array, "d"]) -> Float[Array, "d"]:
        """An equivalent theta whose diagonal elements are not negative."""
        out, start = theta.copy(), 0
        for g in self.order:
            places = _elements(self.mixed.groupings[g])
            sign = {
                j: np.sign(theta[start + e]) or 1.0 for e, (i, j) in enumerate(places) if i == j
            }
            for e, (_, j) in enumerate(places):
                out[start + e] *= sign[j]
            start += len(places)
        return out + 0.0

    def fixef(self, common: Float[Array, "p"], covariance: Float[Array, "p p"]) -> pd.DataFrame:
        """The table of common effects, and their standard errors from a covariance."""
        names = []
        for name, count in self.mixed.common:
            names += [name] if count == 1 else [f"{name}[{i + 1}]" for i in range(count)]
        se = np.sqrt(np.diagonal(covariance))
        table = pd.DataFrame({"estimate": common, "se": se}, index=names)
        return table.rename_axis("parameter")

    def varcorr(self, theta: Float[Array, "d"], sigma: float) -> pd.DataFrame:
        """The table of sds and correlations of the group effects, and sigma, at theta."""
        rows: list[tuple[str, float]] = []
        roots = self.roots(theta)
        for grouping in self.mixed.groupings:
            root = sigma * roots[grouping.factor][grouping.columns, grouping.columns]
            covariance = root @ root.T
            sd = np.sqrt(np.diagonal(covariance))
            rows += zip(grouping.scales, sd, strict=True)
            for i in range(grouping.width if grouping.cholesky else 0):
                for j in range(i + 1, grouping.width):
                    with np.errstate(invalid="ignore"):
                        correlation = covariance[i, j] / (sd[i] * sd[j])
                    rows.append((_correlation_name(grouping, i, j), correlation))
        if self.mixed.sigma:
            rows.append((self.mixed.sigma, sigma))
        table = pd.DataFrame(rows, columns=["parameter", "estimate"])
        return table.set_index("parameter")


def _elements(grouping: RandomEffectsTerm) -> list[tuple[int, int]]:
    """Row and column of each element of theta in the Cholesky factor of a term.

    These are the lower triangle by columns, or the diagonal for a term without correlations.
    """
    k = grouping.width
    if not grouping.cholesky:
        return [(i, i) for i in range(k)]
    return [(i, j) for j in range(k) for i in range(j, k)]


def _correlation_name(grouping: RandomEffectsTerm, i: int, j: int) -> str:
    """The name of a correlation, as g_corr[1, x] for columns with sds 1|g_sigma and x|g_sigma."""
    first, second = (grouping.scales[c].rsplit("|", 1)[0] for c in (i, j))
    return f"{grouping.correlation}[{first}, {second}]"
