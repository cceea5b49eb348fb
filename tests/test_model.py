"""`Model` and `Fit` as a user meets them."""

import os
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.stats as st

import ranef as rf

QUICK = {"steps": 400, "progress": False}


@pytest.fixture(scope="module")
def fitted(grouped):
    return rf.Model("y ~ x + f + (1 + x | g)").fit(grouped, **QUICK)


def test_summary_has_every_parameter_but_single_levels(fitted):
    table = fitted.summary(0.8)
    assert list(table.index) == [
        *("Intercept", "x", "f[b]", "f[c]"),
        *("1|g_sigma", "x|g_sigma", "g_corr[1, x]", "sigma", "share(g)"),
    ]
    assert (table["lower"] < table["upper"]).all()
    assert np.isfinite(table[["mean", "sd", "lower", "upper"]]).all(axis=None)
    assert 0 < table.loc["share(g)", "mean"] < 1


def test_posterior_names_and_dims_follow_bambi(fitted):
    posterior = fitted.posterior
    assert posterior["f"].dims == ("chain", "draw", "f_dim")
    assert list(posterior["f_dim"].to_numpy()) == ["b", "c"]
    assert posterior["1|g"].dims == ("chain", "draw", "g__factor_dim")
    assert posterior["x|g"].dims == ("chain", "draw", "g__factor_dim")
    assert posterior["g_corr"].shape == (1, 1000, 2, 2)
    assert posterior["sigma"].dims == ("chain", "draw")
    assert set(fitted.idata.children) == {
        "posterior",
        "observed_data",
        "constant_data",
        "optimization",
    }
    assert int(fitted.idata["constant_data"]["size|g"].sum()) == 300


def test_recovers_what_made_the_data(fitted):
    table = fitted.summary(0.99)
    for name, truth in (("x", 2.0), ("1|g_sigma", 1.0), ("x|g_sigma", 0.5), ("sigma", 0.5)):
        assert table.loc[name, "lower"] < truth < table.loc[name, "upper"], name


def test_tables_of_effects(fitted):
    assert list(fitted.fixef().index) == ["Intercept", "x", "f[b]", "f[c]"]
    assert list(fitted.varcorr().index) == ["1|g_sigma", "x|g_sigma", "g_corr[1, x]", "sigma"]
    levels = fitted.ranef("g")
    assert list(levels.columns) == ["term", "mean", "sd"]
    assert list(levels.index[:3]) == ["g0", "g1", "g10"]
    assert list(levels["term"].unique()) == ["1", "x"]
    with pytest.raises(rf.ColumnError, match="no grouping 'gg'; did you mean 'g'"):
        fitted.ranef("gg")


def test_the_same_seed_gives_the_same_bytes_and_the_table_form_does_not_matter(grouped):
    model = rf.Model("y ~ x + (1 | g)")
    forms = [grouped, pd.DataFrame(grouped), pl.DataFrame(grouped)]
    fits = [model.fit(data, seed=3, progress=False) for data in forms]
    first = fits[0].posterior
    for fit in fits[1:]:
        for name in first:
            assert fit.posterior[name].to_numpy().tobytes() == first[name].to_numpy().tobytes()


def test_prediction_of_the_mean_is_the_sum_of_its_terms(fitted, grouped):
    predicted = fitted.predict(grouped)
    posterior = fitted.posterior.isel(chain=0)
    codes = pd.Index(posterior["g__factor_dim"].to_numpy()).get_indexer(grouped["g"])
    is_b, is_c = (grouped["f"] == level for level in "bc")
    x = grouped["x"]
    eta = (
        posterior["Intercept"].to_numpy()[:, None]
        + posterior["x"].to_numpy()[:, None] * x
        + posterior["f"].to_numpy() @ np.array([is_b, is_c], float)
        + posterior["1|g"].to_numpy()[:, codes]
        + posterior["x|g"].to_numpy()[:, codes] * x
    )
    np.testing.assert_allclose(predicted["mean"], eta.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(predicted["sd"], eta.std(axis=0), rtol=1e-2)
    np.testing.assert_allclose(predicted["lower"], np.quantile(eta, 0.05, axis=0), atol=1e-3)


def test_response_intervals_cover_and_the_log_score_is_the_mixtures(fitted, grouped):
    response = fitted.predict(grouped, kind="response")
    inside = (grouped["y"] >= response["lower"]) & (grouped["y"] <= response["upper"])
    assert 0.85 < inside.mean() < 0.95
    means = fitted.predict(grouped)
    sigma = fitted.posterior["sigma"].mean().item()
    rough = st.norm(means["mean"], sigma).logpdf(grouped["y"])
    scores = fitted.log_score(grouped)
    assert scores.shape == (300,)
    assert abs(scores.mean() - rough.mean()) < 0.05


def test_new_levels_are_refused_sampled_or_zero(fitted, grouped):
    new = {name: values[:4] for name, values in grouped.items()}
    new["g"] = np.array(["new", "new", "other", "g1"])
    new["x"] = np.zeros(4)
    with pytest.raises(rf.DataError, match="no effect for the level 'new', 'other'.*new_levels="):
        fitted.predict(new)
    zero = fitted.predict(new, new_levels="zero")
    sampled = fitted.predict(new, new_levels="sample")
    spread = fitted.varcorr().loc["1|g_sigma", "mean"]
    assert (zero["sd"][:3] < 0.5 * spread).all()
    assert (sampled["sd"][:3] > 0.8 * spread).all()
    assert sampled.loc[3].equals(fitted.predict(new, new_levels="sample").loc[3])


def test_rows_of_one_new_level_share_its_effect(fitted, grouped):
    from ranef.data.tables import read
    from ranef.posterior.predictive import Predictive
    from ranef.terms.base import RunOptions

    new = {name: np.repeat(values[:1], 3) for name, values in grouped.items()}
    new["g"] = np.array(["n1", "n1", "n2"])
    designs = fitted.program.designs(fitted.training.state, read(new))
    replay = RunOptions(training=False, new_levels="sample")
    predictive = Predictive(fitted.program, fitted.training.state, fitted.draws, replay, 0)
    response = fitted.program.family.design(fitted.training.state.family, read(new), known=False)
    with jax.enable_x64(True):
        (part,) = predictive.over(designs, response, 3)
    mu = part.own(part.values["mu"])
    np.testing.assert_array_equal(mu[:, 0], mu[:, 1])
    assert not np.array_equal(mu[:, 0], mu[:, 2])


def test_chunks_of_rows_do_not_change_the_answer(fitted, grouped, monkeypatch):
    from ranef.posterior import program_replay

    new = {**grouped, "g": np.where(np.arange(300) % 2, "n1", grouped["g"])}
    whole = fitted.predict(new, new_levels="sample", seed=4)
    monkeypatch.setattr(program_replay, "_CELLS", 77_000)
    parts = fitted.predict(new, new_levels="sample", seed=4)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-4)


def test_rows_say_what_was_dropped(grouped):
    gaps = pd.DataFrame(grouped)
    gaps.loc[:9, "x"] = np.nan
    gaps.loc[5:19, "g"] = None
    fit = rf.Model("y ~ x + (1 | g)").fit(gaps, progress=False)
    assert (fit.rows.read, fit.rows.used) == (300, 280)
    assert dict(fit.rows.dropped) == {"x": 10, "g": 15}


def test_weights_are_precisions():
    """Weight 4 on a row says what four such rows say about the mean."""
    y = np.array([1.0, 2.0, 3.0, 7.0])
    w = np.array([1.0, 4.0, 1.0, 2.0])
    priors = {"Intercept": rf.Flat(), "sigma": 1.0}
    model = rf.Model("weights(y, w) ~ 1", priors=priors)
    fit = model.fit({"y": y, "w": w}, draws=20_000, progress=False)
    row = fit.fixef().loc["Intercept"]
    assert row["mean"] == pytest.approx(np.average(y, weights=w), abs=0.03)
    assert row["sd"] == pytest.approx(1 / np.sqrt(w.sum()), rel=0.03)


def test_known_standard_errors_leave_no_sigma():
    y, s = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    model = rf.Model("se(y, s) ~ 1", priors={"Intercept": rf.Flat()})
    fit = model.fit({"y": y, "s": s}, draws=20_000, progress=False)
    assert list(fit.summary().index) == ["Intercept"]
    assert fit.fixef().loc["Intercept", "mean"] == pytest.approx(7.686, abs=0.15)
    assert fit.fixef().loc["Intercept", "sd"] == pytest.approx(4.072, rel=0.03)


def test_another_parameter_can_have_its_own_predictor():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 2000)
    table = {"x": x, "y": 1.0 + np.exp(0.3 + 0.8 * x) * rng.normal(size=2000)}
    fit = rf.Model("y ~ 1; sigma ~ x").fit(table, progress=False)
    summary = fit.summary(0.99)
    for name, truth in (("Intercept", 1.0), ("sigma_Intercept", 0.3), ("sigma_x", 0.8)):
        assert summary.loc[name, "lower"] < truth < summary.loc[name, "upper"], name
    spread = fit.predict({"x": np.array([-1.0, 1.0])}, kind="response")["sd"]
    np.testing.assert_allclose(spread, np.exp([-0.5, 1.1]), rtol=0.15)


def test_default_priors_are_scaled_to_the_data(grouped):
    shown = rf.Model("y ~ x").priors_for(grouped)
    scaled = rf.Model("y ~ x").priors_for({**grouped, "y": 100 * grouped["y"]})
    assert scaled["x"].prior.sigma == pytest.approx(100 * shown["x"].prior.sigma)
    wide = rf.Model("y ~ x").priors_for({**grouped, "x": 100 * grouped["x"]})
    assert wide["x"].prior.sigma == pytest.approx(shown["x"].prior.sigma / 100)
    assert str(shown["x"]).startswith("Normal(0, ")


@pytest.mark.parametrize(
    ("formula", "family", "stands", "left"),
    [
        ("kind ~ x + (1 | g)", "categorical", ("mub_x", "muc_x"), ("mub_Intercept",)),
        ("y ~ x; sigma ~ x", rf.Mixture("gaussian", "gaussian"), ("mu1_x", "mu2_x"), ("sigma1_x",)),
    ],
)
def test_common_stands_for_those_of_every_category_and_component(
    formula, family, stands, left, grouped
):
    chosen = rf.Normal(0, 0.3)
    table = {**grouped, "kind": np.array(["a", "b", "c"])[np.arange(len(grouped["y"])) % 3]}
    found = rf.Model(formula, family=family, priors={"common": chosen}).priors_for(table)
    assert all(found[name] == chosen for name in stands)
    assert all(found[name] != chosen for name in left)


def test_correlated_effects_of_one_grouping_have_correlations_by_their_columns(grouped, tmp_path):
    """Two parts without a column in common, as lme4 takes them; one alone is named g_corr."""
    table = {**grouped, "k": np.array(["u", "v"])[np.arange(len(grouped["y"])) % 2]}
    fit = rf.Model("y ~ x + (x | g) + (0 + k | g)").fit(table, progress=False, draws=100)
    named = [name for name in fit.summary().index if "_corr" in name]
    assert named == ["1 + x|g_corr[1, x]", "k|g_corr[k[u], k[v]]"]
    assert fit.idata["posterior"]["k|g_corr"].shape == (1, 100, 2, 2)
    loaded = rf.load(fit.save(tmp_path / "fit.ranef"))
    assert list(loaded.summary().index) == list(fit.summary().index)
    alone = rf.Model("y ~ x + (x | g) + (0 + z | g)").priors_for({**table, "z": table["x"] ** 2})
    assert "g_corr" in alone
    given = rf.Model("y ~ (x | g) + (0 + k | g)", priors={"k|g_corr": rf.LKJ(3)})
    assert given.priors_for(table)["k|g_corr"] == rf.LKJ(3)


def test_common_stands_for_all_common_effects_but_the_intercept(grouped):
    chosen = rf.Model("y ~ x + f", priors={"common": rf.Normal(0, 9), "x": rf.Flat()})
    shown = chosen.priors_for(grouped)
    assert shown["f"] == rf.Normal(0, 9)
    assert shown["x"] == rf.Flat()
    assert shown["Intercept"] != rf.Normal(0, 9)


@pytest.mark.parametrize(
    ("formula", "options", "error", "message"),
    [
        ("y ~ nope", {}, rf.ColumnError, "column 'nope' is not in the table"),
        ("y ~ log(f)", {}, rf.DataError, "column 'f' holds text where a number is needed"),
        ("f ~ x", {}, rf.DataError, "the response f has 3 distinct texts"),
        ("y ~ log(x)", {}, rf.DataError, "log(x) is not a finite number"),
        ("y ~ x", {"family": "poisson"}, rf.DataError, "takes whole numbers from 0 on"),
        ("y ~ x", {"family": "gausian"}, rf.OptionError, "did you mean 'gaussian'"),
        ("y / w ~ x", {}, rf.OptionError, "no response of the form successes / trials"),
        ("se(y, w) ~ x", {"family": "student"}, rf.OptionError, "no response of the form se()"),
        ("y ~ x; tau ~ x", {}, rf.FormulaError, "no parameter 'tau' to predict; it has: sigma"),
        ("y ~ x", {"priors": {"z": rf.Normal()}}, rf.OptionError, "no parameter 'z'"),
        ("y ~ x", {"priors": {"sigma": rf.Normal()}}, rf.OptionError, "use HalfNormal"),
        ("y ~ x", {"missing": "NA"}, rf.OptionError, "missing must be a list"),
        ("y ~ nn(x, net=m, hidden=[8])", {}, rf.FormulaError, "takes net=name or hidden="),
        ("y ~ C(f, ref='z')", {}, rf.DataError, "ref='z') names no level of the column 'f'"),
        ("y ~ nn(x, net=m)", {}, rf.OptionError, "names no network"),
        ("y ~ nn(x, hidden=[5], depth=2)", {}, rf.FormulaError, "no option 'depth'"),
        (
            "y ~ nn(x, hidden=[5], weights='some')",
            {},
            rf.OptionError,
            "must be one of 'point', 'last', 'full'",
        ),
        ("y ~ nn(x, hidden=[0])", {}, rf.FormulaError, "whole numbers above zero"),
    ],
)
def test_bad_models_get_a_sentence(formula, options, error, message, grouped):
    with pytest.raises(error) as caught:
        rf.Model(formula, **options).fit(grouped, steps=50, progress=False)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.r_[-np.inf, np.zeros(299)]}, "y is not a finite number in 1 of 300 rows.*row 1"),
        ({"y": np.full(300, np.nan)}, "'y' is missing in 300 of 300"),
        ({"y": np.r_[np.zeros(299), np.inf]}, "y is not a finite number in 1 of 300 rows.*row 300"),
        ({"x": np.r_[np.inf, np.zeros(299)]}, "x is not a finite number"),
        ({"g": np.full(300, "only")}, "grouping 'g' has one level, 'only'"),
        ({"x": np.full(300, np.nan)}, "'x' is missing in 300 of 300"),
    ],
)
def test_bad_tables_get_a_sentence(change, message, grouped):
    with pytest.raises(rf.DataError, match=message):
        rf.Model("y ~ x + (1 | g)").fit({**grouped, **change}, steps=50, progress=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit, t: fit.predict(t, kind="median"), "kind must be"),
        (lambda fit, t: fit.predict(t, interval=90), "interval must be"),
        (lambda fit, t: fit.predict(t, new_levels="ignore"), "new_levels must be"),
        (lambda fit, t: fit.summary(1.0), "interval must be"),
        (lambda fit, t: fit.predict({**t, "x": np.full(300, np.nan)}), "'x' is missing in 300"),
        (lambda fit, t: fit.predict({"x": t["x"]}), "column 'f' is not in the table"),
    ],
)
def test_bad_requests_of_a_fit_get_a_sentence(call, message, fitted, grouped):
    with pytest.raises(rf.RanefError, match=message):
        call(fitted, grouped)


@pytest.mark.parametrize(
    "options",
    [{"draws": 1}, {"draws": 10.0}, {"seed": -1}, {"method": "mcmc"}, {"quadrature": 0}],
)
def test_bad_arguments_of_fit_get_a_sentence(options, grouped):
    with pytest.raises(rf.OptionError):
        rf.Model("y ~ x").fit(grouped, **options)


def test_reserved_column_names_are_refused():
    with pytest.raises(rf.ColumnError, match="cannot be named 'draw'"):
        rf.Model("y ~ draw")


def test_keras_on_another_backend_is_said_clearly():
    code = (
        "import ranef as rf, numpy as np\n"
        "try:\n"
        "    rf.Model('y ~ nn(x, hidden=[2])').fit({'y': np.arange(9.), 'x': np.arange(9.)})\n"
        "except rf.BackendError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert "KERAS_BACKEND is 'torch' and nn() needs 'jax'" in done.stdout


def test_keras_already_imported_on_another_backend_is_said_clearly():
    code = (
        "import os; os.environ['KERAS_BACKEND'] = 'numpy'\n"
        "import keras\n"
        "os.environ['KERAS_BACKEND'] = 'jax'\n"
        "import ranef as rf, numpy as np\n"
        "try:\n"
        "    rf.Model('y ~ nn(x, hidden=[2])').fit({'y': np.arange(9.), 'x': np.arange(9.)})\n"
        "except rf.BackendError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "already imported with the backend 'numpy'" in done.stdout


def test_the_same_table_in_any_form_gives_the_same_fit(tmp_path):
    rng = np.random.default_rng(4)
    n = 120
    g = rng.integers(0, 8, n)
    table = pd.DataFrame(
        {
            "y": g + rng.normal(size=n),
            "x": rng.normal(size=n).round(3),
            "f": np.array(["low", "high", "mid"])[rng.integers(0, 3, n)],
            "g": g,
            "spare": "x",
        }
    )
    table.loc[[3, 50], "y"] = np.nan
    table.loc[7, "x"] = np.nan
    table.loc[11, "f"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    forms = {
        "columns": table[["spare", "g", "f", "x", "y"]],
        "index": table.set_index(pd.Index(rng.integers(0, 5, n))),
        "several": table.set_index(pd.MultiIndex.from_arrays([g, table["f"]], names=["a", "b"])),
        "nullable": table.convert_dtypes(),
        "arrow backed": table.convert_dtypes(dtype_backend="pyarrow"),
        "object": table.astype(object),
        "polars": pl.from_pandas(table),
        "lazy": pl.from_pandas(table).lazy(),
        "arrow": pa.Table.from_pandas(table),
        "views": pa.Table.from_pandas(table).set_column(
            2, "f", pa.array(table["f"]).cast(pa.string_view())
        ),
        "dict": {name: table[name].to_numpy() for name in table},
        "series": {name: table[name] for name in table},
        "lists": {name: table[name].tolist() for name in table},
        "csv": tmp_path / "t.csv",
        "parquet": tmp_path / "t.parquet",
    }
    model, options = rf.Model("y ~ x + f + (1 | g)"), {"draws": 50, "progress": False}
    fit = model.fit(table, **options)
    assert fit.rows.dropped == {"y": 2, "x": 1, "f": 1}
    whole = table.dropna()
    for name, data in forms.items():
        other = model.fit(data, **options)
        assert other.rows == fit.rows, name
        own, its = fit.summary(), other.summary()
        assert list(own.index) == list(its.index), name
        assert own["mean"].to_numpy().tobytes() == its["mean"].to_numpy().tobytes(), name
        effects = np.asarray(fit.ranef("g")["mean"]).tobytes()
        assert effects == np.asarray(other.ranef("g")["mean"]).tobytes(), name
        predicted = np.asarray(other.predict(whole))
        assert predicted.tobytes() == np.asarray(fit.predict(whole)).tobytes(), name


@pytest.fixture(scope="module")
def halved(grouped):
    model = rf.Model("y ~ I(x / 2) + (I(x / 2) | g)")
    return model.fit(grouped, draws=100, progress=False)


def test_tables_name_what_the_formula_says_and_the_posterior_what_a_tree_takes(halved, tmp_path):
    assert halved.fixef().index.tolist() == ["Intercept", "I(x / 2)"]
    assert set(halved.ranef("g")["term"]) == {"1", "I(x / 2)"}
    assert "I(x / 2)|g_sigma" in halved.summary().index
    assert "g_corr[1, I(x / 2)]" in halved.varcorr().index
    assert not any("_over_" in line for line in halved.equations())
    assert "I(x _over_ 2)|g" in halved.posterior
    page = halved.report(tmp_path / "page.html").read_text()
    assert "I(x / 2)" in page
    assert "_over_" not in page


@pytest.mark.parametrize("name", ["I(x / 2)", "I(x _over_ 2)"])
def test_a_prior_is_taken_under_either_name(name, grouped):
    prior = rf.Normal(0, 1e-6)
    shown = rf.Model("y ~ I(x / 2)", priors={name: prior}).priors_for(grouped)
    assert shown["I(x / 2)"] == prior


def test_a_network_without_widths_has_32_and_16_units(grouped):
    fit = rf.Model("y ~ nn(x) + (1 | g)").fit(grouped, draws=50, progress=False)
    assert any("1 → 32 → 16 → 1 units" in line for line in fit.equations())


def test_poly_of_degree_one_predicts_as_the_column_itself(grouped):
    line = rf.Model("y ~ x", priors={"common": rf.Flat()}).fit(grouped, progress=False)
    poly = rf.Model("y ~ poly(x, 1)", priors={"common": rf.Flat()}).fit(grouped, progress=False)
    np.testing.assert_allclose(
        poly.predict(grouped)["mean"], line.predict(grouped)["mean"], rtol=1e-2, atol=1e-2
    )


def test_coded_factors_and_comparisons_survive_a_file(grouped, tmp_path):
    table = {**grouped, "b": grouped["x"] > 0, "o": pd.Categorical(grouped["f"], ["c", "b", "a"])}
    formula = "y ~ C(f, ref='b') + b + I(z > 0) + I(f == 'a'):z + o:x + (b | g)"
    fit = rf.Model(formula).fit(table, draws=100, progress=False)
    back = rf.load(fit.save(tmp_path / "fit"))
    pd.testing.assert_frame_equal(back.predict(table), fit.predict(table))
    assert back.fixef().index.tolist() == fit.fixef().index.tolist()
    assert back.training.sample.levels("o").declared


@pytest.mark.parametrize("formula", ["y ~ (h:f | g)", "y ~ x + (0 + f + h | g)", "y ~ (f*h || g)"])
def test_factors_that_vary_by_group_are_coded_with_full_rank(formula, grouped):
    rng = np.random.default_rng(8)
    table = {**grouped, "h": rng.choice(["u", "v"], 300), "f": rng.choice(["a", "b"], 300)}
    fit = rf.Model(formula)._learn(table)
    columns = [d.arrays["columns"] for d in fit.designs.values() if "codes" in d.arrays]
    assert all(np.linalg.matrix_rank(c) == c.shape[1] for c in columns)


def test_a_response_whose_digits_are_lost_is_not_said_to_be_constant(grouped):
    table = {**grouped, "y": 1e12 + grouped["y"] / grouped["y"].std()}
    with pytest.raises(rf.DataError, match="the response y lies between .* and .*, so close"):
        rf.Model("y ~ x").fit(table, progress=False)
