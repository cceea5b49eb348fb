"""The tables of `rf.effects`: estimates and intervals, with a line below and their draws."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.data.row_labels import Labels, Table
from ranef.effects.columns import Held
from ranef.errors import DataError, OptionError
from ranef.extras import require
from ranef.lazy import xr
from ranef.posterior.posterior import tails_of
from ranef.posterior.summary import Summary

Draws = NDArray[np.float64]
# Columns that identify the rows of a table.
Names = Mapping[str, Held]


@dataclass(frozen=True)
class Settings:
    """How draws are summarised.

    Attributes:
        interval: probability of the equal-tailed interval.
        rope: the region of practical equivalence, or None.
        null: the value against which the probability of direction is taken; None for none.
    """

    interval: float = 0.95
    rope: tuple[float, float] | None = None
    null: float | None = None

    def __post_init__(self) -> None:
        tails_of(self.interval)
        if self.rope is None:
            return
        try:
            low, high = (float(limit) for limit in self.rope)
        except (TypeError, ValueError):
            raise OptionError(f"rope must be a pair of numbers, not {self.rope!r}") from None
        if not low < high:
            raise OptionError(f"rope must be a lower and an upper limit, not {self.rope!r}")

    def describe(self, draws: Draws) -> dict[str, NDArray[np.float64]]:
        """Median, interval and probabilities of each column of `draws`, (draws, rows)."""
        levels = [0.5, *tails_of(self.interval)]
        estimate, lower, upper = np.quantile(draws, levels, axis=0)
        out = {"estimate": estimate, "lower": lower, "upper": upper}
        if self.null is not None:
            above, below = (draws > self.null).mean(axis=0), (draws < self.null).mean(axis=0)
            out["pd"] = np.maximum(above, below)
        if self.rope is not None:
            low, high = self.rope
            out["in_rope"] = ((draws >= low) & (draws <= high)).mean(axis=0)
        return out


class Effects(Summary):
    """A pandas table of effects, which prints what is estimated below itself.

    Tables derived from it are ordinary DataFrames.
    """

    _metadata = ["_line", "_draws"]
    _draws: Callable[[], xr.DataArray] | None = None

    def gt(self, other: Any = None, axis: Any = "columns", level: Any = None) -> Any:
        """The table as a `great_tables.GT`, for HTML, LaTeX and images.

        With `other` it is pandas' own method of this name, which compares elements.

        Args:
            other: None for a `great_tables.GT`.
            axis: as in pandas.
            level: as in pandas.

        Raises:
            PackageError: if great_tables is not installed.
        """
        return great_table(self) if other is None else super().gt(other, axis, level)

    def _repr_html_(self) -> str | None:
        said = pd.DataFrame(self)._repr_html_()  # pyright: ignore[reportCallIssue]
        return f"{said}<p>{html.escape(self._line())}</p>" if self._line and said else said


@dataclass(frozen=True)
class Described:
    """Estimates with what a table of them needs.

    Attributes:
        names: the columns that identify the rows.
        columns: estimate, lower, upper, and further numbers.
        line: the line below the table.
        make_draws: makes the draws, (draws, rows).
        chains: number of chains that the draws come from; the first dimension of the draws is
            chain by chain.
        labels: labels of the rows, and the kind of the table.
        context: columns that stand after the numbers.
    """

    names: Names
    columns: Mapping[str, NDArray[np.float64]]
    line: str
    make_draws: Callable[[], Draws]
    chains: int = 1
    labels: Labels = field(default_factory=Labels)
    context: Names = field(default_factory=dict)

    @cached_property
    def draws(self) -> xr.DataArray:
        """Draws with the dimensions chain, draw and row; the names are coordinates of row."""
        values = self.make_draws()
        values = values.reshape(self.chains, -1, values.shape[1])
        names = {str(name): ("row", np.asarray(v)) for name, v in self.names.items()}
        coords = {name: value for name, value in names.items() if name not in ("chain", "draw")}
        return xr.DataArray(values, dims=("chain", "draw", "row"), coords=coords, name="effect")

    def table(self) -> Table:
        """The table, a pandas table or a polars one if the data was."""
        out = self.labels.table({**self.names, **self.columns, **self.context})
        if isinstance(out, pd.DataFrame):
            table = Effects.of(out, lambda: self.line)
            assert isinstance(table, Effects)
            table._draws = lambda: self.draws
            return table
        made = {
            "_draws": lambda: self.draws,
            "_line": lambda: self.line,
            "gt": lambda: great_table(out),
        }
        for name, value in made.items():
            setattr(out, name, value)
        return out


def posterior_draws(result: object) -> xr.DataArray:
    """The posterior draws behind a table of `rf.effects`.

    Args:
        result: a table as a function of `rf.effects` has returned it.

    Returns:
        The draws with the dimensions chain, draw and row (the rows of the table); the columns
        that identify a row are coordinates. Draws that were thinned have one chain.

    Raises:
        OptionError: for another table, and one that was derived from such a table.
    """
    make = getattr(result, "_draws", None)
    if make is None:
        raise OptionError(
            "posterior_draws takes a table as a function of rf.effects has returned it, not "
            f"{type(result).__name__}; tables derived from it have no draws"
        )
    return make()


def great_table(result: object) -> Any:
    """A table of `rf.effects` as a `great_tables.GT`, with the line below it as source note.

    Args:
        result: a table of `rf.effects`, of pandas or polars.

    Raises:
        PackageError: if great_tables is not installed.
    """
    require("rf.effects.great_table()", "great_tables")
    from great_tables import GT

    table: Any = pd.DataFrame(result) if isinstance(result, pd.DataFrame) else result
    line = getattr(result, "_line", None)
    numbers = [n for n in table.columns if n in ("estimate", "lower", "upper", "pd", "in_rope")]
    out = GT(table).fmt_number(columns=numbers, n_sigfig=4)
    return out.tab_source_note(line()) if line else out


def columns_of_names(names: Sequence[Mapping[str, object]]) -> dict[str, NDArray]:
    """Names of rows, one mapping each, as columns; all rows have the same names."""
    columns = {key: np.array([each[key] for each in names]) for key in names[0]}
    return {
        key: values.astype(object) if values.dtype.kind == "U" else values
        for key, values in columns.items()
    }


def finite(draws: Draws) -> Draws:
    """The draws, all of which must be finite.

    Raises:
        DataError: otherwise.
    """
    if not np.isfinite(draws).all():
        raise DataError(
            "what is computed from these draws is not a finite number in every draw; check for a "
            "division by zero or a logarithm of a negative number"
        )
    return draws
