"""Bad input gets a sentence of ours, and odd but good input the right answer."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import ranef as rf

N = 120
RNG = np.random.default_rng(8)
X = RNG.normal(size=N)
TABLE = {
    "x": X,
    "y": 1 + 3 * X + RNG.normal(size=N),
    "g": np.array(["a", "b", "c"] * (N // 3)),
    "f": np.array(["u", "v"] * (N // 2)),
    "s": np.full(N, 0.5),
}
# By the exact method where nothing says otherwise: most of what is odd here is a table.
QUICK = {"progress": False}
STEPS = {**QUICK, "method": "svi", "steps": 50}


def line(table):
    fit = rf.Model("y ~ x").fit(table, progress=False)
    return fit.converged, fit.summary()["mean"]


@pytest.mark.parametrize(("away", "unit"), [(0, 1), (1e9, 1), (0, 1e9), (0, 1e-9), (1e9, 1e3)])
def test_responses_and_predictors_of_any_scale(away, unit):
    """Moving and scaling both columns moves and scales the answer."""
    _, plain = line(TABLE)
    converged, moved = line({"x": away + unit * TABLE["x"], "y": away + unit * TABLE["y"]})
    assert converged
    assert moved["x"] == pytest.approx(plain["x"], rel=0.01)
    assert moved["sigma"] == pytest.approx(unit * plain["sigma"], rel=0.01)


def test_slopes_far_from_zero_are_held_about_their_mean():
    far = {**TABLE, "x": TABLE["x"] + 1e5}
    whole = rf.Model("y ~ x + (1 + x | g)").fit(far, **QUICK)
    assert np.isfinite(whole.predict(far)).all(axis=None)
    # A prior of the user's is about x = 0, and so are the coefficients then.
    given = rf.Model("y ~ x + (1 + x | g)", priors={"1|g_sigma": rf.HalfNormal(1.0)})
    with pytest.raises(rf.DataError, match=r"centre them, as in \(1 \+ center\(x\) \| g\)"):
        given.fit(far, **STEPS)
    near = rf.Model("y ~ x + (1 + center(x) | g)").fit(far, **QUICK)
    assert np.isfinite(near.predict(far)).all(axis=None)


def test_crossed_levels_with_colons_stay_apart():
    table = {
        **TABLE,
        "f": np.array(["a:b", "a", "q"] * (N // 3)),
        "h": np.array(["c", "b:c", "c"] * (N // 3)),
    }
    fit = rf.Model("y ~ x + (1 | f:h)").fit(table, **QUICK)
    assert sorted(fit.ranef("f:h").index) == ["`a:b`:c", "a:`b:c`", "q:c"]


def test_nan_among_texts_is_a_gap():
    table = {**TABLE, "g": ["a", float("nan"), "b"] * (N // 3)}
    fit = rf.Model("y ~ x + (1 | g)").fit(table, **QUICK)
    assert fit.rows.dropped == {"g": N // 3}


def test_declared_categories_are_factors():
    table = pd.DataFrame({**TABLE, "k": pd.Categorical([1, 2, 3] * (N // 3))})
    assert list(rf.Model("y ~ k").fit(table, **QUICK).fixef().index) == [
        *("Intercept", "k[2]", "k[3]")
    ]


def test_a_model_without_columns_predicts_every_row():
    fit = rf.Model("y ~ 1").fit(TABLE, **QUICK)
    for data in (TABLE, pd.DataFrame(TABLE), pl.DataFrame(TABLE)):
        assert len(fit.predict(data)) == N


def test_a_positive_prior_on_a_coefficient_is_fitted():
    fit = rf.Model("y ~ x", priors={"x": rf.HalfNormal(5)}).fit(TABLE, progress=False)
    assert fit.summary().loc["x", "mean"] == pytest.approx(3, abs=0.4)


def test_a_factor_can_be_a_point_estimate():
    fit = rf.Model("y ~ g", priors={"g": rf.PointEstimate()}).fit(TABLE, **STEPS)
    assert list(fit.summary().loc[["g[b]", "g[c]"], "kind"]) == ["point estimate"] * 2


def test_factors_can_vary_by_group():
    fit = rf.Model("y ~ x + (0 + C(f) | g)").fit(TABLE, **QUICK)
    assert "C(f)[u]|g_sigma" in fit.summary().index


def test_predictions_out_of_reach_are_refused():
    fit = rf.Model("y ~ x").fit(TABLE, **QUICK)
    with pytest.raises(rf.DataError, match="not a finite number"):
        fit.predict({"x": np.array([1e308])}, kind="response")


@pytest.mark.parametrize(
    ("formula", "changes"),
    [
        ("y ~ sigma", {"sigma": X}),
        ("y ~ Intercept", {"Intercept": X}),
        ("y ~ `log(x)` + log(s)+log(x)", {"log(x)": X}),
        ("y ~ `x:s` + x:s", {"x:s": X}),
        ("y ~ f + f_dim", {"f_dim": X}),
        ("y ~ (`1` | g)", {"1": X}),
    ],
)
def test_names_that_clash_are_refused(formula, changes):
    with pytest.raises(rf.RanefError, match="rename|named"):
        rf.Model(formula).fit({**TABLE, **changes}, **QUICK)


@pytest.mark.parametrize("name", ["sigma", "Intercept", "x"])
def test_the_response_may_have_any_name(name):
    table = {"z": X, name: TABLE["y"]}
    fit = rf.Model(f"{name} ~ z").fit(table, **STEPS)
    assert name in fit.idata["observed_data"]


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x^1e999",
        "y ~ nn(x, hidden=[1e999])",
        "y ~ nn(x, net=[a])",
        "y ~ I(poly(x, 2))",
        "poly(y, 2) ~ x",
        "y ~ offset(poly(x, 2))",
        "y ~ log(C(f))",
        "nn(y) ~ x",
        "y ~ common(x)",
        "se(y, s) ~ x; sigma ~ x",
    ],
)
def test_odd_formulas_are_refused(formula):
    with pytest.raises(rf.RanefError):
        rf.Model(formula).fit(TABLE, **QUICK)


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({0: X, 1: X}),
        pd.DataFrame(np.ones((3, 2)), columns=pd.MultiIndex.from_tuples([("x", "a"), ("y", "b")])),
        {0: X, "y": X},
        {**TABLE, "x": [[1.0, 2.0], [1.0]] * (N // 2)},
        {**TABLE, "x": np.array([["a", "b"]] * N)},
        {**TABLE, "x": np.ones((N, 2))},
        {**TABLE, "y": np.ones((N, 1))},
        {**TABLE, "x": X + 1j},
        {**TABLE, "x": [2**70] * N},
        {**TABLE, "x": [1, "a"] * (N // 2)},
        {**TABLE, "x": np.full(N, 1e300), "y": np.linspace(1, 2, N) * 1e300},
        pd.DataFrame({"x": [1, "a"], "y": [1.0, 2.0]}),
        pa.table({"x": [[1], [2]], "y": [1.0, 2.0]}),
        pl.scan_csv("/nowhere/absent.csv"),
        pl.LazyFrame({"x": ["a"], "y": [1.0]}).with_columns(pl.col("x").cast(pl.Int64)),
        "x" * 5000,
        "",
        "y,x\n1,2\n",
        None,
        {},
        pd.DataFrame({"x": [], "y": []}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_odd_tables_are_refused(data):
    with pytest.raises(rf.RanefError) as caught:
        rf.Model("y ~ x").fit(data, **QUICK)
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    "values", [[np.inf] * 3, [2.0**53, 1.0, 2.0], pa.array([[1], [2], [3]]), [1j, 2j, 3j]]
)
def test_odd_groups_are_refused(values):
    data = {"y": [1.0, 2.0, 3.0], "g": values if isinstance(values, list) else list(values)}
    with pytest.raises(rf.RanefError):
        rf.Model("y ~ 1 + (1 | g)").fit(data, **QUICK)


def test_a_few_texts_among_numbers_of_a_file_are_errors(tmp_path):
    cells = [*map(str, range(99)), "1,000"]
    (tmp_path / "t.csv").write_text("y,x\n" + "\n".join(f'{i},"{c}"' for i, c in enumerate(cells)))
    with pytest.raises(rf.DataError, match="numbers but for 1 of 100 values, such as '1,000'"):
        rf.Model("y ~ x").fit(tmp_path / "t.csv", **QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {"method": None},
        {"method": []},
        {"seed": "a"},
        {"seed": 1.5},
        {"seed": 2**70},
        {"draws": True},
        {"steps": 0},
    ],
)
def test_odd_arguments_are_refused(options):
    with pytest.raises(rf.RanefError):
        rf.Model("y ~ x").fit(TABLE, **{**QUICK, **options})


def test_numpy_integers_are_whole_numbers():
    rf.Model("y ~ x").fit(TABLE, seed=np.int64(3), draws=np.int32(10), **STEPS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rf.Model("y ~ x", family=None),
        lambda: rf.Model("y ~ x", networks="abc"),
        lambda: rf.Model("y ~ x", missing=None),
        lambda: rf.Normal((), 1),
        lambda: rf.HalfNormal((1, 2)),
        lambda: rf.Normal(0, 10**400),
        lambda: rf.PointEstimate((1, 2)),
        lambda: rf.Model("y ~ x", priors={"x": rf.Normal((0.0, 1.0), 1.0)}).priors_for(TABLE),
        lambda: rf.Model("y ~ x", priors={"sigma": rf.PointEstimate(-1)}).priors_for(TABLE),
    ],
)
def test_odd_models_and_priors_are_refused(make):
    with pytest.raises(rf.RanefError):
        make()


def test_odd_seeds_of_a_prediction_are_refused():
    fit = rf.Model("y ~ 1").fit(TABLE, **QUICK)
    for seed in (-1, "a", None, 1.5, 2**70):
        with pytest.raises(rf.OptionError, match="seed must be a whole number"):
            fit.predict(TABLE, seed=seed)


def test_an_optimizer_with_a_line_search_is_refused():
    import optax

    with pytest.raises(rf.OptionError, match="needs more than gradients"):
        rf.Model("y ~ x").fit(TABLE, optimizer=optax.lbfgs(), **QUICK)


def test_subclassed_and_empty_networks_are_refused():
    import keras

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Own(), keras.Sequential()):
        with pytest.raises(rf.OptionError, match="Sequential or functional"):
            rf.Model("y ~ nn(x, net=m)", networks={"m": model}).fit(TABLE, **QUICK)
