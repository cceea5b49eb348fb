"""Makes rows at chosen and typical values of the predictors: reference grids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.row_labels import Labels, Table
from ranef.effects.columns import Held, Predictors, posterior_of, repeated, with_columns
from ranef.errors import ColumnError, DataError, OptionError, suggestion

if TYPE_CHECKING:
    from ranef.fit import Fit

# What a column is set to in a grid: a value, several, a word such as "minmax", or a function of
# the column's training values.
Asked: TypeAlias = object

# Largest number of rows of a grid.
_MOST = 2_000_000

# Values of a numeric column by a word.
_WORDS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "minmax": lambda x: np.array([x.min(), x.max()]),
    "fivenum": lambda x: np.quantile(x, [0.0, 0.25, 0.5, 0.75, 1.0]),
    "quartiles": lambda x: np.quantile(x, [0.25, 0.5, 0.75]),
    "sd": lambda x: x.mean() + np.array([-1.0, 0.0, 1.0]) * x.std(ddof=1),
    "unique": np.unique,
}
_TYPES = ("mean", "median", "balanced", "counterfactual")


class Grid(pd.DataFrame):
    """A table of `datagrid`, which remembers that its groupings were left out on purpose."""

    is_grid = True

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame


def datagrid(fit: Fit, /, *, grid_type: str = "mean", **columns: Asked) -> Table:
    """Rows at all combinations of chosen values, other predictors at typical ones.

    Args:
        fit: the fit.
        grid_type: what the predictors that are not named are set to. "mean": the mean of a
            numeric column, the most common level of a factor. "median": the median instead of
            the mean. "balanced": the mean, and every level of each factor. "counterfactual": all
            training rows, repeated for each combination.
        **columns: values of columns: a value, several, a function of the training values (for a
            factor, of the list of its levels), or for numeric columns a word: "minmax",
            "fivenum" (minimum, quartiles and maximum), "quartiles", "sd" (mean and one sd to both
            sides) or "unique". "unique" also stands for all levels of a factor.

    Returns:
        A table of the kind of the training data. Groupings are columns of it only if they are
        named; the functions of `rf.effects` leave out the effects of the others, which is the
        population level.

    Raises:
        ColumnError: for a column that is not behind a predictor.
        OptionError: for another `grid_type` or a word that is not known.
        DataError: for a grid of more than two million rows.
    """
    if grid_type not in _TYPES:
        raise OptionError(f"grid_type must be one of {_listed(_TYPES)}, not {grid_type!r}")
    predictors = Predictors(posterior_of(fit))
    frame = grid(predictors, columns, grid_type)
    return _table(frame, predictors.sample.labels.form, is_grid=grid_type != "counterfactual")


def grid(predictors: Predictors, asked: Mapping[str, Asked], grid_type: str = "mean") -> Frame:
    """The rows of `datagrid` as a `Frame`."""
    chosen = {name: values_of(predictors, name, value) for name, value in asked.items()}
    if grid_type == "counterfactual":
        return _counterfactual(predictors.sample, chosen)
    average = "median" if grid_type == "median" else "mean"
    columns = dict(chosen)
    for name in predictors.common:
        if name in chosen:
            continue
        if grid_type == "balanced" and predictors.kind(name) == "level":
            columns[name] = predictors.held(name, predictors.levels(name))
        else:
            columns[name] = predictors.typical(name, average)
    # The order of the formula, after the columns that were asked for.
    return _crossed(columns)


def values_of(predictors: Predictors, name: str, asked: Asked) -> Held:
    """The values that a column is set to."""
    kind = predictors.kind(name)
    if kind == "array":
        raise ColumnError(f"column {name!r} holds an array in each row, and no grid can be made")
    known = predictors.levels(name) if kind == "level" else predictors.numbers(name)
    if isinstance(asked, str) and asked == "unique" and "unique" not in known:
        asked = predictors.levels(name) if kind == "level" else np.unique(known)
    elif callable(asked):
        asked = asked(known)
    elif isinstance(asked, str) and kind == "number":
        if asked not in _WORDS:
            raise OptionError(
                f"column {name!r} is a number, which may be set to numbers or to one of "
                f"{_listed(_WORDS)}, not {asked!r}"
            )
        asked = _WORDS[asked](predictors.numbers(name))
    return _column(predictors, name, kind, asked)


def default_values(predictors: Predictors, name: str) -> Held:
    """Representative values: minimum, quartiles and maximum of a number, the levels of a factor."""
    if predictors.kind(name) == "level":
        return predictors.held(name, predictors.levels(name))
    values = np.unique(predictors.numbers(name))
    return values if len(values) <= 5 else _WORDS["fivenum"](predictors.numbers(name))


def _column(predictors: Predictors, name: str, kind: str, asked: object) -> Held:
    """Values that a user gives, as a column.

    Raises:
        DataError: for values that are no numbers, or levels that training did not see.
    """
    if isinstance(asked, str) or np.ndim(asked) == 0:  # pyright: ignore[reportArgumentType]
        each: list[object] = [asked]
    else:
        # Arrow arrays hold values of their own kind.
        each = list(getattr(asked, "to_pylist", lambda: asked)())  # pyright: ignore
    if not each:
        raise DataError(f"column {name!r} is set to no value; give one or more")
    if kind == "number":
        try:
            numbers = np.asarray(each, np.float64)
        except (TypeError, ValueError):
            raise DataError(f"column {name!r} is a number and cannot be set to {each!r}") from None
        if numbers.ndim != 1 or not np.isfinite(numbers).all():
            raise DataError(f"column {name!r} must be set to finite numbers, not {each!r}")
        return numbers
    known = predictors.levels(name)
    texts = [level_text(value) for value in each]
    if name in predictors.common:
        for text in texts:
            if text not in known:
                raise DataError(f"column {name!r} has no level {text!r}; {suggestion(text, known)}")
    return predictors.held(name, texts)


def level_text(value: object) -> str:
    """A level that a user gives as the text that names it."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return f"{value:.0f}"
    return str(value)


def _crossed(columns: Mapping[str, Held]) -> Frame:
    """All combinations of the values of the columns, the last column varying fastest."""
    sizes = [len(values) for values in columns.values()]
    total = int(np.prod(sizes, dtype=np.float64)) if sizes else 1
    if total > _MOST:
        raise DataError(
            f"the grid would have {total:,} rows, more than {_MOST:,}; set fewer values"
        )
    if not columns:
        return with_columns(Frame({}, 1, "the grid"), {"": np.zeros(1)})
    places = np.unravel_index(np.arange(total), sizes)
    crossed = {
        name: repeated(values, place)
        for (name, values), place in zip(columns.items(), places, strict=True)
    }
    return with_columns(Frame({}, total, "the grid"), crossed)


def _counterfactual(sample: Frame, chosen: Mapping[str, Held]) -> Frame:
    """All training rows, repeated for each combination of the chosen values."""
    if not chosen:
        return sample
    crossed = _crossed(chosen)
    if crossed.n * sample.n > _MOST:
        raise DataError(
            f"the grid would have {crossed.n * sample.n:,} rows, more than {_MOST:,}; set fewer "
            "values"
        )
    rows = sample.take(np.tile(np.arange(sample.n), crossed.n))
    each = np.repeat(np.arange(crossed.n), sample.n)
    return with_columns(rows, {n: repeated(v, each) for n, v in crossed.columns.items()})


def _table(frame: Frame, form: str, *, is_grid: bool) -> Table:
    """A frame as a table for users."""
    columns = {
        name: list(v) if isinstance(v, np.ndarray) and v.ndim > 1 else v
        for name, v in frame.columns.items()
    }
    out = Labels(form).table(columns)  # pyright: ignore[reportArgumentType]
    if not is_grid:
        return out
    if isinstance(out, pd.DataFrame):
        return Grid(out)
    functools.partial(setattr, out)("is_grid", True)
    return out


def without_labels(frame: Frame, form: str) -> Frame:
    """The frame with numbered rows, for results of this kind of table."""
    return replace(frame, labels=Labels(form))


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(map(repr, names))
