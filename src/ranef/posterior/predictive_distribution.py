"""Computes the predictive distribution of rows: its cumulative distribution function and quantiles.

Given all posterior draws the predictive distribution of a row is the mixture of the response's
distributions, one for each draw:

    F(y) = mean_s F(y | draw s).

It is computed in closed form, without sampled responses. The quantiles of a continuous response are
the roots of F(y) = q. They are searched for with some of the draws by the method of Chandrupatla
(1997), and from there with all draws by the secant method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.families.cumulative import Cumulative
from ranef.numerics.blas_threads import side_by_side
from ranef.numerics.shapes import Float
from ranef.posterior.program_replay import Matrix, RowChunk

# A number for each row, and for each of some probabilities and row.
_PerRow = Float[NDArray[np.float64], "rows"]
_Quantiles = Float[NDArray[np.float64], "q rows"]

_ALL = slice(None)

# Rows that one core works on at a time.
_STRIPE = 250
# Largest error of a quantile, as a probability.
_ERROR = 1e-9
# Number of draws with which a search begins.
_FEW = 100
# Largest error of its first part, as a probability. Some draws differ from all by more.
_ROUGH = 1e-4
# Largest number of steps of the secant method.
_SECANTS = 6
# Largest number of steps of a search, each of which halves an interval of doubles at worst.
_STEPS = 1_200
# Half width, in standard errors, of the first interval about a quantile of sampled responses. The
# interval is moved where it does not hold the root.
_ERRORS = 4.0


@dataclass(frozen=True)
class PredictiveDistribution:
    """The predictive distributions of the rows of a chunk.

    Attributes:
        cumulative: P(Y <= y) at every draw.
        count: number of rows.
        discrete: whether the response takes whole numbers only.
    """

    cumulative: Cumulative
    count: int
    discrete: bool

    @classmethod
    def of(cls, chunk: RowChunk) -> PredictiveDistribution:
        """The distributions of the rows of a chunk; callers enable double precision."""
        distribution = chunk.family.distribution(chunk.response, **chunk.values)
        return cls(Cumulative.of(distribution), chunk.count, chunk.family.discrete)

    def at(self, y: _PerRow) -> _PerRow:
        """F(y) of each row."""
        return np.concatenate(self._by_stripe(lambda part, rows: _mean(part, y[rows])))

    def below(self, y: _PerRow) -> _PerRow:
        """P(Y < y) of each row."""
        return self.at(np.ceil(y) - 1.0 if self.discrete else y)

    def quantiles(self, probabilities: Sequence[float], sampled: Matrix) -> _Quantiles:
        """The quantiles of each row: the least y with F(y) >= q.

        Args:
            probabilities: q of each quantile, between 0 and 1.
            sampled: sampled responses, near whose quantiles the search begins.
        """
        search = _least_count if self.discrete else _root
        few = slice(None, None, max(1, len(sampled) // _FEW))

        def within(part: Cumulative, rows: slice) -> _Quantiles:
            near = np.sort(sampled[few, rows], axis=0)
            return np.stack([search(part, part.part(few, _ALL), q, near) for q in probabilities])

        return np.concatenate(self._by_stripe(within), axis=1)

    def _by_stripe(
        self, call: Callable[[Cumulative, slice], NDArray[np.float64]]
    ) -> list[NDArray[np.float64]]:
        """The results of `call` for stripes of rows, computed in parallel."""
        stripes = [
            slice(start, min(start + _STRIPE, self.count))
            for start in range(0, self.count, _STRIPE)
        ]
        whole = self.cumulative
        return side_by_side(lambda own: call(whole.part(_ALL, own), own), stripes, _STRIPE)


def _mean(cumulative: Cumulative, y: _PerRow) -> _PerRow:
    """F(y) of each row."""
    return cumulative(y).mean(axis=0)


def _root(whole: Cumulative, few: Cumulative, q: float, near: Matrix) -> _PerRow:
    """The root of F(y) = q for a continuous F.

    Args:
        whole: P(Y <= y) at every draw.
        few: the same at some of the draws.
        q: the probability.
        near: sampled responses at these draws, sorted.
    """
    error = _ERRORS * np.sqrt(q * (1 - q) / len(near))
    places = np.clip([q - error, q + error], 0.0, 1.0) * (len(near) - 1)
    low, high = near[int(np.floor(places[0]))], near[int(np.ceil(places[1]))]
    y = _bracketing_root(few, q, low, high, _ROUGH)
    width = np.maximum((high - low) / 8, 1e-8 * np.abs(y))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (_mean(few, y + width) - _mean(few, y - width)) / (2 * width)
    distance = _mean(whole, y) - q
    for _ in range(_SECANTS):
        if (np.abs(distance) <= _ERROR).all():
            return y
        with np.errstate(divide="ignore", invalid="ignore"):
            step = -distance / slope
        step = np.where(np.isfinite(step), step, 0.0)
        y, before = y + step, distance
        distance = _mean(whole, y) - q
        slope = np.where(step != 0, (distance - before) / np.where(step == 0, 1.0, step), slope)
    rest = np.flatnonzero(~(np.abs(distance) <= _ERROR))
    y[rest] = _bracketing_root(whole.part(_ALL, rest), q, low[rest], high[rest], _ERROR)
    return y


def _bracketing_root(
    cumulative: Cumulative, q: float, low: _PerRow, high: _PerRow, error: float
) -> _PerRow:
    """The root of F(y) = q by Chandrupatla's method, from an interval that may not hold it.

    Each step interpolates the inverse of F through three points, or halves the interval where the
    interpolation is not reliable. It ends where |F(y) - q| is at most `error`.
    """

    def distance(y: _PerRow) -> _PerRow:
        return _mean(cumulative, y) - q

    low, high, f_low, f_high = _bracketed(distance, low, high)
    a, b, f_a, f_b = high, low, f_high, f_low
    # The distribution function is nearly straight across so short an interval.
    share, best = _inside(f_a / np.where(f_a == f_b, 1.0, f_a - f_b)), a
    for _ in range(_STEPS):
        y = a + share * (b - a)
        f = distance(y)
        same = np.sign(f) == np.sign(f_a)
        c, f_c = np.where(same, a, b), np.where(same, f_a, f_b)
        b, f_b = np.where(same, b, a), np.where(same, f_b, f_a)
        a, f_a = y, f
        best = np.where(np.abs(f_a) < np.abs(f_b), a, b)
        width = np.abs(b - a)
        ended = (np.minimum(np.abs(f_a), np.abs(f_b)) <= error) | (
            width <= 4 * np.finfo(float).eps * np.abs(best)
        )
        if ended.all():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            xi, phi = (a - b) / (c - b), (f_a - f_b) / (f_c - f_b)
            reliable = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
            inverse = f_a / (f_b - f_a) * f_c / (f_b - f_c)
            inverse += (c - a) / (b - a) * f_a / (f_c - f_a) * f_b / (f_c - f_b)
        share = np.where(reliable & np.isfinite(inverse), _inside(inverse), 0.5)
    return best


def _inside(share: _PerRow) -> _PerRow:
    """The share of an interval at which the next point lies, away from both of its ends."""
    return np.clip(share, 1e-6, 1 - 1e-6)


def _bracketed(
    distance: Callable[[_PerRow], _PerRow], low: _PerRow, high: _PerRow
) -> tuple[_PerRow, _PerRow, _PerRow, _PerRow]:
    """An interval with distance <= 0 at its lower end and >= 0 at its upper end, and both values.

    The interval is moved out by steps that double.
    """
    step = np.maximum(high - low, np.finfo(float).eps * (np.abs(low) + np.abs(high)))
    step = np.maximum(step, np.finfo(float).tiny)
    f_low, f_high = distance(low), distance(high)
    for _ in range(_STEPS):
        under, over = f_high < 0, f_low > 0
        if not (under | over).any():
            break
        low, high = (
            np.where(under, high, np.where(over, low - step, low)),
            np.where(over, low, np.where(under, high + step, high)),
        )
        f_low, f_high = (
            np.where(under, f_high, f_low),
            np.where(over, f_low, f_high),
        )
        found = distance(np.where(under, high, low))
        f_low, f_high = np.where(over, found, f_low), np.where(under, found, f_high)
        step = np.where(under | over, 2 * step, step)
    return low, high, f_low, f_high


def _least_count(whole: Cumulative, few: Cumulative, q: float, near: Matrix) -> _PerRow:
    """The least whole number with F(y) >= q; arguments as of `_root`."""
    start = near[int(np.ceil(q * len(near))) - 1]
    return _least_from(whole, q, _least_from(few, q, start))


def _least_from(cumulative: Cumulative, q: float, start: _PerRow) -> _PerRow:
    """The least whole number with F(y) >= q, by steps from `start` that double, then bisection."""

    def reached(y: _PerRow) -> NDArray[np.bool_]:
        return _mean(cumulative, y) >= q - 1e-12

    low, high, step = start - 1.0, start, np.ones_like(start)
    for _ in range(_STEPS):
        over, under = reached(low), ~reached(high)
        if not (over | under).any():
            break
        low, high = (
            np.where(over, np.maximum(low - step, -1.0), np.where(under, high, low)),
            np.where(over, low, np.where(under, high + step, high)),
        )
        step = 2 * step
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        above = reached(middle)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high
