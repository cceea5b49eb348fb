"""Gaps drop rows and are counted."""

import numpy as np
import pandas as pd
import pytest

from ranef.data.complete_cases import complete
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
