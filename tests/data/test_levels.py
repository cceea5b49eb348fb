"""Levels have an order: the declared one, also over batches of rows, or that of their values."""

import numpy as np
import pandas as pd

from ranef.data.levels import LevelsSeen, merged_order, sorted_levels
from ranef.data.tables import read


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
