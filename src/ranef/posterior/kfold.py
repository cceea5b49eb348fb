"""K-fold cross-validation: the folds of the rows, and the result.

    elpd = sum_i log p(y_i | y_-f(i))

Here f(i) is the fold of row i, and y_-f the responses of all rows outside fold f, to which the
model is fitted again (Geisser, 1975; Vehtari, Gelman and Gabry, 2017, section 2.3).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError, whole_number
from ranef.numerics.shapes import Int

# The number of the fold of each row, from 1.
Folds = Int[NDArray[np.int64], "n"]


@dataclass(frozen=True)
class KFold:
    """K-fold cross-validation of a fit, as returned by `Fit.kfold`. Prints as two lines.

    Each row is scored by itself, also where the rows of a level are left out together; `Fit.loo`
    by a grouping scores them jointly.

    Attributes:
        pointwise: a table with one row for each row that the fit has used, and the columns elpd
            and fold (from 1). Rows have the index of the fitted pandas table, or their position
            in the table, counted from 0. If the fitted table was a polars table, this is one too,
            with the position in its first column.
        group: the column whose levels were kept together; "" if none was.
        response: the response of the model, as the formula writes it.
    """

    pointwise: Any
    group: str
    response: str

    @property
    def elpd(self) -> float:
        """Expected log pointwise predictive density, in nats, summed over rows."""
        return float(np.sum(np.asarray(self.pointwise["elpd"])))

    @property
    def se(self) -> float:
        """Standard error of `elpd`: sqrt(n) times the sd of the n pointwise values."""
        each = np.asarray(self.pointwise["elpd"], np.float64)
        return math.sqrt(len(each)) * float(each.std(ddof=1))

    @property
    def folds(self) -> int:
        """Number of folds, for each of which the model was fitted once."""
        return len(np.unique(np.asarray(self.pointwise["fold"])))

    def __str__(self) -> str:
        kept = f", levels of {self.group} kept together" if self.group else ""
        return (
            f"elpd {self.elpd:,.1f} (se {self.se:,.1f}), {len(self.pointwise):,} rows in "
            f"{self.folds} folds{kept}\n"
            "each row is scored by a fit to the rows of the other folds"
        )

    __repr__ = __str__


def random_folds(n: int, k: object, seed: int) -> Folds:
    """Folds of n rows at random, whose sizes differ by one at most.

    Raises:
        OptionError: for a number of folds below two or above n.
    """
    count = whole_number("k", k, least=2)
    if count > n:
        raise OptionError(f"k must be at most the number of rows, {n:,}, not {count:,}")
    return 1 + np.random.default_rng(seed).permutation(np.arange(n) % count)


def grouped_folds(codes: Int[NDArray, "n"], k: object, seed: int, group: str) -> Folds:
    """Folds that keep all rows of a level together, of about equal numbers of rows.

    Levels are taken from the largest to the smallest, those of equal size in random order, and
    each goes to the fold with the fewest rows so far. If there are fewer levels than folds, each
    level is a fold.

    Args:
        codes: the level of each row.
        k: number of folds.
        seed: seed of the order.
        group: name of the grouping, for messages.

    Raises:
        OptionError: for a number of folds below two.
        DataError: for a grouping of one level.
    """
    count = whole_number("k", k, least=2)
    _, own, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError(
            f"{group!r} has one level in the rows of the fit, and folds need two; leave group= out"
        )
    count = min(count, len(sizes))
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold, filled = np.zeros(len(sizes), np.int64), np.zeros(count, np.int64)
    for level in order:
        fold[level] = np.argmin(filled)
        filled[fold[level]] += sizes[level]
    return 1 + fold[own]


def given_folds(codes: Int[NDArray, "n"]) -> Folds:
    """Folds by the user's assignment, numbered from 1 in the order of its sorted values.

    Raises:
        OptionError: for one fold alone.
    """
    values, own = np.unique(codes, return_inverse=True)
    if len(values) < 2:
        raise OptionError("folds must name at least two folds; all rows have the same one")
    return 1 + own.astype(np.int64)
