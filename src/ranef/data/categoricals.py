"""Categorical columns as Arrow dictionaries that say whether the order of categories counts.

A dictionary of a `Frame` is `ordered` where the column declares the order of its levels: a
categorical column of pandas, an Enum of polars, a dictionary that Arrow has as ordered or that
pandas wrote. One of Arrow alone, and a Categorical of polars, have their categories in the order
in which rows first showed them, which says nothing.
"""

import json
from typing import Any

import pandas as pd
import pyarrow as pa

from ranef.data.frame import sorted_levels


def of_pandas(series: Any) -> pa.ChunkedArray | None:
    """A categorical column of pandas; None for any other.

    Raises:
        pa.ArrowException: for categories of several types.
    """
    kind = getattr(series, "dtype", None)
    if not isinstance(kind, pd.CategoricalDtype):
        return None
    own = series if isinstance(series, pd.Categorical) else series.array
    codes = pa.array(own.codes.astype("int32"), mask=own.codes < 0)
    # Intervals (as pd.cut makes them) and periods become text.
    spans = isinstance(kind.categories.dtype, (pd.IntervalDtype, pd.PeriodDtype))
    listed = [str(each) for each in kind.categories] if spans else kind.categories
    names: Any = pa.array(listed, from_pandas=True)
    column = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, names)])
    return declared(column, ordered=bool(kind.ordered))


def declared(column: Any, ordered: bool = False) -> Any:
    """The column with the order of its categories declared; one without categories as it is.

    pandas sorts categories as text unless it is told an order. Where these are whole numbers,
    and not `ordered` ones, that is nobody's order: 1, 10, 2.
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


def _sorted_as_text(dictionary: Any) -> bool:
    """Whether the categories are whole numbers, as texts, that stand in the order of texts."""
    kind = dictionary.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return False
    names = [name for name in dictionary.to_pylist() if name is not None]
    whole = all(name.lstrip("-").isdigit() for name in names)
    return whole and names == sorted(names) and names != sorted_levels(names)


def by_schema(schema: Any) -> set[str]:
    """The columns of an Arrow table or a file that pandas wrote from categorical ones."""
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
    except (ValueError, KeyError, TypeError, AttributeError):  # no metadata of pandas after all
        return set()
