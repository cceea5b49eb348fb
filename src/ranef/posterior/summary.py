"""The table of `Fit.summary`, which prints the verdict on its fit below itself."""

import html
from collections.abc import Callable
from typing import Any

import pandas as pd


class Summary(pd.DataFrame):
    """A pandas table like any other but for the line below it; what is made of it is plain.

    The verdict is sought when the table is printed, and not before: it may take a second.
    """

    _metadata = ["_line"]
    _line: Callable[[], str] | None = None

    @classmethod
    def of(cls, table: pd.DataFrame, line: Callable[[], str]) -> "Summary":
        out = cls(table)
        out._line = line
        return out

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def __repr__(self) -> str:
        said = super().__repr__()
        return f"{said}\n{self._line()}" if self._line else said

    def _repr_html_(self) -> str | None:
        said = super()._repr_html_()  # pyright: ignore[reportCallIssue]
        return f"{said}<p>{html.escape(self._line())}</p>" if self._line and said else said
