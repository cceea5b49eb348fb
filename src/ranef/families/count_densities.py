"""Log densities of counts, zero-inflated or not, with derivatives in closed form.

These are densities of ``row_density`` in eta = log mu. The shape a = alpha is one number for all
rows. For zero-inflated counts the logit of psi is the second predictor, or psi is one number too.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, logit

from ranef.families.densities import LARGE_SHAPE
from ranef.families.row_density import (
    Array,
    Averages,
    Derivatives,
    Numbers,
    PerRow,
    Predictors,
    RowDensity,
    Weights,
    logistic,
)
from ranef.lazy import ArrayLike
from ranef.numerics.shapes import Bool, Float

# A number for each row at m points, such as log mu.
LogMean = Float[Array, "m n"]

_Counts = TypeVar("_Counts", bound="CountDensity")


@dataclass(frozen=True)
class CountDensity(RowDensity):
    """Counts of mean mu, which `ZeroInflatedDensity` can wrap.

    Attributes:
        value: y.
        constant: log y!.
    """

    value: PerRow
    constant: PerRow

    @classmethod
    def of(cls: type[_Counts], value: ArrayLike) -> _Counts:
        """The density of the counts `value`, one in each row."""
        y = np.asarray(value, np.float64)
        return cls(y, gammaln(y + 1.0))

    @abstractmethod
    def count_and_zero(
        self, eta: LogMean, numbers: Numbers, order: int
    ) -> tuple[tuple[LogMean, ...], tuple[LogMean, ...]]:
        """Log p(y) and log p(0), with derivatives in eta up to `order`.

        Args:
            eta: log mu at m points.
            numbers: family parameters that are one number, by name.
            order: highest derivative, 0 to 3.

        Returns:
            `order` + 1 arrays for each of the two.
        """

    @abstractmethod
    def slopes_in_numbers(
        self, eta: LogMean, numbers: Numbers
    ) -> dict[str, tuple[LogMean, LogMean]]:
        """Derivatives of log p(y) and log p(0) in each of the numbers, by name."""

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        found = self.count_and_zero(eta[..., 0], numbers, order)[0]
        return found[0], *_of_one(found[1:])


class PoissonDensity(CountDensity):
    """Poisson counts: log p(y) = y eta - e^eta - log y!."""

    def count_and_zero(
        self, eta: LogMean, numbers: Numbers, order: int
    ) -> tuple[tuple[LogMean, ...], tuple[LogMean, ...]]:
        z = -np.exp(eta)
        value = self.value * eta + z - self.constant
        return (value, self.value + z, z, z)[: order + 1], (z,) * (order + 1)

    def slopes_in_numbers(
        self, eta: LogMean, numbers: Numbers
    ) -> dict[str, tuple[LogMean, LogMean]]:
        return {}

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        return {}


class NegativeBinomialDensity(CountDensity):
    """Negative binomial counts with mean mu and shape a.

    log p(y) = log(Gamma(y + a) / (Gamma(a) y!)) + a log F(-h) + y log F(h)

    with h = log mu - log a and F the logistic function.
    """

    def count_and_zero(
        self, eta: LogMean, numbers: Numbers, order: int
    ) -> tuple[tuple[LogMean, ...], tuple[LogMean, ...]]:
        y, shape = self.value, float(numbers["alpha"])
        above, below, log_above, log_below = logistic(eta - np.log(shape))
        zero, density = shape * log_below, above * below
        count = _log_rising(shape, y) - self.constant + zero + y * log_above
        bend, zero_slope = -(shape + y) * density, -shape * above
        counts = count, zero_slope + y * below, bend, bend * (below - above)
        zeros = zero, zero_slope, -shape * density, -shape * density * (below - above)
        return counts[: order + 1], zeros[: order + 1]

    def slopes_in_numbers(
        self, eta: LogMean, numbers: Numbers
    ) -> dict[str, tuple[LogMean, LogMean]]:
        count, zero = self._slopes_in_log_shape(eta, numbers)
        shape = float(numbers["alpha"])
        return {"alpha": (count / shape, zero / shape)}

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        count, _ = self._slopes_in_log_shape(eta[..., 0], numbers)
        return {"alpha": np.asarray((weights * count).sum() / numbers["alpha"])}

    def _slopes_in_log_shape(self, eta: LogMean, numbers: Numbers) -> tuple[LogMean, LogMean]:
        """Derivatives of log p(y) and log p(0) in log a."""
        y, shape = self.value, float(numbers["alpha"])
        above, below, _, log_below = logistic(eta - np.log(shape))
        zero = shape * (log_below + above)
        return _log_rising_slope(shape, y) + zero - y * below, zero


@dataclass(frozen=True)
class ZeroInflatedDensity(RowDensity):
    """Zero-inflated counts: a draw from the count distribution with probability psi, else zero.

    Let l be the logit of psi, F the logistic function and z(eta) = log p(0 | count). Then

        log p(y) = log F(l) + log p(y | count)    for y > 0,
        log p(0) = log(F(-l) + F(l) e^z).

    With r = F(l + z), the probability that a zero was drawn from the counts, the derivatives of
    log p(0) are

        d/dl = r - F(l),   d/deta = r z',   d2/deta2 = r z'' + r (1 - r) z'^2,
        d2/dl deta = r (1 - r) z'.

    Attributes:
        counts: the density of the counts.
        zero: whether y = 0.
        predicted: whether psi has a predictor.
    """

    counts: CountDensity
    zero: Bool[NDArray[np.bool_], "n"]
    predicted: bool

    @classmethod
    def of(cls, counts: CountDensity, predicted: bool) -> "ZeroInflatedDensity":
        """The density with these counts; `predicted` says if psi has a predictor."""
        return cls(counts, counts.value == 0, predicted)

    def take(self, rows: slice) -> "ZeroInflatedDensity":
        return replace(self, counts=self.counts.take(rows), zero=self.zero[rows])

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        return self._joined(self._apart(eta, numbers, order))

    def averaged(
        self, eta: Predictors, numbers: Numbers, weights: Float[Array, "m"], order: int
    ) -> Averages:
        """As the base method, but sums before it stacks the derivatives, for less memory."""
        apart = self._apart(eta, numbers, order)
        return self._joined([tuple(weights @ each for each in own) for own in apart])

    def _apart(self, eta: Predictors, numbers: Numbers, order: int) -> list[tuple[LogMean, ...]]:
        """The derivatives of each order as separate arrays.

        They are in eta and, if psi has a predictor, in l. Order 2 then has three: in eta twice,
        in eta and l, in l twice.
        """
        logits = self._logit(eta, numbers)
        count, z = self.counts.count_and_zero(eta[..., 0], numbers, order)
        psi, rest, log_psi, log_rest = logistic(logits)
        zero = self.zero
        if_zero = np.logaddexp(log_rest, log_psi + z[0])
        out: list[tuple[Array, ...]] = [(np.where(zero, if_zero, log_psi + count[0]),)]
        if order == 0:
            return out
        r, other, _, _ = logistic(logits + z[0])
        mu, both = [np.where(zero, r * z[1], count[1])], r * other
        # Products start with r or r (1 - r), which are zero where a power of z' would overflow.
        if order > 1:
            mu.append(np.where(zero, r * z[2] + both * z[1] * z[1], count[2]))
        if order > 2:
            bent = r * z[3] + 3.0 * both * z[1] * z[2] + both * (other - r) * z[1] * z[1] * z[1]
            mu.append(np.where(zero, bent, count[3]))
        if not self.predicted:
            return [*out, *((each,) for each in mu)]
        out.append((mu[0], np.where(zero, r - psi, rest)))
        if order > 1:
            mixed = np.where(zero, both * z[1], 0.0)
            out.append((mu[1], mixed, np.where(zero, both, 0.0) - psi * rest))
        if order > 2:
            own = np.where(zero, both * (other - r), 0.0)
            out.append((mu[2], own - psi * rest * (rest - psi)))
        return out

    def _joined(self, apart: list[tuple[Float[Array, "*points n"], ...]]) -> tuple[Array, ...]:
        """The arrays of `_apart`, stacked along axes for the predictors."""
        if not self.predicted:
            return (apart[0][0], *_of_one([own[0] for own in apart[1:]]))
        out = [apart[0][0]]
        for order, own in enumerate(apart[1:], start=1):
            if order == 2:
                matrix = np.stack([own[0], own[1], own[1], own[2]], axis=-1)
                out.append(matrix.reshape(*matrix.shape[:-1], 2, 2))
            else:
                out.append(np.stack(own, axis=-1))
        return tuple(out)

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        logits = self._logit(eta, numbers)
        z = self.counts.count_and_zero(eta[..., 0], numbers, 0)[1][0]
        r = logistic(logits + z)[0]
        out = {}
        for name, (count, zero) in self.counts.slopes_in_numbers(eta[..., 0], numbers).items():
            each = np.where(self.zero, r * zero, count)
            out[name] = np.asarray((weights * each).sum())
        if not self.predicted:
            psi = numbers["psi"]
            each = np.where(self.zero, r - psi, 1.0 - psi)
            out["psi"] = np.asarray((weights * each).sum() / (psi * (1.0 - psi)))
        return out

    def _logit(self, eta: Predictors, numbers: Numbers) -> Float[Array, "#m #n"]:
        """The logit of psi, of each row or of all."""
        return eta[..., 1] if self.predicted else np.full((1, 1), logit(numbers["psi"]))


def _of_one(found: Sequence[Array]) -> tuple[Array, ...]:
    """First to third derivatives in a single predictor, with axes of length 1 for it."""
    return tuple(each[(..., *(None,) * k)] for each, k in zip(found, (1, 2, 1), strict=False))


def _log_rising(shape: float, y: PerRow) -> PerRow:
    """Log Gamma(a + y) - log Gamma(a), computed as in `densities.log_rising`."""
    if shape < LARGE_SHAPE:
        return gammaln(shape + y) - gammaln(shape)
    sizes = (shape + y - 0.5) * np.log1p(y / shape) + y * (np.log(shape) - 1.0)
    return sizes - y / (12.0 * shape * (shape + y))


def _log_rising_slope(shape: float, y: PerRow) -> PerRow:
    """Derivative of `_log_rising` in log a."""
    if shape < LARGE_SHAPE:
        return shape * (digamma(shape + y) - digamma(shape))
    total = shape + y
    sizes = shape * np.log1p(y / shape) + 0.5 * y / total
    return sizes + y * (shape + total) / (12.0 * shape * total**2)
