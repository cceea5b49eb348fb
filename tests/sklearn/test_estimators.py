"""The estimators say what `rf.Model` says, and refuse in sentences what they cannot use."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression

import ranef as rf
from ranef.sklearn import MixedClassifier, MixedRegressor


@pytest.fixture(scope="module")
def table():
    """120 rows of 8 groups, drawn with a slope of 2."""
    rng = np.random.default_rng(3)
    g = np.arange(120) % 8
    x = rng.normal(size=120)
    y = 1 + 2 * x + rng.normal(0, 1.5, 8)[g] + rng.normal(size=120)
    columns = {"x": x, "zip code": np.array(list("abcdefgh"))[g], "w": rng.uniform(0.5, 2, 120)}
    return pd.DataFrame({**columns, "y": y, "count": rng.poisson(2.0, 120)})


@pytest.fixture(scope="module")
def X(table):
    return table[["x", "zip code"]]


@pytest.fixture(scope="module")
def fitted(table, X):
    return MixedRegressor("~ x + (1 | `zip code`)", draws=200).fit(X, table["y"])


@pytest.fixture(scope="module")
def model(table):
    formula = "y ~ x + (1 | `zip code`)"
    return rf.Model(formula).fit(table, draws=200, progress=False)


def test_a_regressor_predicts_what_the_model_predicts(fitted, model, table, X):
    known = model.predict(table)
    mean, sd = fitted.predict(X, return_std=True)
    np.testing.assert_allclose(mean, known["mean"], rtol=1e-12)
    # The sd of a new response is that of its mean and sigma together.
    sigma2 = float((model.posterior["sigma"] ** 2).mean())
    np.testing.assert_allclose(sd**2, known["sd"] ** 2 + sigma2, rtol=0.05)
    bounds = fitted.predict_interval(X, interval=0.8)
    assert np.mean((bounds[:, 0] < table["y"]) & (table["y"] < bounds[:, 1])) == pytest.approx(
        0.8, abs=0.12
    )
    residual = table["y"] - mean
    r2 = 1 - (residual**2).sum() / ((table["y"] - table["y"].mean()) ** 2).sum()
    assert fitted.score(X, table["y"]) == pytest.approx(r2)
    assert fitted.formula_ == "y ~ x + (1 | `zip code`)"
    assert list(fitted.feature_names_in_) == ["x", "zip code"]


def test_groups_are_a_column_or_are_passed_beside(fitted, table, X):
    by_column = MixedRegressor(groups="zip code", draws=200).fit(X, table["y"])
    beside = MixedRegressor(draws=200).fit(X[["x"]], table["y"], groups=table["zip code"])
    sloped = MixedRegressor("~ x + (1 | groups)", draws=200)
    sloped.fit(X[["x"]], table["y"], groups=table["zip code"])
    expected = fitted.predict(X)
    np.testing.assert_allclose(by_column.predict(X), expected, rtol=1e-9)
    for estimator in (beside, sloped):
        found = estimator.predict(X[["x"]], groups=table["zip code"])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.long
def test_without_groups_predictions_are_at_the_population_level(model, table, X):
    beside = MixedRegressor(draws=200).fit(X[["x"]], table["y"], groups=table["zip code"])
    known = model.predict(table[["x"]], groups=None)["mean"]
    np.testing.assert_allclose(beside.predict(X[["x"]]), known, rtol=1e-9)


@pytest.mark.long
def test_a_polars_table_and_an_array_do_as_well(fitted, table, X):
    of_polars = MixedRegressor("~ x + (1 | `zip code`)", draws=200)
    of_polars.fit(pl.from_pandas(X), table["y"].to_numpy())
    np.testing.assert_allclose(of_polars.predict(pl.from_pandas(X)), fitted.predict(X))
    array = table[["x", "w"]].to_numpy()
    plain = MixedRegressor(draws=200).fit(array, table["y"])
    assert plain.formula_ == "y ~ x0 + x1"
    # Default priors are weak: the posterior means are close to least squares.
    least_squares = LinearRegression().fit(array, table["y"]).predict(array)
    np.testing.assert_allclose(plain.predict(array), least_squares, atol=0.05)


@pytest.mark.long
def test_weights_of_a_gaussian_are_precisions(table, X):
    formula = "y ~ x + (1 | `zip code`)"
    weighted = MixedRegressor(formula, draws=200).fit(X, table["y"], sample_weight=table["w"])
    known = rf.Model("weights(y, w) ~ x + (1 | `zip code`)").fit(table, draws=200, progress=False)
    assert weighted.formula_ == "weights(y, sample_weight) ~ x + (1 | `zip code`)"
    np.testing.assert_allclose(weighted.predict(X), known.predict(table)["mean"], rtol=1e-9)
    # A new response is one of weight one.
    alone = table.assign(w=1.0)
    sd = known.predict(alone, kind="response")["sd"]
    np.testing.assert_allclose(weighted.predict(X, return_std=True)[1], sd, rtol=1e-9)


@pytest.mark.long
def test_weights_of_counts_say_how_often_a_row_counts(table, X):
    times = np.arange(len(table)) % 3
    estimator = MixedRegressor("~ x", family="poisson", draws=200)
    weighted = estimator.fit(X, table["count"], sample_weight=times).predict(X)
    again = np.repeat(np.arange(len(table)), times)
    repeated = estimator.fit(X.iloc[again], table["count"].iloc[again]).predict(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


@pytest.mark.long
def test_a_classifier_of_two_classes(table, X):
    said = np.where(table["y"] > 1, "up", "down")
    found = MixedClassifier("~ x + (1 | `zip code`)", draws=200).fit(X, said)
    assert list(found.classes_) == ["down", "up"]
    known = rf.Model("said ~ x + (1 | `zip code`)", family="bernoulli").fit(
        table.assign(said=said), draws=200, progress=False
    )
    p = found.predict_proba(X)
    np.testing.assert_allclose(p[:, 1], known.predict(table)["mean"], rtol=1e-9)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert found.score(X, said) == np.mean(np.where(p[:, 1] > 0.5, "up", "down") == said)


@pytest.mark.long
@pytest.mark.parametrize("family", ["auto", "ordinal"])
def test_a_classifier_of_more_classes(table, family):
    # Labels whose order as texts would be another one.
    labels = np.array([2, 9, 10])[np.digitize(table["y"], [0.0, 2.0])]
    columns = table[["x", "w"]]
    found = MixedClassifier(family=family, draws=200).fit(columns, labels)
    assert found.classes_.tolist() == [2, 9, 10]
    p = found.predict_proba(columns)
    assert np.array_equal(found.predict(columns), found.classes_[p.argmax(axis=1)])
    logistic = LogisticRegression(C=100).fit(columns, labels).predict_proba(columns)
    assert np.abs(p - logistic).mean() < 0.05


def test_new_levels_are_sampled_or_zero_or_refused(fitted, X):
    unseen = X.assign(**{"zip code": "new"}).head(3)
    population = fitted.fit_.predict(unseen, groups=None)["mean"]
    zero = MixedRegressor(**{**fitted.get_params(), "new_levels": "zero"})
    zero.__dict__.update({name: value for name, value in vars(fitted).items() if name[-1] == "_"})
    np.testing.assert_allclose(zero.predict(unseen), population)
    assert np.abs(fitted.predict(unseen) - population).max() < 0.5
    assert (fitted.predict(unseen, return_std=True)[1] > 1.5).all()
    zero.set_params(new_levels="error")
    with pytest.raises(rf.DataError, match="the level 'new', not seen in training"):
        zero.predict(unseen)


@pytest.mark.long
def test_a_response_that_the_columns_fit_exactly_has_a_small_sigma(table):
    columns = table[["x", "w"]]
    y = 3 * table["x"] - table["w"]
    with pytest.warns(UserWarning, match="the columns fit y exactly, so sigma is fixed at"):
        exact = MixedRegressor(draws=50).fit(columns, y)
    np.testing.assert_allclose(exact.predict(columns), y, atol=0.01)
    with pytest.warns(UserWarning, match="the columns fit y exactly"):
        wide = MixedRegressor(draws=50).fit(np.random.default_rng(0).normal(size=(5, 9)), y[:5])
    assert np.isfinite(wide.predict(np.zeros((1, 9)))).all()


@pytest.mark.parametrize(
    ("arguments", "fitting", "message"),
    [
        ({"formula": "log(y) ~ x"}, {}, "must be a column for the y that fit() is given"),
        ({"formula": "y / w ~ x"}, {}, "must be a column for the y that fit() is given"),
        ({"formula": 3}, {}, "formula must be a text such as"),
        ({"formula": "~ x", "groups": "x"}, {}, "leave out the argument groups"),
        ({"groups": "zip"}, {}, "the grouping 'zip' is no column of X; known are: x, zip code, w"),
        ({"family": "bernoulli"}, {}, "use ranef.sklearn.MixedClassifier"),
        ({"formula": "~ x + zap"}, {}, "column 'zap' is not in the table"),
        ({"formula": "~ x"}, {"groups": np.zeros(120)}, "which the formula does not use"),
        ({}, {"groups": np.zeros(7)}, "groups has 7 values for 120 rows"),
        ({}, {"groups": np.zeros((120, 2))}, "groups must be one value for each row"),
        ({"family": 3}, {}, "a family is given by its name"),
        ({}, {"sample_weight": -np.ones(120)}, "sample_weight is -1.0 in row 1"),
        ({}, {"sample_weight": np.ones(3)}, "sample_weight has the shape (3,) for 120 rows"),
        (
            {"formula": "weights(y, w) ~ x"},
            {"sample_weight": np.ones(120)},
            "the formula has weights() on its left side, so leave out sample_weight",
        ),
    ],
)
def test_what_a_regressor_refuses(table, arguments, fitting, message):
    with pytest.raises(rf.RanefError) as caught:
        MixedRegressor(**arguments).fit(table[["x", "zip code", "w"]], table["y"], **fitting)
    assert message in str(caught.value)


def test_what_estimators_refuse_of_rows(table, fitted):
    with pytest.raises(rf.OptionError, match=r"not a dict; write pandas.DataFrame\(X\)"):
        MixedRegressor().fit({"x": table["x"]}, table["y"])
    with pytest.raises(rf.DataError, match="X is an array with texts; pass a table"):
        MixedRegressor().fit(table[["zip code"]].to_numpy(), table["y"])
    with pytest.raises(TypeError, match="Sparse data was passed"):
        MixedRegressor().fit(sparse.csr_array(np.eye(4)), np.arange(4))
    with pytest.raises(rf.OptionError, match="fit\\(\\) was not; leave them out"):
        fitted.predict(table[["x", "zip code"]], groups=np.zeros(120))
    with pytest.raises(rf.DataError, match="y has one class, 'a'"):
        MixedClassifier().fit(table[["x"]], ["a"] * 120)
    with pytest.raises(rf.DataError, match="y has classes that cannot be sorted"):
        MixedClassifier().fit(table[["x"]], np.array(["a", None] * 60, dtype=object))
    with pytest.raises(rf.DataError, match="y holds texts, and a regressor takes numbers"):
        MixedRegressor().fit(table[["x"]], table["zip code"])
    with pytest.raises(rf.DataError, match="X has the column 'x' twice"):
        MixedRegressor().fit(table[["x", "x"]], table["y"])
    with pytest.raises(rf.DataError, match="X has no rows"):
        fitted.predict(table[["x", "zip code"]].head(0))
    with pytest.raises(rf.OptionError, match="y has 3 classes, and the family 'bernoulli'"):
        MixedClassifier(family="bernoulli").fit(table[["x"]], np.arange(120) % 3)
    with pytest.raises(rf.OptionError, match="MixedRegressor takes the others"):
        MixedClassifier(family="poisson").fit(table[["x"]], np.arange(120) % 3)
    with pytest.raises(rf.DataError, match=r"sample_weight is 0.5 in row 1; for this family"):
        MixedClassifier().fit(table[["x"]], np.arange(120) % 2, sample_weight=np.full(120, 0.5))


def test_two_responses_may_have_the_name_of_a_column(table):
    """Without a left side, a column called y is a column like any other."""
    columns = table[["x", "y"]]
    found = MixedRegressor(draws=50).fit(columns, table["w"])
    assert found.formula_ == "y_ ~ x + y"
    assert MixedRegressor("~ x", draws=50).fit(columns, table["w"]).formula_ == "y_ ~ x"
