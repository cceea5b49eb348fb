"""The same table in any form gives the same columns, and levels stay as written."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
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


def test_a_column_of_arrays_is_written_as_parquet_and_not_as_csv(tmp_path):
    columns = {"m": np.arange(6.0).reshape(3, 2), "x": np.arange(3.0)}
    write(tmp_path / "t.parquet", columns)
    np.testing.assert_array_equal(read(tmp_path / "t.parquet").columns["m"], columns["m"])
    with pytest.raises(DataError, match="column 'm' holds an array in each row"):
        write(tmp_path / "t.csv", columns)
    assert [p.name for p in tmp_path.iterdir()] == ["t.parquet"]
