"""Rows with a missing value are refused, or predicted as NaN when asked, and leave others alone."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import ranef as rf

RNG = np.random.default_rng(8)
N = 60
TABLE = pd.DataFrame(
    {
        "x": RNG.normal(size=N),
        "f": RNG.choice(["a", "b", "c"], N),
        "g": RNG.integers(0, 6, N),
        "t": RNG.gamma(5.0, size=N),
    },
    index=np.arange(N) + 100,
).assign(
    y=lambda d: d["x"] + RNG.normal(size=N),
    grade=lambda d: np.array(["low", "mid", "top"])[np.digitize(d["x"], [-0.5, 0.5])],
)


@pytest.fixture(scope="module")
def fit():
    model = rf.Model("weights(y, t) ~ x + f + (1 | g)")
    return model.fit(TABLE, draws=50, progress=False)


def rows(n=5):
    out = TABLE[["x", "f", "g"]].head(n).copy()
    out.loc[101, "x"] = np.nan
    out.loc[103, "f"] = None
    return out


def test_a_gap_is_refused_unless_it_is_to_be_kept(fit):
    with pytest.raises(rf.DataError, match=r"column 'x' is missing in 1 of 5.*missing='keep'"):
        fit.predict(rows())
    with pytest.raises(rf.OptionError, match="missing must be 'error' or 'keep', not 'drop'"):
        fit.predict(rows(), missing="drop")


def test_rows_with_gaps_are_nan_and_others_as_before(fit):
    whole = fit.predict(TABLE.head(5))
    kept = fit.predict(rows(), missing="keep")
    assert kept.columns.equals(whole.columns)
    assert kept.index.equals(whole.index)
    assert kept.index[kept.isna().all(axis=1)].tolist() == [101, 103]
    pd.testing.assert_frame_equal(kept.dropna(), whole.loc[[100, 102, 104]])
    pd.testing.assert_frame_equal(fit.predict(TABLE.head(5), missing="keep"), whole)
    polars = fit.predict(pl.from_pandas(rows()), missing="keep")
    assert polars["mean"].is_nan().to_list() == [False, True, False, True, False]
    without = fit.predict(rows().drop(columns="g").assign(x=np.nan), missing="keep", groups=None)
    assert without.shape == (5, 4)
    assert without.isna().all(axis=None)


def test_weights_are_needed_for_responses_alone(fit):
    table = rows().assign(t=[3.0, 4, np.nan, 5, 6])
    assert fit.predict(table, missing="keep")["mean"].isna().sum() == 2
    assert fit.predict(table, missing="keep", kind="response")["mean"].isna().sum() == 3


def test_a_new_level_in_a_row_with_a_gap_is_no_matter(fit):
    table = rows().assign(g=[0, 99, 0, 0, 0])
    assert fit.predict(table, missing="keep")["mean"].isna().sum() == 2
    with pytest.raises(rf.DataError, match="not seen in training"):
        fit.predict(table.assign(g=99), missing="keep")


@pytest.mark.long
def test_columns_of_categories_stay():
    fit = rf.Model("grade ~ x", family="cumulative").fit(TABLE, draws=20, progress=False)
    found = fit.predict(rows().assign(x=np.nan), missing="keep")
    assert list(found.columns) == list(fit.predict(TABLE.head(2)).columns)
    assert found.isna().all(axis=None)


GAPS = {
    "floats": [0.5, np.nan],
    "None": pd.Series([0.5, None], dtype=object),
    "NA": pd.Series([0.5, pd.NA], dtype=object),
    "nullable": pd.array([1, pd.NA], "Int64"),
    "polars nulls": pl.Series([0.5, None]),
    "polars NaN": pl.Series([0.5, float("nan")]),
    "masked": np.ma.masked_invalid([0.5, np.nan]),
}


@pytest.mark.parametrize("gap", GAPS.values(), ids=GAPS)
def test_a_response_with_a_gap_drops_its_row_and_is_counted(gap):
    if isinstance(gap, pl.Series):
        y = pl.concat([gap, pl.Series(np.arange(20.0))])
    elif isinstance(gap, np.ma.MaskedArray):
        y = np.ma.concatenate([gap, np.arange(20.0)])
    else:
        dtype = getattr(gap, "dtype", None)
        y = pd.Series([*gap, *range(20)], dtype=dtype)
    x = np.arange(22.0)
    table = pl.DataFrame({"x": x, "y": y}) if isinstance(y, pl.Series) else {"x": x, "y": y}
    rows = rf.Model("y ~ x").fit(table, draws=20, progress=False).rows
    assert (rows.read, rows.used, dict(rows.dropped)) == (22, 21, {"y": 1})


def test_an_infinite_response_is_refused():
    with pytest.raises(rf.DataError, match="row 2; remove or correct"):
        rf.Model("y ~ x").fit({"x": [1, 2, 3], "y": [1.0, np.inf, 2.0]}, progress=False)
