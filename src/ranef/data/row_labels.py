"""Row labels of a table, and results by row as a table of the same kind.

Results for a pandas table are pandas tables with its index, of whatever type and whether or not it
repeats. Results for a polars table are polars tables, which have no index. Results for all other
data (Arrow tables, dicts, files) are pandas tables with numbered rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ranef.data.array_columns import ArrowColumn, combined
from ranef.numerics.shapes import Float, Int, Shaped

if TYPE_CHECKING:
    import polars as pl

# A table of results; a polars one if the user's table is of polars.
Table: TypeAlias = "pd.DataFrame | pl.DataFrame"
# Results by row; a Series if the user's table has one.
ByRow: TypeAlias = "pd.Series | pl.Series | NDArray[np.float64]"
# One column of a table of results.
_Values: TypeAlias = NDArray | ArrowColumn | pd.Categorical | list[str]


@dataclass(frozen=True)
class Labels:
    """Labels of n rows.

    Attributes:
        form: the kind of table the rows come from: "pandas", "polars", or "" for any other.
        index: the pandas index; None for rows numbered from 0.
    """

    form: str = ""
    index: pd.Index | None = None

    @classmethod
    def of(cls, table: object) -> "Labels":
        """The row labels of a table, which may be lazy or wrapped by narwhals."""
        native = nw.to_native(table, pass_through=True)
        if isinstance(native, pd.DataFrame):
            index = native.index
            numbered = isinstance(index, pd.RangeIndex) and (index.start, index.step) == (0, 1)
            return cls("pandas", None if numbered and index.name is None else index)
        return cls("polars" if type(native).__module__.split(".")[0] == "polars" else "")

    def at(self, places: Int[NDArray, "m"]) -> "Labels":
        """The labels of the rows at `places`, in this order."""
        if self.form != "pandas":
            return self
        places = np.asarray(places, np.int64)
        if self.index is None:
            return Labels(self.form, pd.Index(places))
        return Labels(self.form, self.index.take(places))

    def table(self, columns: Mapping[str, _Values]) -> Table:
        """A table with one row for each of the n rows.

        Args:
            columns: name to NumPy or Arrow array, ordered categories or list of texts, one value
                for each row.

        Returns:
            A pandas DataFrame with the index of the rows, or a polars DataFrame.
        """
        polars = self._polars()
        if polars is not None:
            return polars.DataFrame({name: _of_polars(polars, v) for name, v in columns.items()})
        return pd.DataFrame({name: _of_pandas(v) for name, v in columns.items()}).set_axis(
            self._whole(len(next(iter(columns.values()), ()))), axis=0
        )

    def series(self, name: str, values: Float[NDArray, "n"]) -> ByRow:
        """One number for each row, as a pandas or polars Series, or as the array itself."""
        polars = self._polars()
        if polars is not None:
            return polars.Series(name, values)
        if self.form == "pandas":
            return pd.Series(values, self._whole(len(values)), name=name)
        return values

    def by_level(
        self,
        name: str,
        levels: ArrowColumn,
        columns: Mapping[str, Shaped[NDArray, "n"] | list[str]],
    ) -> Table:
        """A table with one row for each level.

        Args:
            name: name of the grouping.
            levels: the levels as an Arrow array.
            columns: name to NumPy array or list of texts, one value for each level.

        Returns:
            A pandas DataFrame with the levels as its index, or a polars DataFrame with the levels
            in its first column.
        """
        polars = self._polars()
        if polars is not None:
            return self.table({name: levels, **columns})
        return pd.DataFrame(dict(columns), index=pd.Index(_of_pandas(levels), name=name))

    def _whole(self, n: int) -> pd.Index:
        """The index of the n rows, numbered from 0 if there is none."""
        return pd.RangeIndex(n) if self.index is None else self.index

    def _polars(self) -> ModuleType | None:
        """The module polars for rows of a polars table, or None if it is not installed.

        A saved fit of a polars table can be loaded without polars.
        """
        if self.form != "polars":
            return None
        try:
            import polars
        except ImportError:
            return None
        return polars


def _of_pandas(values: _Values) -> "NDArray | list[str] | pd.Categorical | pd.Series":
    """Values for pandas; categories of Arrow as the texts that they are."""
    if isinstance(values, (np.ndarray, list, pd.Categorical)):
        return values
    texts = pa.types.is_dictionary(values.type)
    return (values.cast(values.type.value_type) if texts else values).to_pandas()


def _of_polars(
    polars: ModuleType, values: _Values
) -> "NDArray | list[str] | pl.Series | pl.DataFrame":
    """Values for polars, categories as an Enum if their order counts, else as a Categorical."""
    if isinstance(values, pd.Categorical):
        return polars.Series(values.tolist(), dtype=polars.Enum(list(values.categories)))
    if isinstance(values, (np.ndarray, list)):
        return values
    if pa.types.is_dictionary(values.type):
        names = combined(values).dictionary.to_pylist()
        kind = polars.Enum(names) if values.type.ordered else polars.Categorical
        return polars.Series(values.to_pylist(), dtype=kind)
    return polars.from_arrow(values)
