"""A Gaussian linear mixed model and its data, in the form that the closed-form solution needs.

    y_i ~ N(x_i . beta + sum_f z_fi . b_f[g_f(i)], sigma^2 / w_i),   b_fj ~ N(0, Sigma_f)

Terms with the same grouping share one factor f with vector-valued effects b_fj of level j.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.inference.hyperparameters.coordinates import ScaleCoordinate
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.solver import PWLS
from ranef.numerics.shapes import Float, Numbers
from ranef.priors import InverseGamma, Uniform, Variance
from ranef.terms.blocks import Spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DerivedCoefficients:
    """Coefficients of the formula's columns as linear functions matrix @ b of the solver's.

    They exist for terms that are solved in other columns than those of the formula.

    Attributes:
        names: name, number and shape of each set of coefficients.
        matrix: a row for each derived coefficient.
    """

    names: tuple[tuple[str, int, tuple[int, ...]], ...]
    matrix: Float[Array, "m k"]

    def by_name(self, values: Float[Array, "*batch m"]) -> dict[str, Float[Array, "..."]]:
        """Split values of all derived coefficients into arrays by name."""
        out, start = {}, 0
        for name, count, shape in self.names:
            own = values[..., start : start + count]
            out[name] = own.reshape((*values.shape[:-1], *shape))
            start += count
        return out


@dataclass(frozen=True)
class RandomEffectsTerm:
    """A term of group (random) effects, and its position in the factor of its grouping.

    Attributes:
        label: label of the term.
        factor: index of the factor.
        columns: the columns of the term within the factor.
        levels: number of levels.
        sites: names of the sites of its coefficients, each with its number of columns.
        shapes: shape of each of these sites for one level.
        scales: by column, the site of its sd; or the sites from which `spectrum` computes the sds.
        cholesky: site of the Cholesky factor of the correlations; "" for none.
        correlation: parameter that has the prior of the correlations.
        spectrum: the map from scales to sds; None if each scale is the sd of a column.
        shared: whether all rows share its single level. The sites then have no axis for levels.
        derived: the effects of the formula's columns, if the solver has other columns.
    """

    label: str
    factor: int
    columns: slice
    levels: int
    sites: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    scales: tuple[str, ...]
    cholesky: str
    correlation: str
    spectrum: Spectrum | None = None
    shared: bool = False
    derived: DerivedCoefficients | None = None

    @property
    def width(self) -> int:
        """Number of columns k."""
        return self.columns.stop - self.columns.start

    @property
    def is_tied(self) -> bool:
        """Whether a scale determines the sds of several columns."""
        return self.spectrum is not None or len(set(self.scales)) < len(self.scales)

    def sds(self, values: Mapping[str, Numbers]) -> Float[Array, "... k"]:
        """The sd of each column, from values of the scales by site, "..." each."""
        if self.spectrum is not None:
            return np.asarray(self.spectrum.sds(values))
        return np.stack([values[name] for name in self.scales], axis=-1)

    def by_scale(
        self, values: Mapping[str, Numbers], by_sd: Float[Array, "k"]
    ) -> dict[str, Numbers]:
        """Chain rule: derivatives in the scales, by site, from derivatives `by_sd` in the sds.

        `values` has the scales by site.
        """
        out: dict[str, Numbers] = {}
        if self.spectrum is not None:
            slopes = self.spectrum.slopes(values)
            return {name: np.asarray(slope @ by_sd) for name, slope in slopes.items()}
        for name, each in zip(self.scales, by_sd, strict=True):
            out[name] = out.get(name, 0.0) + np.asarray(each)
        return out


class NormalMixture(ABC):
    """A prior of a common effect that is normal given one hyperparameter v.

        beta | v ~ N(m(v), 1 / P(v))

    Attributes:
        column: index of the effect among the common effects.
        name: name of v, which no column of a table can have.
    """

    column: int
    name: str

    @abstractmethod
    def coordinate(self) -> ScaleCoordinate:
        """The unconstrained coordinate of v."""

    @abstractmethod
    def normal(self, value: Numbers, mean: float) -> tuple[Numbers, Numbers]:
        """m(v) and P(v) at v = `value`; `mean` is the mean of the prior."""

    @abstractmethod
    def slope(self, precision: float, away: float, square: float) -> float:
        """Derivative of the log marginal likelihood in v, by Fisher's identity.

        Args:
            precision: P(v).
            away: posterior mean of the effect, less m(v).
            square: posterior mean square of the effect about m(v).
        """


@dataclass(frozen=True)
class HeavyTail(NormalMixture):
    """A t prior of a common effect as a scale mixture of normals (Andrews and Mallows, 1974).

        beta | lambda ~ N(m, lambda^2),  lambda^2 ~ InverseGamma(nu / 2, nu s^2 / 2)

    Attributes:
        column: index of the effect among the common effects.
        name: name of lambda, which no column of a table can have.
        nu: degrees of freedom; 1 for a Cauchy prior.
        scale: scale s of the t prior.
    """

    column: int
    name: str
    nu: float
    scale: float

    @property
    def prior(self) -> Variance:
        """The prior of lambda."""
        return Variance(InverseGamma(self.nu / 2, self.nu * self.scale**2 / 2))

    def coordinate(self) -> ScaleCoordinate:
        return ScaleCoordinate.of_quantiles(self.name, self.prior)

    def normal(self, value: Numbers, mean: float) -> tuple[Numbers, Numbers]:
        return mean, np.asarray(value) ** -2.0

    def slope(self, precision: float, away: float, square: float) -> float:
        """(s / lambda^2 - 1) / lambda for the mean square s."""
        return (square * precision - 1) * math.sqrt(precision)


@dataclass(frozen=True)
class BoundedEffect(NormalMixture):
    """A uniform prior of a common effect as a mixture of narrow normals.

        beta | m ~ N(m, s^2),  m ~ Uniform(lower, upper)

    s is about a hundredth of the posterior sd of an effect that nothing else is uncertain of. It
    adds less than a ten-thousandth to the variance of beta. Draws of m take the place of those of
    beta, so that none is out of bounds.

    Attributes:
        column: index of the effect among the common effects.
        name: name of m, which no column of a table can have.
        lower: lower bound.
        upper: upper bound.
        sd: s.
    """

    column: int
    name: str
    lower: float
    upper: float
    sd: float

    def coordinate(self) -> ScaleCoordinate:
        return ScaleCoordinate.of(self.name, Uniform(self.lower, self.upper), 1.0, folds=False)

    def normal(self, value: Numbers, mean: float) -> tuple[Numbers, Numbers]:
        return value, self.sd**-2.0

    def slope(self, precision: float, away: float, square: float) -> float:
        return precision * away

    def within(self, value: float, sd: float) -> float:
        """`value`, moved inside the bounds by `sd`, or by a hundredth of their distance."""
        margin = min(sd, 0.01 * (self.upper - self.lower))
        return min(max(value, self.lower + margin), self.upper - margin)


@dataclass(frozen=True)
class LinearMixedModel:
    """A linear mixed model and the sufficient statistics of its data.

    Attributes:
        solver: the least-squares system, with the cross-products.
        groupings: terms of group effects in the order of the formula.
        common: names of the sites of the common (fixed) effects, each with its number of columns.
        shapes: shape of each of these sites.
        mean: prior means of the common effects.
        precision: prior precisions; 0 for a flat prior.
        sigma: name of the residual sd; "" if it is known to be one.
        n: number of rows.
        log_weights: sum of the logarithms of the weights.
        total: weighted sum of squares of the response less the constant by which it is centred.
        span: smallest and largest response.
        derived: the common effects of the formula's columns, if the solver has other columns.
        mixtures: priors of common effects that are normal given a hyperparameter.
    """

    solver: PWLS
    groupings: tuple[RandomEffectsTerm, ...]
    common: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    mean: Float[Array, "p"]
    precision: Float[Array, "p"]
    sigma: str
    n: int
    log_weights: float
    total: float
    span: tuple[float, float]
    derived: DerivedCoefficients | None = None
    mixtures: tuple[NormalMixture, ...] = ()

    def roots(
        self, of: Sequence[Float[Array, "*_batch _k _k"]]
    ) -> list[Float[Array, "*_batch _k _k"]]:
        """The root of each factor, block-diagonal in the roots `of` its terms."""
        out = []
        for f, width in enumerate(self.solver.products.widths):
            inside = [
                (g, root) for g, root in zip(self.groupings, of, strict=True) if g.factor == f
            ]
            if len(inside) == 1:
                out.append(inside[0][1])
                continue
            shape = np.broadcast_shapes(*(root.shape[:-2] for _, root in inside))
            whole = np.zeros((*shape, width, width))
            for g, root in inside:
                whole[..., g.columns, g.columns] = root
            out.append(whole)
        return out

    @cached_property
    def least_residual(self) -> float:
        """Weighted residual sum of squares of a least-squares fit of the common effects alone."""
        x = self.solver.products.common
        scale = np.sqrt(np.maximum(np.diagonal(x)[:-1], np.finfo(np.float64).tiny))
        gram = x[:-1, :-1] / scale / scale[:, None]
        beta = np.linalg.lstsq(gram, x[:-1, -1] / scale, rcond=1e-12)[0]
        return max(float(x[-1, -1] - beta @ (x[:-1, -1] / scale)), 0.0)

    def column_name(self, place: int) -> str:
        """The name of the common column with index `place`, for messages."""
        names = [name for name, count in self.common for _ in range(count)]
        return names[place]


def dependent(mixed: LinearMixedModel, error: DependentColumnError) -> DataError:
    """The error to raise for linearly dependent columns, with advice."""
    if error.column < 0:
        return DataError(
            "the variances of the group effects are too large beside the residual's for the "
            "arithmetic; rescale the columns, or give the scales tighter priors"
        )
    name = mixed.column_name(error.column)
    return DataError(
        f"the column {name!r} is a combination of those before it to the last digit, and its prior "
        "does not say what the data cannot; leave it out, or give it a normal prior"
    )


def common_by_site(
    mixed: LinearMixedModel, values: Float[Array, "*batch p"]
) -> dict[str, Float[Array, "..."]]:
    """Split values of the common effects into arrays by site."""
    out: dict[str, Array] = {}
    start = 0
    for (name, count), shape in zip(mixed.common, mixed.shapes, strict=True):
        out[name] = values[..., start : start + count].reshape((*values.shape[:-1], *shape))
        start += count
    return out


def effects_by_site(
    grouping: RandomEffectsTerm, values: Float[Array, "*batch levels k"]
) -> dict[str, Float[Array, "..."]]:
    """Split values of the effects of a factor into arrays of the sites of one of its terms."""
    out: dict[str, Array] = {}
    start = grouping.columns.start
    for (name, count), shape in zip(grouping.sites, grouping.shapes, strict=True):
        own = values[..., start : start + count]
        lead = values.shape[:-2] if grouping.shared else values.shape[:-1]
        out[name] = own.reshape((*lead, *shape))
        start += count
    return out
