"""Pipelines, searches, cross-validation by group and parallel jobs of scikit-learn."""

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ranef as rf
from ranef.sklearn import MixedClassifier, MixedRegressor


@pytest.fixture(scope="module")
def table():
    """160 rows of 8 groups, whose response depends on the square of x."""
    rng = np.random.default_rng(8)
    g = np.arange(160) % 8
    x = rng.uniform(-2, 2, 160)
    y = x + x**2 + rng.normal(0, 1, 8)[g] + rng.normal(0, 0.5, 160)
    return pd.DataFrame(
        {"x": x, "z": rng.normal(50, 9, 160), "g": np.array(list("abcdefgh"))[g], "y": y}
    )


@pytest.fixture(scope="module")
def X(table):
    return table[["x", "z", "g"]]


def test_a_clone_is_unfitted_and_has_the_same_parameters():
    priors = {"x": rf.Normal(0, 1)}
    first = MixedRegressor("~ x", priors=priors, new_levels="zero")
    again = clone(first)
    assert again.get_params() == first.get_params()
    assert again.priors is not priors
    assert not hasattr(again, "fit_")
    assert again.set_params(formula="~ z").formula == "~ z"


@pytest.mark.long
def test_a_pipeline_keeps_the_names_of_columns(table, X):
    scaled = ColumnTransformer(
        [("scale", StandardScaler(), ["x", "z"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    )
    estimator = MixedRegressor("~ x + z + (1 | g)", draws=100)
    pipeline = make_pipeline(scaled, estimator).set_output(transform="pandas")
    found = pipeline.fit(X, table["y"])
    assert list(found[-1].feature_names_in_) == ["x", "z", "g"]
    # The answer does not depend on the units of the columns.
    plain = clone(estimator).fit(X, table["y"])
    np.testing.assert_allclose(found.predict(X), plain.predict(X), rtol=1e-6)


@pytest.mark.long
def test_a_search_finds_the_formula_and_the_prior(table, X):
    grid = {
        "formula": ["~ x + (1 | g)", "~ x + I(x**2) + (1 | g)"],
        "priors": [None, {"x": rf.Normal(0, 0.01)}],
    }
    search = GridSearchCV(MixedRegressor(draws=100), grid, cv=3).fit(X, table["y"])
    assert search.best_params_ == {"formula": "~ x + I(x**2) + (1 | g)", "priors": None}
    assert search.best_score_ > 0.8


@pytest.mark.long
def test_groups_that_are_left_out_are_new_levels(table, X):
    scores = cross_val_score(
        MixedRegressor("~ x + I(x**2) + (1 | g)", draws=100),
        X,
        table["y"],
        groups=table["g"],
        cv=GroupKFold(4),
        scoring="neg_mean_squared_error",
    )
    # The sds are 1 between groups and .5 within.
    assert -2.5 < scores.mean() < -0.5


@pytest.mark.long
def test_groups_are_routed_to_the_estimator(table):
    columns, g = table[["x", "z"]], table["g"]
    with config_context(enable_metadata_routing=True):
        estimator = MixedRegressor("~ x + I(x**2) + (1 | groups)", draws=100)
        estimator.set_fit_request(groups=True).set_score_request(groups=True)
        routed = cross_validate(estimator, columns, table["y"], params={"groups": g}, cv=3)
        within = routed["test_score"].mean()
        estimator.set_score_request(groups=False)
        unrouted = cross_validate(estimator, columns, table["y"], params={"groups": g}, cv=3)
    assert within > unrouted["test_score"].mean() + 0.05


@pytest.mark.long
def test_jobs_in_other_processes_find_the_same(table, X):
    said = np.where(table["y"] > 1, "up", "down")
    estimator = MixedClassifier("~ x + (1 | g)", draws=50)
    one = cross_val_score(estimator, X, said, cv=2)
    two = cross_val_score(estimator, X, said, cv=2, n_jobs=2)
    np.testing.assert_array_equal(one, two)


@pytest.mark.long
def test_a_fitted_estimator_in_a_file_of_joblib(table, X, tmp_path):
    found = MixedRegressor("~ x + (1 | g)", draws=50).fit(X, table["y"])
    joblib.dump(found, tmp_path / "estimator.joblib")
    again = joblib.load(tmp_path / "estimator.joblib")
    np.testing.assert_array_equal(again.predict(X), found.predict(X))


@pytest.mark.long
def test_a_network_is_copied_by_every_fit(table):
    keras = pytest.importorskip("keras")
    network = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    before = [np.array(v.value) for v in network.variables]
    estimator = MixedRegressor(
        "~ nn(x, net=f) + (1 | g)", networks={"f": network}, draws=20, options={"steps": 50}
    )
    columns = table[["x", "g"]]
    first = estimator.fit(columns, table["y"]).predict(columns)
    again = estimator.fit(columns, table["y"]).predict(columns)
    np.testing.assert_array_equal(again, first)
    for old, variable in zip(before, network.variables, strict=True):
        np.testing.assert_array_equal(old, variable.value)
