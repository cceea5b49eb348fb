"""A Gaussian mixed model in the form that its closed-form solution takes.

    y_i ~ N(x_i . beta + sum_f z_fi . b_f[g_f(i)], sigma^2 / w_i),   b_fj ~ N(0, Sigma_f)

Terms that vary by the same levels are one vector-valued factor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.solver import PWLS
from ranef.priors import InverseGamma, Variance
from ranef.terms.blocks import Spectrum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DerivedCoefficients:
    """Coefficients of the formula's columns, made of those that the solver has: matrix @ b.

    Attributes:
        names: of each, with how many coefficients it has, and their shape.
        matrix: (m, k).
    """

    names: tuple[tuple[str, int, tuple[int, ...]], ...]
    matrix: Array

    def by_name(self, values: Array) -> dict[str, Array]:
        """Arrays (..., m) of all of them, each under its name."""
        out, start = {}, 0
        for name, count, shape in self.names:
            own = values[..., start : start + count]
            out[name] = own.reshape((*values.shape[:-1], *shape))
            start += count
        return out


@dataclass(frozen=True)
class RandomEffectsTerm:
    """A term that varies by level, in the factor that it shares with others.

    Attributes:
        label: of the term.
        factor: its place among the factors.
        columns: its columns within the factor.
        levels: J.
        sites: that hold its coefficients, with how many columns each.
        shapes: of each of these sites, for one level.
        scales: that hold the sd of each column, or of which `spectrum` makes the sds.
        cholesky: that holds the Cholesky factor of their correlations; "" for none.
        correlation: the parameter that takes the correlations' prior.
        spectrum: how the scales make the sds, None where each is one.
        shared: whether all rows have its one level, so that its sites have no axis of levels.
        carried: the effects of the formula's columns, where those of the solver are of others.
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
    carried: DerivedCoefficients | None = None

    @property
    def width(self) -> int:
        return self.columns.stop - self.columns.start

    @property
    def is_tied(self) -> bool:
        """Whether a scale is behind the sds of several columns."""
        return self.spectrum is not None or len(set(self.scales)) < len(self.scales)

    def sds(self, values: Mapping[str, Any]) -> Array:
        """The sd of each column, (..., k), from values of the sites."""
        if self.spectrum is not None:
            return self.spectrum.sds(values)
        return np.stack([values[name] for name in self.scales], axis=-1)

    def by_scale(self, values: Mapping[str, Any], by_sd: Array) -> dict[str, Any]:
        """Derivatives in the scales of a function whose derivatives in the sds (k,) are given."""
        out: dict[str, Any] = {}
        if self.spectrum is not None:
            slopes = self.spectrum.slopes(values)
            return {name: np.asarray(slope @ by_sd) for name, slope in slopes.items()}
        for name, each in zip(self.scales, by_sd, strict=True):
            out[name] = out.get(name, 0.0) + np.asarray(each)
        return out


@dataclass(frozen=True)
class HeavyTail:
    """A t prior of a common effect as a scale mixture of normals (Andrews and Mallows, 1974).

        beta | lambda ~ N(m, lambda^2),  lambda^2 ~ InverseGamma(nu / 2, nu s^2 / 2)

    Attributes:
        column: place of the effect among the common ones.
        name: of lambda, which no variable has.
        nu: degrees of freedom; 1 for a Cauchy prior.
        scale: s.
    """

    column: int
    name: str
    nu: float
    scale: float

    @property
    def prior(self) -> Variance:
        """Of lambda."""
        return Variance(InverseGamma(self.nu / 2, self.nu * self.scale**2 / 2))


@dataclass(frozen=True)
class LinearMixedModel:
    """The model and its data, compressed.

    Attributes:
        solver: of the least-squares problem.
        groupings: in the order of the formula.
        common: sites of the common effects, with how many columns each, and `shapes`.
        mean, precision: (p,) of their normal priors; precision 0 for a flat one.
        tails: t priors among these, whose precision depends on a hyperparameter.
        sigma: the name of the residual sd, "" where it is known to be one.
        n: rows.
        log_weights: sum of the logarithms of the weights.
        total: weighted sum of squares of the response about its mean.
        span: the smallest and the largest response.
        carried: the common effects of the formula's columns, where the solver has other ones.
    """

    solver: PWLS
    groupings: tuple[RandomEffectsTerm, ...]
    common: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    mean: Array
    precision: Array
    sigma: str
    n: int
    log_weights: float
    total: float
    span: tuple[float, float]
    carried: DerivedCoefficients | None = None
    tails: tuple[HeavyTail, ...] = ()

    def roots(self, of: Sequence[Array]) -> list[Array]:
        """The root of each factor, (..., k, k), from the root of each grouping."""
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
        """The weighted residual sum of squares of the common effects alone."""
        x = self.solver.products.common
        scale = np.sqrt(np.maximum(np.diagonal(x)[:-1], np.finfo(np.float64).tiny))
        gram = x[:-1, :-1] / scale / scale[:, None]
        beta = np.linalg.lstsq(gram, x[:-1, -1] / scale, rcond=1e-12)[0]
        return max(float(x[-1, -1] - beta @ (x[:-1, -1] / scale)), 0.0)

    def column_name(self, place: int) -> str:
        """Of a common column, for a message."""
        names = [name for name, count in self.common for _ in range(count)]
        return names[place]


def dependent(mixed: LinearMixedModel, error: DependentColumnError) -> DataError:
    """The sentence for common columns that cannot be told apart."""
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


def common_by_site(mixed: LinearMixedModel, values: Array) -> dict[str, Array]:
    """Arrays (..., p) of common effects by site."""
    out: dict[str, Array] = {}
    start = 0
    for (name, count), shape in zip(mixed.common, mixed.shapes, strict=True):
        out[name] = values[..., start : start + count].reshape((*values.shape[:-1], *shape))
        start += count
    return out


def effects_by_site(grouping: RandomEffectsTerm, values: Array) -> dict[str, Array]:
    """Arrays (..., J, k) of the coefficients of the grouping's factor by site."""
    out: dict[str, Array] = {}
    start = grouping.columns.start
    for (name, count), shape in zip(grouping.sites, grouping.shapes, strict=True):
        own = values[..., start : start + count]
        lead = values.shape[:-2] if grouping.shared else values.shape[:-1]
        out[name] = own.reshape((*lead, *shape))
        start += count
    return out
