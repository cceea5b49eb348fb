"""Converts one column of a pandas, polars or other table, or of a dict, to Arrow."""

from collections.abc import Iterable

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
from narwhals.typing import IntoDType

from ranef.data import array_columns, categoricals
from ranef.data.array_columns import ArrowColumn, Column
from ranef.errors import DataError, RanefError, first_line

# Errors of Arrow and of conversions for columns with values that it cannot read.
_UNREADABLE = (pa.ArrowException, OverflowError, TypeError, ValueError)


def arrow_column(name: str, series: nw.Series) -> Column:
    """One column as an Arrow array, or as a NumPy array if it holds an array per row.

    NaN in a float column of pandas stays NaN and does not become null.
    """
    native = series.to_native()
    try:
        if isinstance(native, pd.Series):
            native = _of_pandas(name, native)
            known = categoricals.of_pandas(native)
            if known is not None:
                return known
            series = nw.from_native(native, series_only=True)
            plain = isinstance(native.dtype, np.dtype)
            if plain and native.dtype.kind == "f":
                return pa.chunked_array([pa.array(native.to_numpy(), from_pandas=False)])
            stacked = array_columns.of_objects(name, native) if plain else None
            if stacked is not None:
                return stacked
        elif series.dtype == nw.Object:
            return dict_column(name, native.to_list())
        elif series.dtype in (nw.Int128, nw.UInt128):
            return array_columns.of_arrow(
                name, _of_128_bits(series).to_frame().to_arrow().column(0)
            )
        elif isinstance(series.dtype, (nw.List, nw.Array)):
            kind = _without_128_bits(series.dtype)
            series = series if kind == series.dtype else series.cast(kind)
        return array_columns.of_arrow(name, series.alias("column").to_frame().to_arrow().column(0))
    except RanefError:
        raise
    except _UNREADABLE as error:
        raise _mixed(name, native, error) from None


def _of_pandas(name: str, column: pd.Series) -> pd.Series:
    """A pandas column in a type that Arrow has, and without its index.

    Raises:
        DataError: for complex numbers.
    """
    column, kind = column.reset_index(drop=True), column.dtype
    if isinstance(kind, pd.SparseDtype):
        return column.sparse.to_dense()
    if isinstance(kind, (pd.IntervalDtype, pd.PeriodDtype)):
        column = column.astype("category")
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = column.cat.categories
        if isinstance(names.dtype, (pd.IntervalDtype, pd.PeriodDtype)):
            return column.cat.rename_categories([str(each) for each in names])
    if getattr(kind, "kind", "") == "c":
        raise DataError(
            f"column {name!r} holds {kind}, which is no number on a line; use its real and "
            "imaginary parts as columns of their own"
        )
    return column


def _of_128_bits(series: nw.Series) -> nw.Series:
    """128-bit integers of polars, which Arrow lacks, as 64-bit integers or 38-digit decimals."""
    for kind in (nw.Int64(), nw.Decimal(38, 0)):
        try:
            return series.cast(kind)
        except Exception:  # an exception type of polars, which need not be installed
            continue
    raise DataError(
        f"column {series.name!r} holds integers of more than 38 digits; write them as text to use "
        "them as levels, or as floats"
    )


def _without_128_bits(kind: IntoDType) -> IntoDType:
    """A polars type with floats in place of 128-bit integers in lists and arrays.

    Arrow has no such integers, and arrays in rows are taken as floats in any case.
    """
    if isinstance(kind, nw.List):
        return nw.List(_float_for_128_bits(kind.inner))
    if isinstance(kind, nw.Array):
        return nw.Array(_float_for_128_bits(kind.inner), kind.size)
    return kind


def _float_for_128_bits(inner: IntoDType) -> IntoDType:
    return nw.Float64() if inner in (nw.Int128, nw.UInt128) else _without_128_bits(inner)


def dict_column(name: str, values: Iterable[object]) -> Column:
    """An array or list as an Arrow array; as float64 NumPy if it holds an array per row."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.where(np.ma.getmaskarray(values), np.nan, np.ma.getdata(values))
        known = _categories(values)
        if known is not None:
            return known
        if isinstance(values, pa.Array):
            values = pa.chunked_array([values])
        if isinstance(values, pa.ChunkedArray):
            return array_columns.of_arrow(name, values)
        if isinstance(values, (pd.Index, pd.api.extensions.ExtensionArray)):
            values = pd.Series(values)
        if nw.dependencies.is_into_series(values):
            return arrow_column(name, nw.from_native(values, series_only=True))
        stacked = array_columns.of_objects(name, values)
        if stacked is not None:
            return stacked
        if _axes(values) == 0:
            raise DataError(f"column {name!r} is a single value; it must be an array of n values")
        if _axes(values) > 1:
            return np.asarray(values, dtype=np.float64)
        if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
            return pa.chunked_array([pa.array(values, from_pandas=False)])
        listed = [None if v is pd.NA or v is pd.NaT else v for v in values]
        if any(isinstance(value, str) for value in listed):
            # Among texts, pandas and NumPy write NaN for an empty cell.
            listed = [None if isinstance(v, float) and v != v else v for v in listed]
        return array_columns.of_arrow(name, pa.chunked_array([pa.array(listed, from_pandas=False)]))
    except RanefError:
        raise
    except _UNREADABLE as error:
        raise _mixed(name, values, error) from None


def _categories(values: object) -> ArrowColumn | None:
    """Categories of pandas, polars or Arrow as an Arrow dictionary; None for anything else."""
    known = categoricals.of_pandas(values)
    if known is not None:
        return known
    if isinstance(values, pa.Array):
        values = pa.chunked_array([values])
    if isinstance(values, pa.ChunkedArray):
        return values if _is_dictionary(values) else None
    if hasattr(values, "dtype") and not isinstance(values, np.ndarray):
        series = nw.from_native(values, series_only=True, pass_through=True)
        if isinstance(series, nw.Series) and series.dtype in (nw.Enum, nw.Categorical):
            return series.alias("column").to_frame().to_arrow().column(0)
    return None


def _is_dictionary(column: ArrowColumn) -> bool:
    return pa.types.is_dictionary(column.type)


def _axes(values: object) -> int:
    """Number of axes of any object, as by `np.ndim`."""
    known = getattr(values, "ndim", None)
    return np.asarray(values).ndim if known is None else known


def _is_gap(value: object) -> bool:
    """Whether a Python object stands for a missing value."""
    return value is None or value is pd.NA or value is pd.NaT or bool(value != value)


def _mixed(name: str, values: Iterable[object], error: Exception) -> DataError:
    """The error for a column that Arrow could not read, naming the types of its values."""
    seen: dict[type, str] = {}
    for row, value in enumerate(values):
        if _axes(value) == 0 and not _is_gap(value):
            seen.setdefault(type(value), f"{value!r:.40} in row {row + 1}")
    if len(seen) > 1:
        (one, first), (other, second), *_ = ((kind.__name__, v) for kind, v in seen.items())
        return DataError(
            f"column {name!r} mixes values of type {one} and {other}, such as {first} and "
            f"{second}; make it all numbers or all text"
        )
    reason = first_line(error).split("', '")[0].strip("(\"'")
    return DataError(
        f"column {name!r} cannot be read as one kind of value ({reason}); make it all numbers or "
        "all text"
    )
