"""Dates and times as numbers of days."""

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from ranef.data.array_columns import ArrowColumn, combined, holds_text
from ranef.numerics.shapes import Float

# Units of points in time and durations: their number in one day.
_PER_DAY = {unit: 86_400 * 10**power for unit, power in {"s": 0, "ms": 3, "us": 6, "ns": 9}.items()}


def holds_dates(kind: pa.DataType) -> bool:
    """Whether an Arrow column of this type holds dates, points in time or durations."""
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind)


def days_of(values: ArrowColumn) -> Float[NDArray[np.float64], "n"] | None:
    """Days since the midnight of 1970-01-01, UTC where there is a zone; durations in days.

    A time of the day is a fraction. Texts are dates and times in the notation of ISO 8601, such as
    2024-03-01 or 2024-03-01 12:30. Missing values, and texts that are none of these, are NaN.

    Returns:
        None for a column that holds no dates and no texts.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = kind.value_type
    if holds_text(kind):
        return _of_texts(values)
    if not holds_dates(kind):
        return None
    if pa.types.is_date(kind):
        values, unit = values.cast(pa.timestamp("s")), "s"
    else:
        unit = kind.unit
    whole = combined(values).cast(pa.int64())
    gap = np.asarray(whole.is_null().to_numpy(zero_copy_only=False), bool)
    counts = np.asarray(whole.fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    # Whole days and the rest apart, because large counts are not exact as floats.
    days, rest = np.divmod(counts, _PER_DAY[unit])
    return np.where(gap, np.nan, days + rest / _PER_DAY[unit])


def _of_texts(values: ArrowColumn) -> Float[NDArray[np.float64], "n"]:
    encoded = combined(values.cast(pa.string())).dictionary_encode()
    names = pd.Series(encoded.dictionary.to_pylist(), dtype=object)
    times = pd.to_datetime(names, format="ISO8601", utc=True, errors="coerce")
    epoch = pd.Timestamp(0, tz="UTC")
    days = np.append(np.asarray((times - epoch) / pd.Timedelta(days=1), np.float64), np.nan)
    codes = encoded.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    return days[codes]
