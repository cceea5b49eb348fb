"""Log probabilities of ordinal and categorical responses with derivatives in closed form.

These are densities of ``row_density``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
from ranef.numerics.shapes import Float, Int


@dataclass(frozen=True)
class OrdinalDensity(RowDensity):
    """Ordinal responses (McCullagh, 1980): log P(y = k) = log(F(t_k - eta) - F(t_{k-1} - eta)).

    F is the logistic function, t_0 = -inf and t_K = inf. With a = t_k - eta and
    b = eta - t_{k-1},

        log P(y = k) = log F(a) + log F(b) + log(1 - exp(t_{k-1} - t_k)),

    where the last summand does not depend on eta.

    Attributes:
        place: k - 1 for the category k = 1, ..., K of each row.
    """

    place: Int[NDArray[np.int64], "n"]

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        upper, lower = self._ends(numbers["threshold"])
        a, b = upper - eta[..., 0], eta[..., 0] - lower
        exp_a, exp_b = np.exp(-np.abs(a)), np.exp(-np.abs(b))
        gap = np.maximum(upper - lower, np.finfo(float).tiny)
        # log F(a) + log F(b) by a single logarithm.
        logs = np.minimum(a, 0.0) + np.minimum(b, 0.0) - np.log1p(exp_a + exp_b + exp_a * exp_b)
        value = logs + np.log(-np.expm1(-gap))
        if order == 0:
            return (value,)
        # F(|a|) and F(-|a|); F(-a) is one of them, depending on the sign of a.
        major_a, major_b = 1.0 / (1.0 + exp_a), 1.0 / (1.0 + exp_b)
        minor_a, minor_b = exp_a * major_a, exp_b * major_b
        above = np.where(a >= 0, minor_a, major_a)
        below = np.where(b >= 0, minor_b, major_b)
        slope = (below - above)[..., None]
        if order == 1:
            return value, slope
        at_a, at_b = minor_a * major_a, minor_b * major_b
        second = -(at_a + at_b)[..., None, None]
        if order == 2:
            return value, slope, second
        third = at_a * (2.0 * above - 1.0) - at_b * (2.0 * below - 1.0)
        return value, slope, second, third[..., None]

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        threshold = np.asarray(numbers["threshold"])
        upper, lower = self._ends(threshold)
        above = logistic(upper - eta[..., 0])[1]
        below = logistic(eta[..., 0] - lower)[1]
        gap, tiny = upper - lower, np.finfo(float).tiny
        # d log(1 - exp(-gap)) / d gap; zero where the thresholds are equal up to rounding.
        along = np.where(gap > tiny, 1.0 / np.expm1(np.maximum(gap, tiny)), 0.0)
        count = len(threshold)
        up = (weights * (above + along)).sum(axis=0)
        down = (weights * (below + along)).sum(axis=0)
        ended = np.bincount(self.place, up, count + 1)[:count]
        begun = np.bincount(self.place, down, count + 1)[1:]
        return {"threshold": np.asarray(ended - begun, np.float64)}

    def _ends(self, threshold: Array | float) -> tuple[PerRow, PerRow]:
        """The thresholds t_k and t_{k-1} around each row's category."""
        each = np.concatenate([[-np.inf], np.asarray(threshold), [np.inf]])
        return each[self.place + 1], each[self.place]


@dataclass(frozen=True)
class CategoricalDensity(RowDensity):
    """Categorical responses: log P(y = k) = eta_k - log(1 + sum_j e^eta_j).

    The first category is the reference, with eta = 0; the other K categories have a predictor each.
    With p the softmax of (0, eta) without its first element, the gradient is 1(y = k) - p, the
    Hessian p p' - diag(p), and the third derivative in each predictor p (1 - p) (2 p - 1).

    Attributes:
        chosen: 1 in the row of the predictor that belongs to the category of each response,
            else 0; a column of zeros for the reference.
    """

    chosen: Float[Array, "k n"]

    @classmethod
    def of(cls, value: ArrayLike, count: int) -> "CategoricalDensity":
        """The density of categories `value`, numbered 1, ..., K + 1, with K = `count`."""
        k = np.asarray(value, np.int64)
        return cls((k == np.arange(2, count + 2)[:, None]).astype(np.float64))

    def derivatives(self, eta: Predictors, numbers: Numbers, order: int) -> Derivatives:
        value, p = self._shares(eta)
        out = [value]
        if order > 0:
            out.append(self.chosen.T - p)
        if order > 1:
            second = p[..., :, None] * p[..., None, :]
            each = np.arange(p.shape[-1])
            second[..., each, each] -= p
            out.append(second)
        if order > 2:
            out.append(p * (1.0 - p) * (2.0 * p - 1.0))
        return tuple(out)

    def averaged(
        self, eta: Predictors, numbers: Numbers, weights: Float[Array, "m"], order: int
    ) -> Averages:
        """As the base method, with the outer products p p' summed by one matrix product per row."""
        value, p = self._shares(eta)
        mean = np.einsum("m,mnk->nk", weights, p)
        out = [weights @ value]
        if order > 0:
            out.append(self.chosen.T - mean)
        if order > 1:
            by_row = p.transpose(1, 2, 0)
            second = (by_row * weights) @ by_row.transpose(0, 2, 1)
            each = np.arange(p.shape[-1])
            second[:, each, each] -= mean
            out.append(second)
        if order > 2:
            out.append(np.einsum("m,mnk->nk", weights, p * (1.0 - p) * (2.0 * p - 1.0)))
        return tuple(out)

    def by_number(self, eta: Predictors, numbers: Numbers, weights: Weights) -> dict[str, Array]:
        return {}

    def _shares(self, eta: Predictors) -> tuple[Float[Array, "m n"], Predictors]:
        """Log P(y), and the probabilities of all categories but the first."""
        largest = np.maximum(eta.max(axis=-1), 0.0)
        each = np.exp(eta - largest[..., None])
        total = each.sum(axis=-1) + np.exp(-largest)
        own = np.einsum("mnk,kn->mn", eta, self.chosen)
        return own - largest - np.log(total), each / total[..., None]
