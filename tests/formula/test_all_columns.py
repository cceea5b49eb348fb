"""A dot stands for all columns that have no other part in the formula."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ranef as rf
from ranef.data.tables import column_names
from ranef.errors import FormulaError
from ranef.formula.formula import Formula

NAMES = ["y", "x", "odd name", "g", "f"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("y ~ .", "y ~ x + `odd name` + g + f"),
        ("y ~ . - x + (1 | g)", "y ~ x + `odd name` + f - x + (1 | g)"),
        ("log(y) ~ .*x", "log(y) ~ (x + `odd name` + g + f)*x"),
        ("y ~ x - .", "y ~ x - (x + `odd name` + g + f)"),
        ("y ~ (.)^2 + (1 | f/g)", "y ~ (x + `odd name`)^2 + (1 | f/g)"),
        ("y / x ~ (. | g)\nsigma ~ .", "y / x ~ (`odd name` + f | g)\nsigma ~ `odd name` + f"),
        ("y ~ . + s(x) + offset(f)", "y ~ `odd name` + g + s(x) + offset(f)"),
        ("y ~ mi(x) + .; mi(x) ~ .", "y ~ mi(x) + `odd name` + g + f; mi(x) ~ `odd name` + g + f"),
        ("y ~ .:x", "y ~ (x + `odd name` + g + f):x"),
    ],
)
def test_dots_are_written_out(text, written):
    assert Formula.parse(text).with_columns(NAMES).text == written


def test_a_formula_without_a_dot_stays_as_it_is():
    formula = Formula.parse("y ~ x + log.radon + I(x > .5)")
    assert formula.with_columns(NAMES) is formula


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("y ~ .", ["y"], "no other columns for this dot"),
        ("y ~ . + (1 | g)", ["y", "g"], "no other columns for this dot"),
        ("y ~ .", ["y", "a`b"], "the column 'a`b' cannot be written in a formula; rename it"),
        ("y ~ .", [f"column{i}" for i in range(3_000)], "stands for 3,000 columns"),
        ("y ~ .", ["y", *(f"c{i}" for i in range(1_500))], "more than 1000 terms"),
    ],
)
def test_dots_that_cannot_be_written_out_are_refused(text, names, message):
    with pytest.raises(FormulaError) as caught:
        Formula.parse(text).with_columns(names)
    assert message in str(caught.value)


@pytest.mark.parametrize("text", [". ~ x", "y ~ log(.)", "y ~ (1 | .)", "y ~ I(. > 1)", "y ~ s(.)"])
def test_a_dot_stands_where_terms_do(text):
    with pytest.raises(FormulaError):
        Formula.parse(text)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "y": rng.normal(size=40),
            "x": rng.normal(size=40),
            "f": rng.choice(["a", "b"], 40),
            "g": np.arange(40) % 5,
        }
    )


def test_fits_know_the_columns_of_their_table(table, tmp_path):
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    files = [tmp_path / "t.csv", str(tmp_path / "t.parquet")]
    forms = [table, pl.from_pandas(table), pl.from_pandas(table).lazy(), pa.table(table)]
    assert all(column_names(data) == list(table) for data in [*files, *forms, dict(table)])
    model = rf.Model("y ~ . + (1 | g)")
    assert set(model.priors_for(table)) >= {"x", "f"}
    for data in (table, files[0]):
        fit = model.fit(data, draws=20, progress=False)
        assert fit.program.formula.text == "y ~ x + f + (1 | g)"
        assert list(fit.fixef().index) == ["Intercept", "x", "f[b]"]
    again = rf.load(fit.save(tmp_path / "f.ranef"))
    rows = table.drop(columns="y").assign(more=1)
    np.testing.assert_array_equal(again.predict(rows)["mean"], fit.predict(rows)["mean"])


def test_data_that_is_no_table_is_refused_by_its_own_sentence(tmp_path):
    with pytest.raises(rf.RanefError, match="there is no file or folder"):
        rf.Model("y ~ .").fit(tmp_path / "none.csv", progress=False)
    with pytest.raises(rf.RanefError, match="data must be a pandas, polars or pyarrow table"):
        rf.Model("y ~ .").fit(3, progress=False)
