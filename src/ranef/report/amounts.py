"""Amounts in words: a difference, how many times as much, odds, percentage points.

Each function takes posterior draws and returns a phrase with their mean and a central interval,
such as "+2.05, 95% interval 1.95 to 2.16".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

Draws = Float[NDArray[np.float64], "draws"]

# Largest number of decimals that is written.
_DECIMALS = 8
# Largest width of an interval, relative to its ends, that is rounding of single precision.
_ROUNDING = 1e-5
# Ratios beyond these are said as such, not in digits.
_LARGEST_RATIO = 1e6


class Estimate(NamedTuple):
    """A mean and the ends of its interval, in the place of draws."""

    middle: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The estimate times a positive factor."""
        return Estimate(self.middle * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Amounts:
    """Writes amounts with a central interval of some probability.

    Attributes:
        interval: the probability.
    """

    interval: float = 0.95

    def difference(self, draws: Draws) -> str:
        """A difference: "+2.05, 95% interval 1.95 to 2.16"."""
        return self._said(draws, sign="+")

    def size(self, draws: Draws | Estimate) -> str:
        """An amount without a sign: "3.2, 95% interval 2.1 to 4.5"."""
        return self._said(draws)

    def points(self, draws: Draws) -> str:
        """A difference of probabilities, in percentage points."""
        middle, *ends = self._numbers(100 * draws)
        digits = _decimals(*ends)
        return (
            f"{_number(middle, digits, '+')} percentage points, {self._name} "
            f"{_number(ends[0], digits)} to {_number(ends[1], digits)}"
        )

    def times(self, logs: Draws | Estimate, what: str) -> str:
        """A ratio from its logarithm: "1.35 times as many, 95% interval 1.20 to 1.52".

        Args:
            logs: draws of the logarithm of the ratio, or its estimate. Its mean makes the ratio
                that is said.
            what: "many", "large" or "high".
        """
        middle, *ends = (float(np.exp(np.clip(v, -700, 700))) for v in self._numbers(logs))
        if not 1 / _LARGEST_RATIO < middle < _LARGEST_RATIO:
            side = "over a million times" if middle > 1 else "under a millionth of a time"
            return f"{side} as {what}, a number that the data hardly bound"
        if _is_fixed(*ends):
            return f"{_number(middle, _leading(middle))} times as {what} (without an interval)"
        digits = max(_decimals(*ends), _leading(ends[0]))
        low, high = (_number(v, digits) for v in ends)
        return f"{_number(middle, digits)} times as {what}, {self._name} {low} to {high}"

    def is_open(self, draws: Draws) -> bool:
        """Whether the interval holds zero, so that the sign is not known."""
        _, low, high = self._numbers(draws)
        return low < 0 < high

    @property
    def _name(self) -> str:
        return f"{100 * self.interval:.4g}% interval"

    def _numbers(self, draws: Draws | Estimate) -> Estimate:
        if isinstance(draws, Estimate):
            return draws
        tails = [(1 - self.interval) / 2, (1 + self.interval) / 2]
        low, high = np.quantile(draws, tails)
        return Estimate(float(draws.mean()), float(low), float(high))

    def _said(self, draws: Draws | Estimate, sign: str = "") -> str:
        middle, low, high = self._numbers(draws)
        if _is_fixed(low, high):
            return f"{_number(middle, _decimals(0.0, middle), sign)} (without an interval)"
        digits = _decimals(low, high)
        return (
            f"{_number(middle, digits, sign)}, {self._name} {_number(low, digits)} to "
            f"{_number(high, digits)}"
        )


def plain(value: float) -> str:
    """A value of a column with at most four significant digits, and without a trailing zero."""
    text = f"{value:,.4g}"
    if "e" in text and 1e-4 <= abs(value) < 1e12:
        text = f"{value:,.0f}"
    return text


def _is_fixed(low: float, high: float) -> bool:
    """Whether an interval has no width but rounding: that of a fixed number or point estimate."""
    return high - low <= _ROUNDING * max(abs(low), abs(high))


def _decimals(low: float, high: float) -> int:
    """Decimals with which half the width of an interval has two digits or so."""
    width = abs(high - low) / 2
    if width == 0 or not np.isfinite(width):
        width = abs(high) / 10 or 1.0
    return int(np.clip(1 - np.floor(np.log10(width) + 1e-9), 0, _DECIMALS))


def _leading(value: float) -> int:
    """Decimals with which a number has at least two digits that are not zero."""
    return int(np.clip(1 - np.floor(np.log10(abs(value) or 1.0)), 0, _DECIMALS))


def _number(value: float, decimals: int, sign: str = "") -> str:
    text = f"{value:{sign},.{decimals}f}"
    zero = f"{0:.{decimals}f}"
    return zero if text.lstrip("+-") == zero else text
