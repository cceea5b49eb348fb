"""Converts a `Frame` and a pandas index to NumPy arrays and texts, and back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ranef.data.array_columns import Column
from ranef.data.frame import Frame

# A column or table as plain values by name.
Plain = dict[str, Any]

# Largest precision, in digits, of a 128-bit decimal.
_DECIMAL128 = 38
# Name of each Arrow type of dates and times, and the function that makes the type.
_TIMES: dict[str, Callable[..., pa.DataType]] = {
    "timestamp": lambda unit, zone: pa.timestamp(unit, zone or None),
    "duration": pa.duration,
    "time32": pa.time32,
    "time64": pa.time64,
    "date32": lambda unit: pa.date32(),
    "date64": lambda unit: pa.date64(),
}


def plain(frame: Frame) -> Plain:
    """The frame as arrays, texts and numbers; its row labels are not included."""
    return {
        "n": frame.n,
        "source": frame.source,
        "untyped": frame.untyped,
        "missing": tuple(frame.missing),
        "rows": frame.rows,
        "columns": {name: _column(values) for name, values in frame.columns.items()},
    }


def restored(kept: Plain) -> Frame:
    """The frame that `plain` has converted.

    Raises:
        ValueError, TypeError, KeyError: for values that `plain` does not produce.
    """
    columns = {name: _restored(column) for name, column in kept["columns"].items()}
    if any(len(values) != kept["n"] for values in columns.values()):
        raise ValueError("columns differ in length")
    return Frame(columns, kept["n"], kept["source"], kept["untyped"], kept["missing"], kept["rows"])


def _column(values: Column) -> Plain:
    """A column as plain values, under keys that depend on its type."""
    if isinstance(values, np.ndarray):
        return {"arrays": values}
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return _array(array)


def _array(values: pa.Array) -> Plain:
    """An Arrow array as plain values."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        codes = values.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
        names = _array(values.dictionary)
        return {"codes": codes, "names": names, "ordered": bool(kind.ordered)}
    valid = np.asarray(values.is_valid().to_numpy(zero_copy_only=False), bool)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        filled = values.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
        return {"numbers": np.ascontiguousarray(filled), "valid": valid}
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        counts = values.cast(whole).fill_null(0).to_numpy(zero_copy_only=False)
        return {"numbers": np.ascontiguousarray(counts), "valid": valid, "time": _time(kind)}
    texts = np.array(values.cast(pa.string()).fill_null("").to_pylist(), dtype=object)
    out: Plain = {"texts": texts, "valid": valid}
    if pa.types.is_decimal(kind):
        out["decimal"] = (kind.precision, kind.scale)
    return out


def _restored(kept: Plain) -> Column:
    """The column that `_column` has converted."""
    if "arrays" in kept:
        return kept["arrays"]
    if "codes" in kept:
        names = _arrow(kept["names"]).combine_chunks()
        codes = pa.array(kept["codes"], pa.int32(), mask=kept["codes"] < 0)
        # Older files do not say whether the order of categories was declared.
        ordered = bool(kept.get("ordered", False))
        return pa.chunked_array([pa.DictionaryArray.from_arrays(codes, names, ordered=ordered)])
    if "numbers" in kept:
        numbers = pa.array(kept["numbers"], mask=~kept["valid"])
        if "time" in kept:
            kind, *rest = kept["time"]
            numbers = numbers.cast(_TIMES[kind](*rest))
        return pa.chunked_array([numbers])
    texts = pa.array(kept["texts"], pa.string(), mask=~kept["valid"])
    if "decimal" in kept:
        precision, scale = kept["decimal"]
        kind = pa.decimal128 if precision <= _DECIMAL128 else pa.decimal256
        texts = texts.cast(kind(precision, scale))
    return pa.chunked_array([texts])


def _arrow(kept: Plain) -> pa.ChunkedArray:
    """The column that `_column` has converted from one of Arrow."""
    column = _restored(kept)
    if isinstance(column, np.ndarray):
        raise ValueError("an array stands where a column of Arrow is needed")
    return column


def _time(kind: pa.DataType) -> tuple[str, ...]:
    """The name of a date or time type, and the arguments that make it."""
    unit = str(getattr(kind, "unit", ""))
    if pa.types.is_timestamp(kind):
        return "timestamp", unit, kind.tz or ""
    return str(kind).partition("[")[0], unit


def plain_index(index: pd.Index) -> Plain:
    """A pandas index as arrays, texts and numbers; values without an Arrow type become texts."""
    levels = [index.get_level_values(i) for i in range(index.nlevels)]
    names = [n if isinstance(n, (str, int)) or n is None else str(n) for n in index.names]
    return {
        "names": names,
        "levels": [_level(level) for level in levels],
        "several": isinstance(index, pd.MultiIndex),
    }


def _level(level: pd.Index) -> Plain:
    """One level of an index as plain values."""
    try:
        values = pa.array(level, from_pandas=True)
        if isinstance(values.type, pa.ExtensionType):
            raise pa.ArrowInvalid("no plain type")
        return _column(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return _column(pa.array([str(value) for value in level], pa.string()))


def restored_index(kept: Plain) -> pd.Index:
    """The index that `plain_index` has converted.

    Raises:
        ValueError, TypeError, KeyError: for values that `plain_index` does not produce.
    """
    levels = [_arrow(level).to_pandas() for level in kept["levels"]]
    names = list(kept["names"])
    if kept["several"]:
        return pd.MultiIndex.from_arrays(levels, names=names)
    return pd.Index(levels[0], name=names[0])
