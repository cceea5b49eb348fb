"""Columns of a `Frame` as arrays and texts, and back."""

from typing import Any

import numpy as np
import pyarrow as pa

from ranef.frame import Frame, time_texts

# What a column is kept as: by what it holds.
Plain = dict[str, Any]


def plain(frame: Frame) -> Plain:
    """The frame in arrays, texts and numbers."""
    return {
        "n": frame.n,
        "source": frame.source,
        "untyped": frame.untyped,
        "missing": tuple(frame.missing),
        "rows": frame.rows,
        "columns": {name: _column(values) for name, values in frame.columns.items()},
    }


def restored(kept: Plain) -> Frame:
    """The frame again.

    Raises:
        ValueError, TypeError, KeyError: for what `plain` does not give.
    """
    columns = {name: _restored(column) for name, column in kept["columns"].items()}
    if any(len(values) != kept["n"] for values in columns.values()):
        raise ValueError("columns differ in length")
    return Frame(columns, kept["n"], kept["source"], kept["untyped"], kept["missing"], kept["rows"])


def _column(values: Any) -> Plain:
    if isinstance(values, np.ndarray):
        return {"arrays": values}
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    if pa.types.is_dictionary(kind):
        codes = values.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
        names = _column(values.dictionary)
        return {"codes": codes, "names": names, "ordered": bool(kind.ordered)}
    valid = np.asarray(values.is_valid().to_numpy(zero_copy_only=False), bool)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        filled = values.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
        return {"numbers": np.ascontiguousarray(filled), "valid": valid}
    # Dates and times are used as levels alone, by their texts.
    said = time_texts(values) if pa.types.is_timestamp(kind) else values.cast(pa.string())
    texts = np.array(said.fill_null("").to_pylist(), dtype=object)
    out: Plain = {"texts": texts, "valid": valid}
    if pa.types.is_decimal(kind):
        out["decimal"] = (kind.precision, kind.scale)
    return out


def _restored(kept: Plain) -> Any:
    if "arrays" in kept:
        return kept["arrays"]
    if "codes" in kept:
        names = _restored(kept["names"]).combine_chunks()
        codes = pa.array(kept["codes"], pa.int32(), mask=kept["codes"] < 0)
        # Files of before the order of categories counted do not say whether it was declared.
        ordered = bool(kept.get("ordered", False))
        return pa.chunked_array([pa.DictionaryArray.from_arrays(codes, names, ordered=ordered)])
    if "numbers" in kept:
        return pa.chunked_array([pa.array(kept["numbers"], mask=~kept["valid"])])
    texts = pa.array(kept["texts"], pa.string(), mask=~kept["valid"])
    if "decimal" in kept:
        texts = texts.cast(pa.decimal128(*kept["decimal"]))
    return pa.chunked_array([texts])
