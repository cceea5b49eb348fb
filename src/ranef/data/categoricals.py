"""Converts categorical columns to Arrow dictionaries, and decides whether their order counts.

In a `Frame`, a dictionary is `ordered` if the column declares the order of its levels. This holds
for categorical columns of pandas, Enum columns of polars, ordered dictionaries of Arrow, and
dictionaries in files that pandas wrote. It does not hold for other dictionaries of Arrow and for
Categorical columns of polars, whose categories are in the order of their first occurrence.
"""

import json

import pandas as pd
import pyarrow as pa

from ranef.data.array_columns import ArrowColumn
from ranef.data.levels import sorted_levels


def of_pandas(series: object) -> pa.ChunkedArray | None:
    """A categorical pandas column as an Arrow dictionary; None for any other column.

    Raises:
        pa.ArrowException: for categories of mixed types.
    """
    kind = getattr(series, "dtype", None)
    if not isinstance(kind, pd.CategoricalDtype):
        return None
    own = series.array if isinstance(series, (pd.Series, pd.Index)) else series
    assert isinstance(own, pd.Categorical)
    codes = pa.array(own.codes.astype("int32"), mask=own.codes < 0)
    # Intervals (as made by pd.cut) and periods become texts.
    spans = isinstance(kind.categories.dtype, (pd.IntervalDtype, pd.PeriodDtype))
    listed = [str(each) for each in kind.categories] if spans else kind.categories
    names = pa.array(listed, from_pandas=True)
    column = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, names)])
    return declared(column, ordered=bool(kind.ordered))


def declared(column: ArrowColumn, ordered: bool = False) -> ArrowColumn:
    """The column with the order of its categories declared.

    Without a given order, pandas sorts categories as texts. Whole numbers then stand in an order
    that nobody meant (1, 10, 2), so for these no order is declared unless pandas calls it
    `ordered`. A column without categories is returned as it is.
    """
    if not pa.types.is_dictionary(column.type) or column.type.ordered:
        return column
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if not ordered and all(_sorted_as_text(chunk.dictionary) for chunk in chunks):
        return column
    return pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary, ordered=True)
            for chunk in chunks
        ]
    )


def _sorted_as_text(dictionary: pa.Array) -> bool:
    """Whether the categories are texts of whole numbers, sorted as texts and not by value."""
    kind = dictionary.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return False
    names = [name for name in dictionary.to_pylist() if name is not None]
    whole = all(name.lstrip("-").isdigit() for name in names)
    return whole and names == sorted(names) and names != sorted_levels(names)


def by_schema(schema: pa.Schema) -> set[str]:
    """Names of the columns that were categorical in pandas, by the metadata of an Arrow schema."""
    known = (getattr(schema, "metadata", None) or {}).get(b"pandas")
    if not known:
        return set()
    try:
        listed = json.loads(known)["columns"]
        return {
            str(entry.get("field_name") or entry["name"])
            for entry in listed
            if entry.get("pandas_type") == "categorical"
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # not the metadata of pandas
        return set()
