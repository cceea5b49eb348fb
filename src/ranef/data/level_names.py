"""Writes the values of a column as texts, which are the names of its levels."""

import numpy as np
import pyarrow as pa

from ranef.data.array_columns import pc
from ranef.errors import DataError


def level_names(column: str, values: pa.Array) -> list[str | None]:
    """Distinct values as texts, None for missing ones.

    Whole floats are written as integers, since pandas turns integers into floats if some are
    missing.
    """
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
        if np.nanmax(np.abs(numbers), initial=0.0) >= 2**53:
            raise DataError(
                f"column {column!r} holds ids of 2**53 or more as floats, which have lost digits; "
                "read it as text or as integers"
            )
        return [
            None if np.isnan(x) else f"{x:.0f}" if x == int(x) else repr(float(x)) for x in numbers
        ]
    if pa.types.is_boolean(kind):
        return [None if v is None else str(v) for v in values.to_pylist()]
    try:
        if pa.types.is_timestamp(kind):
            return time_texts(values).to_pylist()
        return values.cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise not_levels(column, kind) from None


def time_texts(values: pa.Array) -> pa.Array:
    """Points in time as texts that do not depend on their unit and time zone.

    Midnight is "2024-01-01", other times are "2024-01-01 12:30:00", followed by the fraction of a
    second if it is not zero. Times with a zone are written in UTC.
    """
    if values.type.tz is not None:
        values = values.cast(pa.timestamp(values.type.unit))
    texts = values.cast(pa.string())
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, r" 00:00:00$", "")


def as_one_time(texts: pa.Array) -> pa.Array:
    """Texts of points in time in any of several notations, rewritten as by `time_texts`."""
    texts = pc.replace_substring_regex(texts, r"(Z|\+00:?00)$", "")
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, r"[ T]00:00:00$", "")


def not_levels(column: str, kind: pa.DataType) -> DataError:
    return DataError(
        f"column {column!r} holds {kind}, which cannot be used as levels; convert it to text"
    )
