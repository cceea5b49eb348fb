"""Functions that compare two predictions: difference, ratio and their logarithms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A function of two predictions.

    Attributes:
        name: its name.
        compare: maps draws of the high and the low side to draws of the comparison.
        label: maps the names of the two sides to the name of the comparison.
        null: its value where the two sides are equal.
        words: what it is called in a sentence.
    """

    name: str
    compare: Callable[[Values, Values], Values]
    label: Callable[[str, str], str]
    null: float
    words: str


def _odds(share: Values) -> Values:
    return share / (1 - share)


COMPARISONS = {
    "difference": Comparison(
        "difference", lambda h, lo: h - lo, lambda h, lo: f"{h} - {lo}", 0.0, "difference"
    ),
    "ratio": Comparison("ratio", lambda h, lo: h / lo, lambda h, lo: f"{h} / {lo}", 1.0, "ratio"),
    "lnratio": Comparison(
        "lnratio",
        lambda h, lo: np.log(h) - np.log(lo),
        lambda h, lo: f"ln({h} / {lo})",
        0.0,
        "log of the ratio",
    ),
    "lnor": Comparison(
        "lnor",
        lambda h, lo: np.log(_odds(h)) - np.log(_odds(lo)),
        lambda h, lo: f"ln(odds({h}) / odds({lo}))",
        0.0,
        "log odds ratio",
    ),
    "lift": Comparison(
        "lift", lambda h, lo: h / lo - 1, lambda h, lo: f"lift({h}, {lo})", 0.0, "lift"
    ),
}


def comparison_of(asked: object) -> Comparison:
    """The comparison of a name, or of a function of draws (high, low).

    Raises:
        OptionError: for anything else.
    """
    if isinstance(asked, str) and asked in COMPARISONS:
        return COMPARISONS[asked]
    if callable(asked):
        name = getattr(asked, "__name__", "function").replace("<lambda>", "function")
        return Comparison(
            name, _checked(asked), lambda h, lo: f"{name}({h}, {lo})", 0.0, f"value of {name}"
        )
    raise OptionError(
        f"comparison must be one of {', '.join(map(repr, COMPARISONS))} or a function of the "
        f"draws (high, low), not {asked!r}"
    )


def _checked(function: Callable[..., object]) -> Callable[[Values, Values], Values]:
    def compare(high: Values, low: Values) -> Values:
        found = np.asarray(function(high, low), np.float64)
        if found.shape != high.shape:
            raise OptionError(
                f"the function comparison= must return one number for each of its arguments' "
                f"{high.shape}, not {found.shape}"
            )
        return found

    return compare


def compared(comparison: Comparison, high: Values, low: Values) -> Values:
    """The comparison of two sides.

    Raises:
        DataError: where it is not a finite number.
    """
    with np.errstate(all="ignore"):
        found = comparison.compare(high, low)
    if not np.isfinite(found).all():
        raise DataError(
            f"the {comparison.words} of these predictions is not a finite number in every draw, "
            f"since one is {_culprit(high, low)}; use comparison='difference' or another type="
        )
    return found


def _culprit(high: Values, low: Values) -> str:
    if (np.minimum(high, low) <= 0).any():
        return "zero or negative"
    return "one or more" if (np.maximum(high, low) >= 1).any() else "too large or too small"
