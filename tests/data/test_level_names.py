"""A point in time has one name as a level, in any unit, time zone and kind of table."""

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ranef.data.tables import read

DAYS = pd.Series(
    [pd.Timestamp(t) for t in ("2024-01-01", "2024-01-01 12:30", "2024-01-01 12:30:00.250")]
)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Etc/UTC"])
@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "categorical"])
def test_a_point_in_time_has_one_text(unit, zone, kind):
    column = DAYS.astype(f"datetime64[{unit}]")
    column = column.dt.tz_localize(zone) if zone else column
    table = pd.DataFrame({"day": column.astype("category") if kind == "categorical" else column})
    if kind == "polars":
        table = pl.from_pandas(table)
    elif kind == "arrow":
        table = pa.Table.from_pandas(table)
    found = read(table).levels("day")
    expected = ["2024-01-01", "2024-01-01 12:30:00", "2024-01-01 12:30:00.25"]
    assert [found.names[c] for c in found.codes] == expected


def test_one_instant_is_one_level_in_any_zone_and_a_date_is_its_midnight():
    there = DAYS.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    assert read({"day": there}).levels("day").names[0] == "2024-01-01"
    assert read({"day": DAYS[:1].dt.date.tolist()}).levels("day").names[0] == "2024-01-01"
