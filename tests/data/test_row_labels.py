"""Answers about rows come back under the labels that the rows came with."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet
import pytest

import ranef as rf

N = 48
RNG = np.random.default_rng(7)
G = np.repeat(np.arange(6), 8) + 3
X = RNG.normal(size=N)
TABLE = pd.DataFrame({"y": X + G + RNG.normal(size=N), "x": X, "g": G})
INDICES = {
    "sorted": TABLE.sort_values("x").index,
    "reversed": pd.RangeIndex(N, 0, -1, name="id"),
    "text": pd.Index([f"row {i}" for i in range(N)], name="id"),
    "dates": pd.date_range("2024-01-01", periods=N, tz="Europe/Vienna"),
    "duplicates": pd.Index([1, 1, 2] * (N // 3)),
    "floats": pd.Index([np.nan, *np.arange(N - 1) / 2]),
    "several": pd.MultiIndex.from_product([list("ab"), range(N // 2)], names=["u", None]),
    "categories": pd.CategoricalIndex(list("ab") * (N // 2)),
    "mixed": pd.Index([1, "a"] * (N // 2), dtype=object),
    "intervals": pd.interval_range(0, N),
}


def assert_same_index(own, other):
    assert own.equals(other)
    assert own.names == other.names
    assert own.dtype == other.dtype


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ x + (1 | g)").fit(TABLE, draws=100, progress=False)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_predictions_and_scores_have_the_index_that_came_in(fit, index):
    table = TABLE.set_axis(index)
    plain = fit.predict(TABLE)
    for kind in ("mean", "response"):
        found = fit.predict(table, kind=kind)
        assert_same_index(found.index, index)
        np.testing.assert_array_equal(found, fit.predict(TABLE, kind=kind))
    pd.testing.assert_series_equal(fit.predict(table)["mean"], plain["mean"].set_axis(index))
    scores = fit.log_score(table)
    assert_same_index(scores.index, index)
    np.testing.assert_array_equal(scores, fit.log_score(TABLE))


def test_a_column_of_predictions_lines_up_with_a_sorted_table(fit):
    rows = TABLE.sort_values("x")
    rows["pred"] = fit.predict(rows)["mean"]
    np.testing.assert_array_equal(rows.sort_index()["pred"], fit.predict(TABLE)["mean"])
    part = TABLE[TABLE["x"] > 0]
    assert fit.predict(part).index.equals(part.index)


def test_a_table_of_polars_gives_one(fit):
    table = pl.from_pandas(TABLE)
    for data in (table, table.lazy()):
        found = fit.predict(data)
        assert isinstance(found, pl.DataFrame)
        assert found.columns == ["mean", "sd", "lower", "upper"]
        np.testing.assert_array_equal(found, fit.predict(TABLE))
    scores = fit.log_score(table)
    assert isinstance(scores, pl.Series)
    assert scores.name == "log_score"
    np.testing.assert_array_equal(scores, fit.log_score(TABLE))


def test_rows_of_anything_else_are_numbered(fit, tmp_path):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    arrow = pa.Table.from_pandas(TABLE, preserve_index=False)
    for data in (dict(TABLE), arrow, tmp_path / "t.csv"):
        assert fit.predict(data).index.equals(pd.RangeIndex(N))
        assert isinstance(fit.log_score(data), np.ndarray)


LEVELS = {
    "integers": (G, "int64"),
    "small integers": (G.astype(np.int16), "int16"),
    "floats": (G / 2, "float64"),
    "nullable": (pd.array(G, "Int64"), "int64"),
    "unsigned": (G.astype("uint64") + np.uint64(2**63), "uint64"),
    "booleans": (G > 5, "bool"),
    "dates": (pd.Timestamp("2024-01-01") + pd.to_timedelta(G, unit="D"), "datetime64[us]"),
    "text": (np.array([f"00{g}" for g in G]), "str"),
    "integers as text": (G.astype(str), "str"),
    "categories": (pd.Categorical([f"c{g}" for g in G]), "str"),
    "categories of integers": (pd.Categorical(G), "int64"),
}


@pytest.mark.parametrize(("values", "dtype"), LEVELS.values(), ids=LEVELS)
def test_levels_have_the_type_of_their_column(values, dtype, tmp_path):
    table = TABLE.assign(g=values)
    fit = rf.Model("y ~ x + (1 + x | g)").fit(table, draws=50, progress=False)
    found = fit.ranef("g")
    assert found.index.name == "g"
    assert str(found.index.dtype) == dtype
    assert set(found.index) == set(np.asarray(values))
    first = table["g"].iloc[0]
    assert list(found.loc[found.index == first, "term"]) == ["1", "x"]
    saved = rf.load(fit.save(tmp_path / "f.ranef"))
    pd.testing.assert_frame_equal(saved.ranef("g"), found)
    assert fit.loo("g").pointwise.index.dtype == found.index.dtype


def test_levels_of_dates_and_decimals_and_of_columns_together():
    days = [dt.date(2024, 1, int(g)) for g in G]
    fit = rf.Model("y ~ x + (1 | g) + (1 | g:h)")
    table = TABLE.assign(g=pd.Series(days, dtype=object), h=np.arange(N) % 2)
    fit = fit.fit(table, draws=50, progress=False)
    assert fit.ranef("g").index[0] == dt.date(2024, 1, 3)
    assert fit.ranef("g:h").index[0] == "2024-01-03:0"


def test_levels_of_a_csv_file_are_text_as_written(tmp_path):
    TABLE.assign(g=[f"{g:03}" for g in G]).to_csv(tmp_path / "t.csv", index=False)
    fit = rf.Model("y ~ x + (1 | g)").fit(tmp_path / "t.csv", draws=50, progress=False)
    assert fit.ranef("g").index[0] == "003"


def test_levels_of_a_fit_of_polars(tmp_path):
    fit = rf.Model("y ~ x + (1 | g)").fit(pl.from_pandas(TABLE), draws=50, progress=False)
    for each in (fit, rf.load(fit.save(tmp_path / "f.ranef"))):
        found = each.ranef("g")
        assert found.columns == ["g", "term", "mean", "sd"]
        assert found["g"].to_list() == sorted(set(G.tolist()))
        assert each.loo().pointwise.columns == ["row", "elpd", "p", "k"]
        assert each.loo("g").pointwise["g"].to_list() == sorted(set(G.tolist()))
    own = rf.Model("y ~ x + (1 | g)").fit(TABLE, draws=50, progress=False)
    for group in (None, "g"):
        assert str(fit.loo(group)) == str(own.loo(group))
        assert fit.loo(group).bad == own.loo(group).bad
    assert rf.compare({"a": fit, "b": own}).loc["a", "elpd"] == own.loo().elpd


POLARS = {
    "integers": pl.Series(G, dtype=pl.Int32),
    "an Enum": pl.Series([f"c{g}" for g in G], dtype=pl.Enum([f"c{g}" for g in range(30, -1, -1)])),
    "a Categorical": pl.Series([f"c{g}" for g in G], dtype=pl.Categorical),
}


@pytest.mark.parametrize("values", POLARS.values(), ids=POLARS)
def test_effects_of_levels_join_the_table_of_polars(values, tmp_path):
    table = pl.from_pandas(TABLE).with_columns(g=values)
    fit = rf.Model("y ~ x + (1 | g)").fit(table, draws=50, progress=False)
    for each in (fit, rf.load(fit.save(tmp_path / "f.ranef"))):
        effects = each.ranef("g")
        assert effects["g"].dtype == values.dtype
        assert table.join(effects, on="g").height == N
    if isinstance(values.dtype, pl.Enum):  # the order of levels is the declared one
        found = [int(level[1:]) for level in effects["g"]]
        assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("kind", ["small integers", "nullable", "dates", "categories"])
def test_effects_of_levels_merge_with_the_table_of_pandas(kind):
    table = TABLE.assign(g=LEVELS[kind][0])
    effects = rf.Model("y ~ x + (1 | g)").fit(table, draws=50, progress=False).ranef("g")
    merged = table.merge(effects, left_on="g", right_index=True, how="left")
    assert merged["mean"].notna().all()
    first = table["g"].iloc[0]
    assert effects.loc[first, "mean"] == merged["mean"].iloc[0]


def test_levels_of_streamed_rows_have_their_type(monkeypatch, tmp_path):
    monkeypatch.setattr("ranef.data.parquet._LEAST", 10)
    monkeypatch.setattr("ranef.data.parquet._CELLS", 1)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(G, unit="D")
    pyarrow.parquet.write_table(pa.Table.from_pandas(TABLE.assign(day=day)), tmp_path / "t.parquet")
    model = rf.Model("y ~ x + (1 | g) + (1 | day)")
    fit = model.fit(tmp_path / "t.parquet", draws=50, progress=False)
    assert fit.training.stream is not None
    assert fit.ranef("g").index.dtype == "int64"
    assert fit.ranef("day").index.dtype.kind == "M"


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_training_rows_left_out_and_imputed_have_their_index(index, tmp_path):
    table = TABLE.set_axis(index)
    table.iloc[[5, 9], 1] = np.nan
    table.iloc[7, 0] = np.nan
    fit = rf.Model("y ~ mi(x)").fit(table, draws=50, steps=200, progress=False)
    found = fit.imputed("x")
    assert found["row"].tolist() == [5, 9]
    assert_same_index(found.index, index.take([5, 9]))
    used = np.delete(np.arange(N), 7)
    assert_same_index(fit.loo().pointwise.index, index.take(used))
    again = rf.load(fit.save(tmp_path / "f.ranef")).imputed("x")
    if INDICES["mixed"].equals(index) or INDICES["intervals"].equals(index):
        index = index.map(str)
    assert again.index.equals(index.take([5, 9]))
    assert again.index.names == index.names


def test_imputed_rows_of_other_tables():
    table = TABLE.assign(x=TABLE["x"].where(TABLE.index != 4))
    model, options = rf.Model("y ~ mi(x)"), {"draws": 50, "steps": 200, "progress": False}
    assert model.fit(table, **options).imputed("x").index.tolist() == [4]
    assert model.fit(dict(table), **options).imputed("x").index.tolist() == [0]
    assert model.fit(pl.from_pandas(table), **options).imputed("x")["row"].to_list() == [4]


def test_recommended_levels_have_their_types_and_rows_their_index():
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, 12, 400), rng.integers(0, 9, 400)
    taste = rng.normal(size=12)[user] * rng.normal(size=9)[item]
    shelf = np.array([f"0{i}" for i in range(9)])[item]
    table = pd.DataFrame({"y": taste + rng.normal(size=400), "user": user, "item": shelf})
    fit = rf.Model("y ~ mf(user, item, rank=2)").fit(table, draws=50, steps=200, progress=False)
    options = {"n": 2, "exclude_seen": False}
    for asked in ([3, 8], ["3", "8"], np.array([3, 8]), pd.Series([3, 8])):
        found = fit.recommend(asked, **options)
        assert found["user"].tolist() == [3, 3, 8, 8]
        assert found.index.equals(pd.RangeIndex(4))
    assert set(found["item"]) <= set(shelf)
    rows = pd.DataFrame({"user": [3, 8]}, index=["a", "b"])
    assert fit.recommend(rows, **options).index.tolist() == ["a", "a", "b", "b"]
    lazy = fit.recommend(pl.LazyFrame({"user": [3, 8]}), **options)
    assert isinstance(lazy, pl.DataFrame)
    assert lazy["user"].to_list() == [3, 3, 8, 8]
    back = fit.recommend({"item": ["03"]}, **options)
    assert back["user"].dtype == "int64"


def test_comparisons_on_rows_with_any_index():
    model = rf.Model("y ~ x")
    fits = {
        "a": model.fit(TABLE, progress=False),
        "b": rf.Model("y ~ 1").fit(TABLE, progress=False),
    }
    rows = TABLE.set_axis(INDICES["duplicates"])
    pd.testing.assert_frame_equal(rf.compare(fits, data=rows), rf.compare(fits, data=dict(TABLE)))
    rf.compare(fits, data=pl.from_pandas(TABLE))
