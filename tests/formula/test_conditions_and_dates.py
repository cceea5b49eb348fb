"""Conditions in I(), and dates in days(), are what they are in R."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ranef as rf
from ranef.data.tables import read
from ranef.errors import DataError, FormulaError
from ranef.formula import transforms
from ranef.formula.formula import Formula

TABLE = {
    "x": np.array([1.0, 2.0, 3.0, np.nan]),
    "z": np.array([5.0, 1.0, 0.0, 2.0]),
    "f": np.array(["a", "b", "a", "b"]),
    "b": np.array([True, False, False, True]),
}


def value(text, table=TABLE):
    (term,) = Formula.parse(f"y ~ 0 + {text}").predictors[""]
    expression = term.arguments[0][0]
    known = pd.DataFrame(table).iloc[:3] if table is TABLE else table
    return str(expression), transforms.evaluate(expression, read(known), {})


@pytest.mark.parametrize(
    ("text", "written", "expected"),
    [
        ("I((x > 1) & (z < 1))", "I((x > 1) & (z < 1))", [0, 0, 1]),
        ("I(x > 1 & z < 1)", "I((x > 1) & (z < 1))", [0, 0, 1]),
        ("I(x > 2 | z > 4)", "I((x > 2) | (z > 4))", [1, 0, 1]),
        ("I(x > 2 || z > 4)", "I((x > 2) || (z > 4))", [1, 0, 1]),
        ("I(f == 'a' & !b)", "I((f == 'a') & (!b))", [0, 0, 1]),
        ("I(!(x > 1))", "I(!(x > 1))", [1, 0, 0]),
        ("I(!x > 1)", "I(!(x > 1))", [1, 0, 0]),
        ("I(x > 0 & x > 1 & x > 2)", "I((x > 0) & (x > 1) & (x > 2))", [0, 0, 1]),
        ("I(x > 2 | x > 1 & z > 4)", "I((x > 2) | ((x > 1) & (z > 4)))", [0, 0, 1]),
        ("I(x & z)", "I(x & z)", [1, 1, 0]),
    ],
)
def test_conditions_are_ones_and_zeros(text, written, expected):
    name, found = value(text)
    assert name == written
    np.testing.assert_array_equal(found, expected)
    # The text of an expression is read as that expression again.
    assert value(name)[0] == name


def test_a_gap_is_neither_true_nor_false():
    (term,) = Formula.parse("y ~ 0 + I(!(x > 1) | z > 0)").predictors[""]
    with pytest.raises(DataError, match="is not a finite number in 1 of 4 rows"):
        transforms.evaluate(term.arguments[0][0], read(TABLE), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("y ~ (x > 1 & z < 2)", "write the condition in I()"),
        ("y ~ (!x)", "write the condition in I(), as in I(!x)"),
        ("y ~ log(x & z)", "write the condition in I()"),
        ("y ~ (x > 1) & (z < 2)", "write conditions in I()"),
        ("y ~ I(!!x)", "'!' is not expected here"),
        ("y ~ s(x | z)", "cannot stand inside a function"),
        ("y ~ days(log(d))", "takes one column of dates by its name"),
        ("y ~ days(d, since='2024-02-30')", "names no date"),
        ("y ~ days(d, from='2024-02-01')", "no option 'from'; it takes since"),
    ],
)
def test_what_is_no_condition_or_date_is_refused(text, message):
    with pytest.raises(FormulaError) as caught:
        Formula.parse(text)
    assert message in str(caught.value)


TIMES = ["2024-03-01", "1969-12-31 18:00", "2024-02-29 12:00:00"]
DAYS = [19_783.0, -0.25, 19_782.5]
WRITTEN = {
    "texts": np.array(TIMES),
    "pandas": pd.to_datetime(pd.Series(TIMES), format="ISO8601"),
    "nanoseconds": pd.to_datetime(pd.Series(TIMES), format="ISO8601").astype("datetime64[ns]"),
    "a zone": pd.to_datetime(pd.Series(TIMES), format="ISO8601")
    .dt.tz_localize("UTC")
    .dt.tz_convert("Asia/Tokyo"),
    "categories": pd.Categorical(TIMES),
    "polars": pl.Series(
        [dt.datetime(2024, 3, 1), dt.datetime(1969, 12, 31, 18), dt.datetime(2024, 2, 29, 12)]
    ),
    "durations": pd.Series(pd.to_timedelta(DAYS, unit="D")),
}


@pytest.mark.parametrize("values", WRITTEN.values(), ids=WRITTEN)
def test_dates_are_days_whatever_their_type(values):
    assert value("days(d)", {"d": values})[1].tolist() == DAYS
    since = value("days(d, since='2024-03-01')", {"d": values})
    assert since[0] == "days(d, since='2024-03-01')"
    np.testing.assert_allclose(since[1], np.array(DAYS) - 19_783)
    days = pa.array([dt.date(2024, 3, 1), None], pa.date32())
    assert read(pa.table({"d": days})).days("d").tolist()[0] == 19_783


@pytest.mark.long
def test_new_rows_count_from_the_same_day(tmp_path):
    rng = np.random.default_rng(2)
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 60, 80), unit="D")
    table = pd.DataFrame({"day": day, "x": rng.normal(size=80), "y": rng.normal(size=80)})
    table.loc[3, "day"] = pd.NaT
    spelled = table.assign(day=table["day"].dt.strftime("%Y-%m-%d").where(table["day"].notna()))
    table.to_csv(tmp_path / "t.csv", index=False)
    rows = table.dropna().iloc[[40, 5]]
    found = []
    for data in (table, spelled, tmp_path / "t.csv"):
        fit = rf.Model("y ~ x + poly(days(day), 2) + s(days(day), k=5)").fit(
            data, draws=20, progress=False
        )
        assert fit.rows.dropped == {"day": 1}
        alone = fit.predict(rows.iloc[1:])["mean"].to_numpy()
        found.append(fit.predict(rows)["mean"].to_numpy())
        np.testing.assert_allclose(alone, found[-1][1:], rtol=1e-6)
    effects = fit.extend("partial_effects")["partial_effects"]
    assert set(effects.data_vars) == {"x", "day"}
    points = effects["day_point"].to_numpy()
    assert points.dtype.kind == "M"
    assert table["day"].min() <= points[0] < points[-1] <= table["day"].max()
    rf.plots.partial_effects(fit)
    np.testing.assert_allclose(found[1:], found[:1] * np.ones((2, 1)), rtol=1e-10)


def test_a_date_where_a_number_is_needed_says_what_to_write():
    times = pd.date_range("2024-01-01", periods=30)
    table = pd.DataFrame({"d": times, "y": np.arange(30.0), "t": times.strftime("%Y-%m-%d")})
    with pytest.raises(DataError, match=r"write days\(d\) for the number of days, or C\(d\)"):
        rf.Model("y ~ d").fit(table, progress=False)
    with pytest.raises(DataError, match=r"dates written as text.*write days\(t\)"):
        rf.Model("y ~ t").fit(table, progress=False)
    with pytest.raises(DataError, match="'soon' in row 2, which is no date"):
        rf.Model("y ~ days(d)").fit({"d": ["2024-01-01", "soon"], "y": [1, 2]}, progress=False)
    with pytest.raises(DataError, match=r"holds double, and days\(\) takes dates"):
        rf.Model("y ~ days(y)").fit(table, progress=False)
