"""K-fold cross-validation and updated fits, held against dense algebra and fits made by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import ranef as rf
from ranef.storage.fit_file import _AbsentRows

RNG = np.random.default_rng(8)
N = 60
G = np.repeat(np.arange(6), 10)
X = RNG.normal(size=N)
TABLE = pd.DataFrame(
    {
        "y": 1 + 0.5 * X + RNG.normal(size=N),
        "x": X,
        "f": np.array(["a", "b"])[np.arange(N) % 2],
        "g": [f"g{j}" for j in G],
        "half": np.arange(N) % 2,
    },
    index=np.arange(N) + 100,
)
PRIORS = {"Intercept": rf.Normal(0, 5), "x": rf.Normal(0, 5), "sigma": 1.0}


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ x", priors=PRIORS).fit(TABLE, draws=4000, progress=False)


def test_folds_against_dense_algebra(fit):
    """Given the other fold, y_i ~ N(x_i'm, 1 + x_i'Vx_i) under normal priors and a known sigma."""
    found = fit.kfold(folds="half", data=TABLE)
    columns, y = np.column_stack([np.ones(N), X]), TABLE["y"].to_numpy()
    expected = np.empty(N)
    for half in (0, 1):
        train, out = (np.asarray(TABLE["half"] != half), np.asarray(TABLE["half"] == half))
        precision = columns[train].T @ columns[train] + np.eye(2) / 25
        mean = np.linalg.solve(precision, columns[train].T @ y[train])
        own = columns[out]
        sd = np.sqrt(1 + (own * np.linalg.solve(precision, own.T).T).sum(axis=1))
        expected[out] = norm.logpdf(y[out], own @ mean, sd)
    np.testing.assert_allclose(found.pointwise["elpd"], expected, atol=0.05)
    assert found.elpd == pytest.approx(expected.sum(), abs=0.2)
    assert found.se == pytest.approx(np.sqrt(N) * expected.std(ddof=1), rel=0.02)
    assert list(found.pointwise.index) == list(TABLE.index)
    assert list(found.pointwise["fold"]) == [*TABLE["half"] + 1]
    assert "60 rows in 2 folds" in str(found)


def folds(fit, **how):
    return fit.fold_of_rows(**{"k": 4, "data": TABLE, **how})


def test_folds_are_of_one_size_and_keep_levels_together(fit):
    at_random = folds(fit)
    assert sorted(np.bincount(at_random)[1:]) == [15] * 4
    together = folds(fit, group="g")
    assert all(len(np.unique(together[j == G])) == 1 for j in range(6))
    assert sorted(np.bincount(together)[1:]) == [10, 10, 20, 20]
    assert len(np.unique(folds(fit, group="g", k=100))) == 6
    other = folds(fit, seed=1)
    assert not np.array_equal(at_random, other)
    words = np.array(["one", "two"])[np.arange(N) % 2]
    assert list(folds(fit, folds=words)[:3]) == [1, 2, 1]


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"k": 1}, rf.OptionError, "k must be a whole number of at least 2"),
        ({"k": 61}, rf.OptionError, "at most the number of rows, 60"),
        ({"group": "g"}, rf.ColumnError, "pass the table, as in fit.kfold(data=table)"),
        ({"group": "g", "folds": "half"}, rf.OptionError, "group= or folds=, not both"),
        ({"folds": [1, 2]}, rf.OptionError, "one value for each of the 60 rows"),
        ({"folds": np.ones(N)}, rf.OptionError, "at least two folds"),
        ({"folds": np.where(X > 0, 1, np.nan)}, rf.OptionError, "must not be missing"),
        ({"data": TABLE.head(9)}, rf.DataError, "the table that was fitted"),
        ({"group": "no", "data": TABLE}, rf.ColumnError, "'no' is not in the table"),
    ],
)
def test_what_cannot_be_left_out_is_said(fit, how, error, said):
    with pytest.raises(error) as caught:
        fit.kfold(**how)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_level_in_one_fold_alone_is_said():
    rare = TABLE.assign(f=np.where(np.arange(N) < 2, "c", TABLE["f"]))
    fit = rf.Model("y ~ f", priors={"sigma": 1.0}).fit(rare, draws=50, progress=False)
    with pytest.raises(rf.DataError, match="fold 1 of 2 cannot be left out: the level 'c' of 'f'"):
        fit.kfold(folds=np.arange(N) >= 2)


def test_rows_that_were_dropped_have_no_fold(fit):
    gaps = TABLE.assign(x=TABLE["x"].where(np.arange(N) != 3))
    own = rf.Model("y ~ x", priors=PRIORS).fit(gaps, draws=50, progress=False)
    whole = own.fold_of_rows(folds=np.arange(N) % 3)
    np.testing.assert_array_equal(whole, 1 + np.delete(np.arange(N) % 3, 3))


def test_an_update_is_a_fit_of_the_new_model(fit):
    rows = TABLE.head(30)
    again = rf.Model("y ~ x", priors=PRIORS).fit(rows, draws=4000, progress=False)
    updated = fit.update(rows, progress=False)
    pd.testing.assert_frame_equal(updated.summary(), again.summary())
    more = fit.update(formula=". ~ . - x", priors={"sigma": 1.0}, draws=100, progress=False)
    assert more.program.formula.text == "y ~ x - x"
    assert list(more.fixef().index) == ["Intercept"]
    assert more.posterior.sizes["draw"] == 100
    assert list(more.loo().pointwise.index) == list(TABLE.index)
    counts = TABLE.assign(n=np.arange(N) % 4)
    poisson = fit.update(counts, "n ~ .", family="poisson", priors=None, progress=False)
    assert poisson.method == "laplace"


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"formula": ". ~ . + f"}, rf.ColumnError, "as in fit.update(table, '. ~ . + f')"),
        ({"steps": 3}, rf.OptionError, "'steps'"),
        ({"formula": "+"}, rf.FormulaError, "left ~ right"),
        ({"family": "norm"}, rf.OptionError, "norm"),
    ],
)
def test_an_update_that_cannot_be_is_said(fit, how, error, said):
    with pytest.raises(error) as caught:
        fit.update(**how)
    assert said in str(caught.value)


def test_the_rows_of_a_sample_are_not_taken_for_all(fit):
    from dataclasses import replace

    part = replace(fit.training, sample=fit.training.sample.take(np.arange(5)))
    with pytest.raises(rf.OptionError, match="has kept 5 of its 60 rows"):
        replace(fit, training=part).kfold()
    batches = replace(fit, training=replace(fit.training, stream=_AbsentRows("rows.parquet")))
    for call in (batches.kfold, batches.update, batches.sensitivity):
        with pytest.raises(rf.OptionError, match="has read its rows in batches"):
            call()


@pytest.mark.long
def test_options_are_those_of_the_fit_and_are_saved(tmp_path):
    import optax

    model = rf.Model("y ~ x", priors=PRIORS)
    fit = model.fit(
        TABLE, method="svi", steps=20, optimizer=optax.adam(0.01), draws=20, progress=False
    )
    assert fit._options()["steps"] == 20
    assert fit.update(progress=False).steps == 20
    later = rf.load(fit.save(tmp_path / "kept.ranef"))
    with pytest.raises(rf.OptionError, match=r"does not hold the optimizer"):
        later.update(progress=False)
    assert later.update(optimizer=optax.adam(0.02), progress=False).steps == 20


@pytest.mark.long
def test_a_network_starts_as_it_began_and_keeps_its_weights():
    import keras

    keras.utils.set_random_seed(1)
    layers = [keras.layers.Input((1,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    network = keras.Sequential(layers)
    formula, networks = "y ~ nn(x, net=f)", {"f": network}
    fit = rf.Model(formula, networks=networks).fit(TABLE, steps=60, draws=50, progress=False)
    before = [np.array(w.value) for w in network.weights]
    first = fit.kfold(2).elpd
    for a, b in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(a, b.value)
    assert fit.kfold(2).elpd == first
    again = fit.update(progress=False)
    np.testing.assert_array_equal(again.predict(TABLE)["mean"], fit.predict(TABLE)["mean"])
