"""The order of categories that a table declares, and the one that it does not."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ranef.data.levels import LevelsSeen
from ranef.data.tables import read

ROWS = ["b", "a", "c", "a"]
ORDER = ["c", "unused", "b", "a"]
PLAIN = pd.DataFrame({"f": pd.Categorical(ROWS, ORDER)})
ORDERED = pd.DataFrame({"f": pd.Categorical(ROWS, ORDER, ordered=True)})


def order(table):
    found = read(table).levels("f")
    assert [found.names[c] for c in found.codes] == ROWS
    return LevelsSeen().add(found).ordered()


def stored(tmp_path, table):
    path = tmp_path / "table.parquet"
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    "table",
    [
        PLAIN,
        ORDERED,
        {"f": PLAIN["f"]},
        {"f": PLAIN["f"].array},
        {"f": pl.Series(ROWS, dtype=pl.Enum(ORDER))},
        pl.DataFrame({"f": pl.Series(ROWS, dtype=pl.Enum(ORDER))}),
        pa.Table.from_pandas(PLAIN),
        pa.Table.from_pandas(ORDERED),
        pa.table({"f": pa.DictionaryArray.from_arrays([2, 3, 0, 3], ORDER, ordered=True)}),
    ],
)
def test_declared_orders(table):
    assert order(table) == ("c", "b", "a")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"f": pa.array(ROWS).dictionary_encode()}),
        pl.DataFrame({"f": pl.Series(ROWS, dtype=pl.Categorical)}),
        {"f": np.array(ROWS)},
        pd.DataFrame({"f": ROWS}),
    ],
)
def test_the_order_in_which_rows_come_declares_nothing(table):
    assert order(table) == ("a", "b", "c")


@pytest.mark.parametrize("table", [PLAIN, ORDERED])
def test_files_that_pandas_and_polars_write_keep_the_order(table, tmp_path):
    path = tmp_path / "table.parquet"
    table.to_parquet(path, row_group_size=2)
    assert order(path) == ("c", "b", "a")
    pl.DataFrame({"f": pl.Series(ROWS, dtype=pl.Enum(ORDER))}).write_parquet(path)
    assert order(path) == ("c", "b", "a")


def test_a_file_of_arrow_alone_declares_nothing(tmp_path):
    table = pa.table({"f": pa.array(ROWS).dictionary_encode()})
    assert order(stored(tmp_path, table)) == ("a", "b", "c")


def test_chunks_of_different_categories_are_merged():
    chunks = [
        pa.DictionaryArray.from_arrays([0, 1], ["b", "a"], ordered=True),
        pa.DictionaryArray.from_arrays([0, 1], ["c", "a"], ordered=True),
    ]
    found = read(pa.table({"f": pa.chunked_array(chunks)})).levels("f")
    assert [found.names[c] for c in found.codes] == ["b", "a", "c", "a"]
    assert LevelsSeen().add(found).ordered() == ("b", "c", "a")


def test_whole_numbers_that_pandas_sorted_as_text_are_sorted_by_value():
    column = pd.Series(["10", "9", "1"]).astype("category")
    assert LevelsSeen().add(read({"f": column}).levels("f")).ordered() == ("1", "9", "10")
    told = pd.Series(pd.Categorical(["10", "9"], ["10", "9"], ordered=True))
    assert LevelsSeen().add(read({"f": told}).levels("f")).ordered() == ("10", "9")


def test_intervals_of_pandas_are_levels():
    column = pd.cut(pd.Series([1.0, 2.0, 3.0, 10.0]), [0, 2, 5, 20])
    found = read(pd.DataFrame({"f": column})).levels("f")
    assert LevelsSeen().add(found).ordered() == ("(0, 2]", "(2, 5]", "(5, 20]")
