"""The same table in any form gives the same columns, and levels stay as written."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest

from ranef.data.tables import concatenate, from_arrays, read, scan_csv, write, write_csv
from ranef.errors import ColumnError, DataError, FileError, OptionError

NUMBERS = [1.5, 2.0, None, -4.0]
LEVELS = ["007", "7", "NA", "a b"]


def forms(folder):
    """One table in every form that is read."""
    frame = pd.DataFrame({"x": [1.5, 2.0, np.nan, -4.0], "g": LEVELS, "spare": 1})
    arrow = pa.table({"x": NUMBERS, "g": LEVELS, "spare": [1, 1, 1, 1]})
    frame.to_csv(folder / "t.csv", index=False)
    pyarrow.parquet.write_table(arrow, folder / "t.parquet")
    (folder / "parts").mkdir()
    pyarrow.parquet.write_table(arrow.slice(0, 2), folder / "parts" / "0.parquet")
    pyarrow.parquet.write_table(arrow.slice(2), folder / "parts" / "1.parquet")
    return {
        "pandas": frame,
        "pandas index": frame.set_index(pd.Index([9, 9, 1, 0])),
        "polars": pl.DataFrame({"x": NUMBERS, "g": LEVELS, "spare": 1}),
        "polars lazy": pl.LazyFrame({"x": NUMBERS, "g": LEVELS, "spare": 1}),
        "pyarrow": arrow,
        "dict": {"x": np.array([1.5, 2.0, np.nan, -4.0]), "g": np.array(LEVELS)},
        "csv": str(folder / "t.csv"),
        "parquet": folder / "t.parquet",
        "parquet folder": folder / "parts",
        "categorical": frame.assign(g=frame["g"].astype("category")),
    }


def test_every_form_gives_the_same_columns(tmp_path):
    for name, data in forms(tmp_path).items():
        frame = read(data, ["x", "g"])
        assert frame.n == 4, name
        np.testing.assert_array_equal(frame.numbers("x"), [1.5, 2.0, np.nan, -4.0], err_msg=name)
        levels = frame.levels("g")
        assert [levels.names[c] for c in levels.codes] == LEVELS, name


def test_ids_above_2_to_the_53_keep_their_last_digit(tmp_path):
    ids = [2**53 + 1, 2**53 + 2, 2**60 + 1]
    (tmp_path / "t.csv").write_text("g\n" + "\n".join(map(str, ids)) + "\n")
    for data in ({"g": np.array(ids)}, pd.DataFrame({"g": ids}), tmp_path / "t.csv"):
        assert list(read(data, ["g"]).levels("g").names) == [str(i) for i in ids]


def test_whole_floats_are_the_integers_they_stand_for_unless_digits_are_lost():
    assert list(read({"g": np.array([96370.0, 1.5])}).levels("g").names) == ["96370", "1.5"]
    with pytest.raises(DataError, match="of 2\\*\\*53 or more"):
        read({"g": np.array([2.0**60])}).levels("g")


def test_an_empty_cell_of_a_file_is_a_gap_and_na_a_level_unless_listed(tmp_path):
    (tmp_path / "t.csv").write_text("g,x\nNA,NA\n,1\nb,\n")
    frame = read(tmp_path / "t.csv", ["g", "x"])
    assert list(frame.is_missing("x")) == [True, False, True]
    assert list(frame.levels("g").codes < 0) == [False, True, False]
    listed = read(tmp_path / "t.csv", ["g"], missing=("NA",))
    assert list(listed.levels("g").codes < 0) == [True, True, False]


def test_text_where_a_number_is_needed_names_the_row(tmp_path):
    (tmp_path / "t.csv").write_text("x\n1\n2\nthree\n")
    with pytest.raises(DataError, match="column 'x' holds text.*'three' in row 3"):
        read(tmp_path / "t.csv", ["x"]).numbers("x")
    with pytest.raises(DataError, match="as C\\(x\\), for a factor"):
        read(pd.DataFrame({"x": ["1", "2"]})).numbers("x")


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.xlsx").write_text("")
    (tmp_path / "broken.parquet").write_text("not parquet")
    (tmp_path / "blank.csv").write_text("")
    (tmp_path / "twice.csv").write_text("x,x\n1,2\n")
    for name in ("absent.csv", "empty", "t.xlsx", "broken.parquet", "blank.csv"):
        with pytest.raises(FileError, match=name):
            read(tmp_path / name, ["x"])
    with pytest.raises(DataError, match="'x' twice"):
        read(tmp_path / "twice.csv", ["x"])
    with pytest.raises(ColumnError, match="'zp' is not in the table; did you mean 'zip'"):
        read({"zip": np.arange(3)}, ["zp"])
    with pytest.raises(OptionError, match="not int"):
        read(3)
    with pytest.raises(DataError, match="differ in length"):
        read({"a": np.arange(3), "b": np.arange(2)})
    with pytest.raises(DataError, match="'a' mixes .* int and str, such as 1 in row 1 and 'b'"):
        read({"a": np.array([1, "b"], dtype=object)})


def test_a_csv_file_survives_writing_and_scanning(tmp_path):
    table = {"x": np.arange(5.0), "g": np.array(["a", 'quo"te', "new\nline", "007", ""], object)}
    frame = from_arrays(table)
    write_csv(tmp_path / "t.csv", iter([frame, frame]))
    back = concatenate(list(scan_csv(tmp_path / "t.csv")))
    np.testing.assert_array_equal(back.numbers("x"), np.tile(np.arange(5.0), 2))
    levels = back.levels("g")
    assert [levels.names[c] for c in levels.codes[:4]] == list(table["g"][:4])
    assert not list(tmp_path.glob(".*partial"))


def test_a_write_that_is_interrupted_leaves_nothing(tmp_path):
    def frames():
        yield from_arrays({"x": np.arange(5.0)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(tmp_path / "t.csv", frames())
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("texts", [("True", "False"), ("TRUE", "FALSE"), ("true", "false")])
def test_true_and_false_in_a_csv_file_are_what_they_are_in_memory(texts, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"b,x\n{texts[0]},1\n{texts[1]},2\nNA,3\n,4\n")
    frame = read(path)
    assert frame.is_boolean("b")
    assert frame.levels("b").names.tolist() == ["True", "False"]
    assert frame.is_missing("b").tolist() == [False, False, True, True]
    np.testing.assert_array_equal(frame.numbers("b")[:2], [1, 0])


def test_a_column_of_other_texts_beside_true_and_false_is_one_of_texts(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("b\nTRUE\nFALSE\nperhaps\n")
    assert read(path).levels("b").names.tolist() == ["TRUE", "FALSE", "perhaps"]


def test_two_columns_of_one_name_matter_where_they_are_used():
    table = pd.DataFrame(np.ones((2, 4)), columns=["y", "x", "z", "z"])
    assert read(table, ["y", "x"]).n == 2
    with pytest.raises(DataError, match="the table has the column 'z' twice; rename one"):
        read(table, ["y", "z"])


def test_lists_of_128_bit_integers_are_arrays_of_numbers():
    for kind in (pl.List(pl.Int128), pl.Array(pl.Int128, 2)):
        table = pl.DataFrame({"m": pl.Series([[1, 2], [3, 4]], dtype=kind)})
        np.testing.assert_array_equal(read(table).columns["m"], [[1.0, 2.0], [3.0, 4.0]])


def test_a_column_of_arrays_is_written_as_parquet_and_not_as_csv(tmp_path):
    columns = {"m": np.arange(6.0).reshape(3, 2), "x": np.arange(3.0)}
    write(tmp_path / "t.parquet", columns)
    np.testing.assert_array_equal(read(tmp_path / "t.parquet").columns["m"], columns["m"])
    with pytest.raises(DataError, match="column 'm' holds an array in each row"):
        write(tmp_path / "t.csv", columns)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
