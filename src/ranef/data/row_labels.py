"""What the rows of a table are called, and answers about them as a table of the same kind.

pandas rows have an index, which goes back as it came, whatever it holds and however often. polars
rows have none, and an answer is a polars table. The rows of everything else (Arrow tables, dicts,
files) are numbered, and an answer is a pandas table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """What n rows are called.

    Attributes:
        form: "pandas" or "polars", the kind of table they come from; "" for any other.
        index: theirs in pandas; None for rows numbered from 0.
    """

    form: str = ""
    index: Any = None

    @classmethod
    def of(cls, table: Any) -> "Labels":
        """Of a table, which may be lazy or wrapped by narwhals."""
        native = nw.to_native(table, pass_through=True)
        if isinstance(native, pd.DataFrame):
            index: Any = native.index
            plain = isinstance(index, pd.RangeIndex) and index.name is None
            numbered = plain and index.start == 0 and index.step == 1
            return cls("pandas", None if numbered else index)
        return cls("polars" if type(native).__module__.split(".")[0] == "polars" else "")

    def at(self, places: NDArray[np.int64]) -> "Labels":
        """Those of some rows, in that order."""
        if self.form != "pandas":
            return self
        places = np.asarray(places, np.int64)
        if self.index is None:
            return Labels(self.form, pd.Index(places))
        return Labels(self.form, self.index.take(places))

    def table(self, columns: Mapping[str, Any]) -> Any:
        """Columns with one value for each row, NumPy or Arrow, as a table.

        Returns:
            A pandas DataFrame with the index, or a polars DataFrame.
        """
        polars = self._polars()
        if polars is not None:
            return polars.DataFrame({name: _of_polars(polars, v) for name, v in columns.items()})
        return pd.DataFrame({name: _of_pandas(v) for name, v in columns.items()}).set_axis(
            self._whole(len(next(iter(columns.values()), ()))), axis=0
        )

    def series(self, name: str, values: NDArray[np.float64]) -> Any:
        """One number for each row, (n,): a pandas or polars Series, or the array itself."""
        polars = self._polars()
        if polars is not None:
            return polars.Series(name, values)
        if self.form == "pandas":
            return pd.Series(values, self._whole(len(values)), name=name)
        return values

    def by_level(self, name: str, levels: Any, columns: Mapping[str, Any]) -> Any:
        """A table of levels: these are the index in pandas, a column first in polars.

        Args:
            name: of what they are levels of.
            levels: (n,), Arrow.
            columns: (n,) each, NumPy.
        """
        polars = self._polars()
        if polars is not None:
            return self.table({name: levels, **columns})
        return pd.DataFrame(dict(columns), index=pd.Index(_of_pandas(levels), name=name))

    def _whole(self, n: int) -> pd.Index:
        return pd.RangeIndex(n) if self.index is None else self.index

    def _polars(self) -> Any:
        """The library, for rows that came from it; a saved fit may be read without it."""
        if self.form != "polars":
            return None
        try:
            import polars
        except ImportError:
            return None
        return polars


def _of_pandas(values: Any) -> Any:
    return values.to_pandas() if isinstance(values, (pa.Array, pa.ChunkedArray)) else values


def _of_polars(polars: Any, values: Any) -> Any:
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return polars.from_arrow(values)
    return values
