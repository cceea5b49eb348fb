"""Gaps drop rows and are counted; levels have an order and cross."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ranef.data.complete_cases import complete
from ranef.data.frame import LevelsSeen, NameIndex, crossed_levels, merged_order, sorted_levels
from ranef.data.tables import read
from ranef.errors import DataError


def test_rows_with_gaps_are_dropped_and_counted_by_column():
    data = pd.DataFrame(
        {"y": [1.0, 2.0, 3.0, 4.0], "x": [np.nan, 1.0, 2.0, np.nan], "g": ["a", None, "b", None]}
    )
    frame, rows = complete(read(data), {"y": {"response"}, "x": {"number"}, "g": {"level"}})
    assert frame.n == 1
    assert (rows.read, rows.used, dict(rows.dropped)) == (4, 1, {"x": 2, "g": 2})
    assert str(rows) == "4 rows read, 1 used; 3 dropped: x missing in 2, g missing in 2"
    assert frame.row_number(0) == 3


@pytest.mark.parametrize("use", ["response", "category", "number"])
@pytest.mark.parametrize(
    "y",
    [
        pd.array([1.0, None], dtype="Float64"),
        np.array([1.0, np.nan]),
        pd.array([1, None], dtype="Int64"),
        pd.array([True, None], dtype="boolean"),
        np.array([1.0, None], dtype=object),
    ],
)
def test_a_missing_response_drops_the_row(y, use):
    _, rows = complete(read(pd.DataFrame({"y": y})), {"y": {use}})
    assert (rows.used, rows.dropped) == (1, {"y": 1})


def test_a_missing_response_of_texts_drops_the_row_and_infinity_does_not():
    texts = read(pd.DataFrame({"y": ["yes", None, "no", np.nan]}))
    assert complete(texts, {"y": {"category"}})[1].dropped == {"y": 2}
    assert complete(read({"y": np.array([1.0, np.inf])}), {"y": {"response"}})[1].used == 2


def test_a_table_without_a_complete_row_names_the_worst_column():
    with pytest.raises(DataError, match="'x' is missing in 2 of 2"):
        complete(read({"x": np.full(2, np.nan)}), {"x": {"number"}})
    with pytest.raises(DataError, match="has no rows"):
        complete(read({"x": np.zeros(0)}), {"x": {"number"}})


def test_levels_are_ordered_as_users_expect():
    assert sorted_levels(["10", "9", "-1"]) == ["-1", "9", "10"]
    assert sorted_levels(["10", "9", "007"]) == ["007", "10", "9"]
    assert sorted_levels(["b", "a"]) == ["a", "b"]
    assert sorted_levels(["b", "B", "C", "a", "A"]) == ["a", "A", "b", "B", "C"]
    assert sorted_levels(["Yes", "no"]) == ["no", "Yes"]


def declared(*names, rows=None):
    column = pd.Categorical(list(rows if rows is not None else names), list(names))
    return read(pd.DataFrame({"f": column})).levels("f")


def test_levels_seen_in_batches_keep_the_order_that_is_declared():
    seen = LevelsSeen().add(declared("low", "mid", "high", rows=["high", "low"]))
    assert seen.ordered() == ("low", "high")
    assert seen.add(declared("low", "mid", "high", rows=["mid"])).ordered() == (
        "low",
        "mid",
        "high",
    )


def test_orders_of_several_batches_are_merged_and_contradictions_drop_them():
    first = LevelsSeen().add(declared("low", "mid"))
    assert first.add(declared("mid", "high")).ordered() == ("low", "mid", "high")
    assert first.add(declared("mid", "low")).ordered() == ("low", "mid")  # by the alphabet
    undeclared = read({"f": np.array(["a"])}).levels("f")
    assert first.add(undeclared).ordered() == ("a", "low", "mid")
    assert merged_order([("b", "a"), ("c", "b")]) == ("c", "b", "a")
    assert merged_order([("b", "a"), ("a", "c"), ("c", "b")]) is None


def test_crossed_levels_are_in_the_declared_order_of_either():
    frame = read(
        pd.DataFrame({"a": pd.Categorical(["x", "y", "x"], ["y", "x"]), "b": ["2", "10", "10"]})
    )
    found = crossed_levels(frame, ("a", "b"))
    assert LevelsSeen().add(found).ordered() == ("y:10", "x:2", "x:10")
    assert [found.names[c] for c in found.codes] == ["x:2", "y:10", "x:10"]


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


def test_levels_of_points_in_time_that_older_files_hold_are_found():
    old = NameIndex(["2024-01-01 00:00:00.000000000", "2024-01-02 12:00:00.000000000"])
    assert old.places(["2024-01-02 12:00:00", "2024-01-01", "2024-01-03"]).tolist() == [1, 0, -1]


def test_crossed_levels_are_the_pairs_that_occur():
    frame = read({"a": np.array(["x", "x", "y"]), "b": np.array(["1", "2", "1"])})
    found = crossed_levels(frame, ("a", "b"))
    assert [found.names[c] for c in found.codes] == ["x:1", "x:2", "y:1"]


def test_crossing_with_a_gap_is_a_gap():
    frame = read(pd.DataFrame({"a": ["x", None, "y"], "b": ["1", "2", "1"]}))
    found = crossed_levels(frame, ("a", "b"))
    assert list(found.codes < 0) == [False, True, False]
    assert sorted(found.names) == ["x:1", "y:1"]
