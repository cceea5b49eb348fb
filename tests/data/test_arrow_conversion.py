"""A column of any library's type is numbers or levels, or is refused by its type."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ranef.data.tables import read
from ranef.errors import DataError


def spelled(kind):
    """Levels a, b, a in a column of one type."""
    plain = pa.array(["a", "b", "a"])
    data = pa.array([b"a", b"b", b"a"])
    return {
        "string_view": lambda: plain.cast(pa.string_view()),
        "large_string": lambda: plain.cast(pa.large_string()),
        "binary": lambda: data,
        "large_binary": lambda: data.cast(pa.large_binary()),
        "fixed binary": lambda: data.cast(pa.binary(1)),
        "binary_view": lambda: data.cast(pa.binary_view()),
        "dictionary of views": lambda: pa.DictionaryArray.from_arrays(
            pa.array([0, 1, 0], pa.int8()), pa.array(["a", "b"]).cast(pa.string_view())
        ),
        "run lengths": lambda: pc.run_end_encode(plain),
    }[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        *("string_view", "large_string", "binary", "large_binary", "fixed binary"),
        *("binary_view", "dictionary of views", "run lengths"),
    ],
)
def test_texts_of_any_type_are_levels(kind):
    for chunks in ([spelled(kind)], [spelled(kind)] * 2):
        frame = read(pa.table({"g": pa.chunked_array(chunks)}))
        found = frame.levels("g")
        assert [found.names[c] for c in found.codes] == ["a", "b", "a"] * len(chunks)
        assert frame.is_text("g")
        assert frame.keep(found.codes == 0).n == 2 * len(chunks)


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [
        (pa.array([Decimal("1.50"), None], pa.decimal128(38, 2)), [1.5, np.nan], ["1.50"]),
        (pa.array([Decimal("1.50"), None], pa.decimal256(60, 2)), [1.5, np.nan], ["1.50"]),
        (pa.array([Decimal("1.5"), None], pa.decimal32(5, 1)), [1.5, np.nan], ["1.5"]),
        (pa.array([1.5, None], pa.float16()), [1.5, np.nan], ["1.5"]),
        (pa.array([2**63 + 5, None], pa.uint64()), [2.0**63, np.nan], [str(2**63 + 5)]),
        (pc.run_end_encode(pa.array([3, None])), [3, np.nan], ["3"]),
        (pa.nulls(2), [np.nan, np.nan], []),
        (pl.Series([3, None], dtype=pl.Int128), [3, np.nan], ["3"]),
        (pl.Series([3 * 10**30, None], dtype=pl.Int128), [3e30, np.nan], ["3" + 30 * "0"]),
        (pd.array([3, None], "Int64"), [3, np.nan], ["3"]),
        (pd.array([1.5, None], "Float64"), [1.5, np.nan], ["1.5"]),
        (pd.array([True, None], "boolean"), [1, np.nan], ["True"]),
        (pd.array([3, None], "int32[pyarrow]"), [3, np.nan], ["3"]),
        (pd.arrays.SparseArray([3.0, np.nan]), [3, np.nan], ["3"]),
        ([3, pd.NA], [3, np.nan], ["3"]),
        ([1.5, pd.NaT], [1.5, np.nan], ["1.5"]),
    ],
)
def test_numbers_of_any_type_are_numbers_and_levels(values, numbers, names):
    tables = [{"x": values}]
    if not isinstance(values, list):
        whole = pd.DataFrame
        if isinstance(values, (pa.Array, pl.Series)):
            whole = pa.table if isinstance(values, pa.Array) else pl.DataFrame
        tables.append(whole({"x": values}))
    for table in tables:
        frame = read(table)
        np.testing.assert_array_equal(frame.numbers("x"), numbers)
        found = frame.levels("x")
        assert list(found.names) == names
        np.testing.assert_array_equal(frame.is_missing("x"), np.isnan(numbers))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pd.array(["a", None], "string[pyarrow]"), ["a"]),
        (pd.array(["a", None], "string[python]"), ["a"]),
        (pd.cut(np.array([0.5, 1.5]), [0, 1, 2]), ["(0, 1]", "(1, 2]"]),
        (pd.period_range("2024-01", periods=2, freq="M"), ["2024-01", "2024-02"]),
    ],
)
def test_texts_of_pandas_of_any_type_are_levels(values, names):
    for data in ({"g": values}, pd.DataFrame({"g": values}, index=[1, "a"])):
        assert list(read(data).levels("g").names) == names


@pytest.mark.parametrize(
    ("values", "first", "second"),
    [
        ([1, "married", 2], "int and str", "1 in row 1 and 'married' in row 2"),
        (["w", None, 1.5], "str and float", "'w' in row 1 and 1.5 in row 3"),
        ([1, True], "int and bool", "1 in row 1 and True in row 2"),
        ([1, dt.date(2020, 1, 1)], "int and date", "1 in row 1 and"),
    ],
)
def test_mixed_values_are_refused_by_two_of_their_types(values, first, second):
    series = pd.Series(values, dtype=object, index=range(5, 5 + len(values)))
    tables = [pd.DataFrame({"status": series}), {"status": values}, {"status": series}]
    if isinstance(values[-1], int) and not isinstance(values[-1], bool):
        tables.append(pd.DataFrame({"status": pd.Categorical(values)}))
    tables.append(pl.DataFrame({"status": pl.Series(values, dtype=pl.Object)}))
    for table in tables:
        with pytest.raises(DataError, match=f"'status' mixes values of type {first}.*{second}"):
            read(table)


def test_types_that_are_no_use_are_refused_by_their_name():
    for values, said in (
        (pa.array([b"\xff"]), "'x' holds large_binary"),
        (pa.array([{"a": 1}]), "'x' holds struct"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "'x' holds map"),
    ):
        frame = read({"x": values})
        for use in (frame.numbers, frame.levels):
            with pytest.raises(DataError, match=said):
                use("x")
    with pytest.raises(DataError, match="'x' holds complex128"):
        read(pd.DataFrame({"x": [1j]}))
    with pytest.raises(DataError, match="'x' holds integers of more than 38 digits"):
        read(pl.DataFrame({"x": pl.Series([2**127 - 1], dtype=pl.Int128)}))


def test_lists_of_128_bit_integers_are_arrays_of_numbers():
    for kind in (pl.List(pl.Int128), pl.Array(pl.Int128, 2)):
        table = pl.DataFrame({"m": pl.Series([[1, 2], [3, 4]], dtype=kind)})
        np.testing.assert_array_equal(read(table).columns["m"], [[1.0, 2.0], [3.0, 4.0]])
