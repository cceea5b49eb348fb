"""Levels cross, and are found in a list."""

import numpy as np
import pandas as pd

from ranef.data.level_codes import NameIndex, crossed_levels
from ranef.data.levels import LevelsSeen
from ranef.data.tables import read


def test_levels_of_points_in_time_that_older_files_hold_are_found():
    old = NameIndex(["2024-01-01 00:00:00.000000000", "2024-01-02 12:00:00.000000000"])
    assert old.places(["2024-01-02 12:00:00", "2024-01-01", "2024-01-03"]).tolist() == [1, 0, -1]


def test_crossed_levels_are_in_the_declared_order_of_either():
    frame = read(
        pd.DataFrame({"a": pd.Categorical(["x", "y", "x"], ["y", "x"]), "b": ["2", "10", "10"]})
    )
    found = crossed_levels(frame, ("a", "b"))
    assert LevelsSeen().add(found).ordered() == ("y:10", "x:2", "x:10")
    assert [found.names[c] for c in found.codes] == ["x:2", "y:10", "x:10"]


def test_crossed_levels_are_the_pairs_that_occur():
    frame = read({"a": np.array(["x", "x", "y"]), "b": np.array(["1", "2", "1"])})
    found = crossed_levels(frame, ("a", "b"))
    assert [found.names[c] for c in found.codes] == ["x:1", "x:2", "y:1"]


def test_crossing_with_a_gap_is_a_gap():
    frame = read(pd.DataFrame({"a": ["x", None, "y"], "b": ["1", "2", "1"]}))
    found = crossed_levels(frame, ("a", "b"))
    assert list(found.codes < 0) == [False, True, False]
    assert sorted(found.names) == ["x:1", "y:1"]
