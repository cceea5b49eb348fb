"""The table of `Fit.summary`: a pandas DataFrame that prints the fit's verdict below itself."""

import html
from collections.abc import Callable

import pandas as pd

# Largest width of a printed table, in characters.
_WIDTH = 120


class Summary(pd.DataFrame):
    """A pandas DataFrame that prints a line below itself, which `Fit.summary` uses for the verdict.

    The line is computed when the table is printed, not before, since it may take a second. Tables
    derived from this one are ordinary DataFrames.
    """

    _metadata = ["_line"]
    _line: Callable[[], str] | None = None

    @classmethod
    def of(cls, table: pd.DataFrame, line: Callable[[], str]) -> "Summary":
        """A summary of `table`, with a function that returns the line to print below it."""
        out = cls(table)
        out._line = line
        return out

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        # No column is left out for want of room: a table has at most seven.
        with pd.option_context("display.max_columns", None, "display.width", _WIDTH):
            said = super().__repr__()
        return f"{said}\n{self._line()}" if self._line else said

    def _repr_html_(self) -> str | None:
        said = super()._repr_html_()  # pyright: ignore[reportCallIssue]
        return f"{said}<p>{html.escape(self._line())}</p>" if self._line and said else said
