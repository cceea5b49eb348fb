"""Columns with an array in each row: one array, whatever the table holds them in."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet

import ranef as rf
from ranef.data.tables import concatenate, from_arrays, read

IMAGES = np.arange(24.0).reshape(4, 3, 2)
FLAT = IMAGES.reshape(4, 6)
FIXED = pa.FixedSizeListArray.from_arrays(pa.array(IMAGES.ravel()), 6)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (pa.table({"a": FIXED}), FLAT),
        (pa.table({"a": pa.array(IMAGES.tolist())}), IMAGES),
        (pa.table({"a": pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGES)}), IMAGES),
        (pd.DataFrame({"a": list(IMAGES)}), IMAGES),
        (pd.DataFrame({"a": FLAT.tolist()}), FLAT),
        (pd.DataFrame({"a": pd.Series(FLAT.tolist(), dtype=pd.ArrowDtype(FIXED.type))}), FLAT),
        (pl.DataFrame({"a": IMAGES}), IMAGES),
        (pl.DataFrame({"a": FLAT.tolist()}), FLAT),
        ({"a": IMAGES}, IMAGES),
        ({"a": IMAGES.astype("uint8")}, IMAGES),
        ({"a": list(IMAGES)}, IMAGES),
        ({"a": pd.Series(list(IMAGES))}, IMAGES),
        ({"a": FIXED}, FLAT),
    ],
)
def test_arrays_are_read_from_anything_that_holds_them(table, expected):
    np.testing.assert_array_equal(read(table).column("a"), expected)


def test_a_list_column_of_parquet_is_an_array_column(tmp_path):
    parquet.write_table(pa.table({"a": FIXED}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(tmp_path / "a.parquet").column("a"), FLAT)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([[1.0, 2.0], None, [3.0, None], [4.0, 5.0]])}),
        pa.table({"a": pa.array([[1, 2], None, [3, None], [4, 5]], pa.list_(pa.int64(), 2))}),
        pd.DataFrame({"a": [[1, 2], None, [3, np.nan], [4, 5]]}),
    ],
)
def test_a_missing_row_or_number_is_a_gap(table):
    frame = read(table)
    np.testing.assert_array_equal(frame.is_missing("a"), [False, True, True, False])
    np.testing.assert_array_equal(frame.numbers("a")[3], [4, 5])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([[1, 2], [3]]), r"'a' holds arrays of several shapes \(1 and 2 values\)"),
        (pd.Series([[1, 2], [3]]), r"several shapes \(shapes \(2,\) and \(1,\)\)"),
        (pd.Series([[[1, 2], [3, 4]], [[1], [3, 4]]]), "several shapes"),
        (pa.array([["a"], ["b"]]), "'a' holds arrays of string where numbers are needed"),
        (pd.Series([["a"], ["b"]]), "where numbers are needed"),
    ],
)
def test_rows_of_several_shapes_or_of_texts_are_refused(values, said):
    with pytest.raises(rf.DataError, match=said):
        read({"a": values})


def test_frames_with_arrays_are_joined_and_made():
    frame = from_arrays({"a": IMAGES, "b": np.arange(4)})
    joined = concatenate([frame, frame.keep(np.array([True, False, False, True]))])
    np.testing.assert_array_equal(joined.numbers("a"), IMAGES[[0, 1, 2, 3, 0, 3]])


def test_numbers_and_arrays_are_not_mixed_in_one_expression():
    table = {"y": np.arange(4.0), "x": np.arange(4.0), "a": np.ones((4, 4))}
    with pytest.raises(rf.DataError, match=r"differ in shape \(x \(\), a \(4,\)\)"):
        rf.Model("y ~ I(x * a)").fit(table, progress=False)
