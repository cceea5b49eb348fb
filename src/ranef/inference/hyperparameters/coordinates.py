"""Hyperparameters in coordinates on the whole line, in which their posterior is nearly normal.

The coordinate x of a scale t depends on its prior:

    folded     t = |s sinh x|        a density that is finite at zero
    log        t = exp(x)            a density that vanishes or has a pole at zero; the residual sd
    bounded    t = b |tanh(s sinh(x) / b)|     like folded, below an upper bound b
    interval   t = a + (b - a) / (1 + exp(-x))
    above      t = a + exp(x)        a density with a lower bound a > 0
    quantile   1 / t^2 has prior probability 1 - Phi(x) below it, so that x is N(0, 1) a priori

In a folded coordinate zero is no boundary: the density is even and smooth in x, and the coordinate
is linear near zero and logarithmic far from it. Its unit s is the sd that the data can just tell
from zero. The scale of a single coefficient has a quantile coordinate: the data say little of it
beyond its prior, whose tail would be exponential in the logarithm.

A correlation matrix has the coordinates x of its canonical partial correlations tanh(x)
(Lewandowski, Kurowicka and Joe, 2009), in which the LKJ density is a product.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import (
    betaln,
    gammainc,
    gammaincc,
    gammainccinv,
    gammaincinv,
    gammaln,
    ndtr,
    ndtri,
)

from ranef import priors
from ranef.numerics.shapes import Float, Numbers
from ranef.priors import Prior
from ranef.priors.log_density import is_finite_at_zero, log_density, log_density_of_real

Array = NDArray[np.float64]

# Largest |x|: beyond it the hyperbolic sine or its square overflow.
_FARTHEST = 300.0
# Largest |x| of a quantile: beyond it normal tail probabilities underflow.
_FARTHEST_NORMAL = 37.0
# Smallest precision of a coefficient, so that its square root and inverse do not overflow.
_LEAST_PRECISION = 1e-200
_LOG_2PI = math.log(2 * math.pi)
# A search begins at least at this multiple of a prior's lower bound.
_OFF_THE_END = 1.05
# Largest ratio of a bounded scale to its upper bound: just below one in double precision.
_END = 1 - 1e-15


@dataclass(frozen=True)
class ScaleCoordinate:
    """The coordinate of one positive parameter.

    Attributes:
        name: of its site.
        prior: of the parameter.
        kind: "folded", "bounded", "log", "interval", "above" or "quantile".
        unit: s of a folded or bounded coordinate.
    """

    name: str
    prior: Prior
    kind: str
    unit: float = 1.0

    @classmethod
    def of(cls, name: str, prior: Prior, unit: float, *, folds: bool = True) -> "ScaleCoordinate":
        """The coordinate that suits a prior.

        Args:
            name: of the site.
            prior: of the parameter.
            unit: s, the value that the data can just tell from zero.
            folds: False for a parameter that cannot be zero.
        """
        if folds and isinstance(prior, priors.Uniform) and prior.lower == 0:
            return cls(name, prior, "bounded", unit)
        if isinstance(prior, (priors.Uniform, priors.Beta)):
            return cls(name, prior, "interval")
        if isinstance(prior, priors.PowerPrior) and prior.upper < np.inf:
            return cls(name, prior, "interval")
        if isinstance(prior, priors.PowerPrior) and prior.lower > 0:
            return cls(name, prior, "above")
        kind = "folded" if folds and is_finite_at_zero(prior) else "log"
        return cls(name, prior, kind, unit)

    @classmethod
    def of_quantiles(cls, name: str, prior: priors.Variance) -> "ScaleCoordinate":
        """The coordinate that is N(0, 1) under Variance(InverseGamma(a, b))."""
        assert isinstance(prior.prior, priors.InverseGamma)
        return cls(name, prior, "quantile")

    @property
    def _gamma(self) -> tuple[float, float]:
        """Shape and rate of 1 / t^2, for a quantile."""
        inner = getattr(self.prior, "prior", None)
        assert isinstance(inner, priors.InverseGamma)
        return inner.alpha, inner.beta

    @property
    def is_point(self) -> bool:
        """Whether the parameter is estimated as a point, without a posterior."""
        return isinstance(self.prior, priors.PointEstimate)

    @property
    def is_folded(self) -> bool:
        """Whether the density is even and smooth in x."""
        return self.kind in ("folded", "bounded")

    def _bounds(self) -> tuple[float, float]:
        """The prior's lower and upper bound."""
        return getattr(self.prior, "lower", 0.0), getattr(self.prior, "upper", 1.0)

    def value(self, x: Numbers) -> Numbers:
        """The parameter at x, with the sign of x if it is folded."""
        x = np.clip(x, -_FARTHEST, _FARTHEST)
        if self.kind == "folded":
            return self.unit * np.sinh(x)
        if self.kind == "log":
            return np.exp(x)
        if self.kind == "quantile":
            x = np.clip(x, -_FARTHEST_NORMAL, _FARTHEST_NORMAL)
            shape, rate = self._gamma
            # Each tail from the function that keeps its digits.
            small, large = gammaincinv(shape, ndtr(-x)), gammainccinv(shape, ndtr(x))
            precision = np.maximum(np.where(x > 0, small, large) / rate, _LEAST_PRECISION)
            return precision**-0.5
        low, high = self._bounds()
        if self.kind == "bounded":
            return high * np.tanh(self.unit / high * np.sinh(x))
        if self.kind == "above":
            return low + np.exp(x)
        return low + (high - low) / (1 + np.exp(-x))

    def slope(self, x: Numbers) -> Numbers:
        """Derivative of the value in x."""
        x = np.clip(x, -_FARTHEST, _FARTHEST)
        if self.kind == "folded":
            return self.unit * np.cosh(x)
        if self.kind in ("log", "above"):
            return np.exp(x)
        if self.kind == "quantile":
            density = log_density(self.prior, self.value(x))[0]
            return np.exp(-0.5 * x**2 - 0.5 * _LOG_2PI - density)
        low, high = self._bounds()
        if self.kind == "bounded":
            return np.exp(self._log_slope(x))
        return (high - low) / (2 + np.exp(-x) + np.exp(x))

    def _log_slope(self, x: Numbers) -> Numbers:
        """Log slope of a bounded coordinate: log (s cosh(x) / cosh(s sinh(x) / b)^2)."""
        inside = self.unit / self._bounds()[1] * np.sinh(x)
        return np.log(self.unit) + _log_cosh(x) - 2 * _log_cosh(inside)

    def inverse(self, value: Numbers) -> Numbers:
        """The coordinate x of a value."""
        if self.kind == "folded":
            return np.arcsinh(value / self.unit)
        if self.kind == "log":
            return np.log(value)
        if self.kind == "quantile":
            shape, rate = self._gamma
            at = rate / np.square(value)
            below, above = gammainc(shape, at), gammaincc(shape, at)
            return np.where(below < above, -ndtri(below), ndtri(above))
        low, high = self._bounds()
        if self.kind == "bounded":
            return np.arcsinh(high / self.unit * np.arctanh(np.clip(value / high, -_END, _END)))
        if self.kind == "above":
            return np.log(value - low)
        return np.log(value - low) - np.log(high - value)

    def place(self, value: float) -> float:
        """The x at which a search for it begins, off the ends of an interval."""
        if self.kind == "above":
            low = self._bounds()[0]
            value = max(value, _OFF_THE_END * low)
        if self.kind in ("interval", "bounded"):
            low, high = self._bounds()
            value = low + (high - low) * min(max((value - low) / (high - low), 0.05), 0.95)
        return float(self.inverse(value))

    def log_prior(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """Log prior density in x, Jacobian included, and its derivative; zeros for points."""
        if self.is_point:
            return np.zeros_like(x), np.zeros_like(x)
        if self.kind == "quantile":
            return -0.5 * np.square(x) - 0.5 * _LOG_2PI, -x
        value, slope = self.value(x), self.slope(x)
        # Avoids zero itself, where the density of a folded kind is finite.
        size = np.maximum(np.abs(value), np.finfo(np.float64).tiny)
        density, derivative = log_density(self.prior, size)
        if self.kind == "bounded":
            high = self._bounds()[1]
            inside = np.tanh(self.unit / high * np.sinh(x))
            bend = np.tanh(x) - 2 * inside * self.unit / high * np.cosh(x)
            return density + self._log_slope(x), derivative * np.sign(value) * slope + bend
        if self.kind == "folded":
            bend = np.tanh(x)
        elif self.kind in ("log", "above"):
            bend = np.ones_like(x)
        else:
            bend = -np.tanh(x / 2)
        return density + np.log(slope), derivative * np.sign(value) * slope + bend


def _log_cosh(x: Numbers) -> Numbers:
    """Log cosh x, without overflow."""
    return np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - np.log(2.0)


@dataclass(frozen=True)
class CorrelationCoordinates:
    """Coordinates of the correlations of k columns: a partial correlation for each pair of them.

    Attributes:
        name: of the site of the Cholesky factor.
        size: k.
        eta: of the LKJ prior.
    """

    name: str
    size: int
    eta: float

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of each coordinate, row by row."""
        return [(i, j) for i in range(self.size) for j in range(i)]

    def cholesky(self, x: Float[Array, "*batch pairs"]) -> Float[Array, "*batch k k"]:
        """Cholesky factors at these coordinates."""
        out = np.zeros((*x.shape[:-1], self.size, self.size))
        left = np.ones((*x.shape[:-1], self.size))
        for e, (i, j) in enumerate(self.places):
            out[..., i, j] = np.tanh(x[..., e]) * left[..., i]
            left[..., i] /= np.cosh(np.clip(x[..., e], -_FARTHEST, _FARTHEST))
        for i in range(self.size):
            out[..., i, i] = left[..., i]
        return out

    def inverse(self, cholesky: Float[Array, "*batch k k"]) -> Float[Array, "*batch pairs"]:
        """Coordinates of Cholesky factors."""
        left = 1 - np.cumsum(cholesky**2, axis=-1) + cholesky**2
        partial = [cholesky[..., i, j] / np.sqrt(left[..., i, j]) for i, j in self.places]
        edge = 1 - np.finfo(np.float64).epsneg
        return np.arctanh(np.clip(np.stack(partial, axis=-1), -edge, edge))

    def gradient(
        self, x: Float[Array, "pairs"], by_cholesky: Float[Array, "k k"]
    ) -> Float[Array, "pairs"]:
        """Derivatives in x of a function, from its derivatives in the Cholesky factor."""
        lower = self.cholesky(x)
        out = np.zeros(len(x))
        for e, (i, j) in enumerate(self.places):
            before = np.prod([1 / np.cosh(x[f]) for f, (r, c) in enumerate(self.places)
                              if r == i and c < j])  # fmt: skip
            out[e] = by_cholesky[i, j] * before / np.cosh(x[e]) ** 2
            later = slice(j + 1, i + 1)
            out[e] -= np.tanh(x[e]) * float(by_cholesky[i, later] @ lower[i, later])
        return out

    def log_prior(
        self, x: Float[Array, "*batch pairs"]
    ) -> tuple[Numbers, Float[Array, "*batch pairs"]]:
        """Log prior density in x, Jacobian included, and its derivative."""
        column = np.array([j for _, j in self.places])
        b = self.eta + (self.size - 2 - column) / 2
        # Log sech^2 x, without overflow.
        log_left = -2 * (np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - np.log(2.0))
        constant = (2 * b - 1) * np.log(2.0) + betaln(b, b)
        return (b * log_left - constant).sum(axis=-1), -2 * b * np.tanh(x)


@dataclass(frozen=True)
class OrderedCoordinates:
    """Coordinates of k increasing numbers: the first, and the logarithms of the gaps.

    Attributes:
        name: of the site.
        size: k.
        prior: of each number, conditional on their order.
    """

    name: str
    size: int
    prior: Prior

    def value(self, x: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
        """The numbers at these coordinates."""
        gaps = np.exp(np.clip(x[..., 1:], -_FARTHEST, _FARTHEST))
        return np.cumsum(np.concatenate([x[..., :1], gaps], axis=-1), axis=-1)

    def inverse(self, value: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
        """Coordinates of numbers."""
        return np.concatenate([value[..., :1], np.log(np.diff(value, axis=-1))], axis=-1)

    def gradient(
        self, x: Float[Array, "*batch k"], by_value: Float[Array, "*batch k"]
    ) -> Float[Array, "*batch k"]:
        """Derivatives in x of a function, from its derivatives in the numbers."""
        later = np.cumsum(by_value[..., ::-1], axis=-1)[..., ::-1]
        gaps = np.exp(np.clip(x[..., 1:], -_FARTHEST, _FARTHEST))
        return np.concatenate([later[..., :1], gaps * later[..., 1:]], axis=-1)

    def log_prior(self, x: Float[Array, "*batch k"]) -> tuple[Numbers, Float[Array, "*batch k"]]:
        """Log prior density in x, Jacobian included, and its derivative."""
        density, slope = log_density_of_real(self.prior, self.value(x))
        value = density.sum(axis=-1) + gammaln(self.size + 1.0) + x[..., 1:].sum(axis=-1)
        out = self.gradient(x, slope)
        out[..., 1:] += 1.0
        return value, out


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of all hyperparameters: scales, then correlations, then ordered vectors.

    Attributes:
        scales: every positive parameter.
        correlations: every correlation matrix, with the names of its columns' sds.
        ordered: vectors whose elements increase.
    """

    scales: Sequence[ScaleCoordinate]
    correlations: Sequence[tuple[CorrelationCoordinates, tuple[str, ...]]]
    ordered: Sequence[OrderedCoordinates] = ()

    @property
    def size(self) -> int:
        """The number d of coordinates."""
        correlations = sum(len(c.places) for c, _ in self.correlations)
        return len(self.scales) + correlations + sum(o.size for o in self.ordered)

    @cached_property
    def ordered_slices(self) -> list[slice]:
        """Places of the coordinates of each ordered vector."""
        out, start = [], self.size - sum(o.size for o in self.ordered)
        for each in self.ordered:
            out.append(slice(start, start + each.size))
            start = out[-1].stop
        return out

    @cached_property
    def slices(self) -> list[slice]:
        """Places of the coordinates of each correlation matrix."""
        out, start = [], len(self.scales)
        for correlation, _ in self.correlations:
            out.append(slice(start, start + len(correlation.places)))
            start = out[-1].stop
        return out

    def values(self, x: Float[Array, "*batch d"]) -> dict[str, Numbers]:
        """Values by site at x.

        They are scales (folded ones with the sign of x), Cholesky factors and ordered vectors.
        """
        out = {scale.name: scale.value(x[..., i]) for i, scale in enumerate(self.scales)}
        for (correlation, _), place in zip(self.correlations, self.slices, strict=True):
            out[correlation.name] = correlation.cholesky(x[..., place])
        for each, place in zip(self.ordered, self.ordered_slices, strict=True):
            out[each.name] = each.value(x[..., place])
        return out

    def inverse(self, values: Mapping[str, Numbers]) -> Float[Array, "... d"]:
        """Coordinates x of values by site."""
        shape = np.shape(next(iter(values.values()), 0.0))
        found = [np.zeros((*shape, 0))] if not self.size else []
        found += [np.asarray(s.inverse(values[s.name]))[..., None] for s in self.scales]
        found += [c.inverse(np.asarray(values[c.name])) for c, _ in self.correlations]
        found += [o.inverse(np.asarray(values[o.name])) for o in self.ordered]
        return np.concatenate(found, axis=-1)

    def log_prior(
        self, x: Float[Array, "*batch d"]
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch d"]]:
        """Log prior density at x, Jacobian included, and its derivative."""
        value, slope = np.zeros(x.shape[:-1]), np.zeros_like(x)
        for i, scale in enumerate(self.scales):
            density, slope[..., i] = scale.log_prior(x[..., i])
            value = value + density
        for (correlation, _), place in zip(self.correlations, self.slices, strict=True):
            density, slope[..., place] = correlation.log_prior(x[..., place])
            value = value + density
        for each, place in zip(self.ordered, self.ordered_slices, strict=True):
            density, slope[..., place] = each.log_prior(x[..., place])
            value = value + density
        return value, slope

    def gradient(self, x: Float[Array, "d"], by_value: Mapping[str, Numbers]) -> Float[Array, "d"]:
        """Derivatives in x of a function, from its derivatives in the values by site."""
        out = np.zeros_like(x)
        for i, scale in enumerate(self.scales):
            if scale.name in by_value:
                out[i] = float(by_value[scale.name]) * float(scale.slope(x[i]))
        for (correlation, _), place in zip(self.correlations, self.slices, strict=True):
            out[place] = correlation.gradient(x[place], np.asarray(by_value[correlation.name]))
        for each, place in zip(self.ordered, self.ordered_slices, strict=True):
            out[place] = each.gradient(x[place], np.asarray(by_value[each.name]))
        return out

    @property
    def folded(self) -> list[int]:
        """Places of the coordinates in which the density is even."""
        return [i for i, scale in enumerate(self.scales) if scale.is_folded]

    def signs(self, flips: Sequence[int]) -> Float[Array, "d"]:
        """Signs of all coordinates after the scales at `flips` change theirs.

        If a column's sd changes sign, its correlations change theirs, and the model is the same.
        """
        out = np.ones(self.size)
        out[list(flips)] = -1.0
        place = {scale.name: i for i, scale in enumerate(self.scales)}
        for (correlation, names), where in zip(self.correlations, self.slices, strict=True):
            own = np.array([out[place[name]] if name in place else 1.0 for name in names])
            out[where] = [own[i] * own[j] for i, j in correlation.places]
        return out

    def canonical(self, x: Float[Array, "points d"]) -> Float[Array, "points d"]:
        """Coordinates of the same models, with every scale positive."""
        out = x.copy()
        for i in self.folded:
            below = out[:, i] < 0
            out[below] *= self.signs([i])
        return out
