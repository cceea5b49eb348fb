"""Tables of coefficients: intervals, exponentials, and common plus group effects."""

import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef.posterior import coefficient_tables

RNG = np.random.default_rng(5)
N = 200
G = RNG.integers(300, 312, N)
X = RNG.normal(size=N)
F = RNG.choice(list("abc"), N)
TABLE = pd.DataFrame(
    {
        "y": 1 + X + RNG.normal(size=12)[G - 300] + RNG.normal(size=N),
        "x": X,
        "f": F,
        "g": G,
        "hit": RNG.random(N) < 0.4,
        "c": RNG.poisson(2.0, N),
        "grade": RNG.integers(1, 4, N),
        "kind": RNG.choice(["p", "q", "r"], N),
    }
)


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ f + x + (1 + x | g)").fit(TABLE, progress=False, draws=400)


def draws(fit, name):
    return fit.posterior[name].stack(s=("chain", "draw")).transpose("s", ...).to_numpy()


def test_intervals_are_quantiles_and_leave_other_columns_as_they_are(fit):
    assert list(fit.fixef().columns) == ["mean", "sd"]
    assert list(fit.ranef("g").columns) == ["term", "mean", "sd"]
    found = fit.fixef(interval=0.8)
    pd.testing.assert_frame_equal(found[["mean", "sd"]], fit.fixef())
    assert list(found.loc["x", ["lower", "upper"]]) == pytest.approx(
        list(np.quantile(draws(fit, "x"), [0.1, 0.9]))
    )
    assert list(found.index) == ["Intercept", "f[b]", "f[c]", "x"]
    scales = fit.varcorr(interval=0.8)
    pd.testing.assert_frame_equal(scales[["mean", "sd"]], fit.varcorr())
    assert scales.loc["sigma", "upper"] == pytest.approx(np.quantile(draws(fit, "sigma"), 0.9))
    effects = fit.ranef("g", interval=0.8)
    pd.testing.assert_frame_equal(effects[["term", "mean", "sd"]], fit.ranef("g"))
    slope = effects[effects["term"] == "x"].loc[305]
    assert list(slope[["lower", "upper"]]) == pytest.approx(
        list(np.quantile(draws(fit, "x|g")[:, 305 - 300], [0.1, 0.9]))
    )


def test_levels_by_batch_are_those_of_one_batch(fit, monkeypatch):
    whole = fit.ranef("g", interval=0.9), fit.coef("g")
    monkeypatch.setattr(coefficient_tables, "_CELLS", 2 * 400 * 5)
    pd.testing.assert_frame_equal(fit.ranef("g", interval=0.9), whole[0])
    pd.testing.assert_frame_equal(fit.coef("g"), whole[1])


def test_coef_is_the_posterior_of_the_sum(fit):
    found = fit.coef("g", interval=0.8)
    assert list(dict.fromkeys(found["term"])) == ["Intercept", "f[b]", "f[c]", "x"]
    total = draws(fit, "x") + draws(fit, "x|g")[:, 7]
    own = found[found["term"] == "x"].loc[307]
    assert own["sd"] == pytest.approx(total.std(ddof=1))
    assert list(own[["lower", "upper"]]) == pytest.approx(list(np.quantile(total, [0.1, 0.9])))
    parts = fit.fixef().loc["x", "mean"] + fit.ranef("g").query("term == 'x'").loc[307, "mean"]
    assert own["mean"] == pytest.approx(parts)
    # Sums of sds would be wider, because the two are correlated.
    assert own["sd"] < np.hypot(draws(fit, "x").std(), draws(fit, "x|g")[:, 7].std())
    fixed = found[found["term"] == "f[b]"].loc[300]
    assert fixed["sd"] == pytest.approx(draws(fit, "f")[:, 0].std(ddof=1))


@pytest.mark.long
def test_coef_beside_other_predictors_codings_and_tables():
    fit = rf.Model("y ~ 0 + f + (0 + f | g)").fit(TABLE, progress=False, draws=100)
    assert list(dict.fromkeys(fit.coef("g")["term"])) == ["f[a]", "f[b]", "f[c]"]
    fit = rf.Model("y ~ f + (0 + f | g)").fit(TABLE, progress=False, draws=100)
    with pytest.raises(rf.OptionError, match="'f' are not coded alike"):
        fit.coef("g")
    with pytest.raises(rf.ColumnError, match="no grouping 'h'"):
        fit.coef("h")
    pl = pytest.importorskip("polars")
    fit = rf.Model("y ~ 1 + (0 + x | g)").fit(pl.from_pandas(TABLE), progress=False, draws=100)
    found = fit.coef("g")
    assert isinstance(found, pl.DataFrame)
    assert found.columns == ["g", "term", "mean", "sd", "lower", "upper"]
    assert found["term"].unique(maintain_order=True).to_list() == ["Intercept", "x"]
    assert found["g"].dtype == pl.Int64


@pytest.mark.long
def test_a_loaded_fit_has_the_same_tables(fit, tmp_path):
    loaded = rf.load(fit.save(tmp_path / "fit.ranef"))
    pd.testing.assert_frame_equal(loaded.coef("g"), fit.coef("g"), check_exact=True)
    pd.testing.assert_frame_equal(loaded.ranef("g", 0.9), fit.ranef("g", 0.9), check_exact=True)


def test_lme4_coef_of_sleepstudy(reference_data):
    """coef(lmer(Reaction ~ Days + (Days | Subject))) has 253.66 and 19.67 for subject 308."""
    table = pd.read_csv(reference_data / "mixed" / "sleepstudy.csv")
    fit = rf.Model("Reaction ~ Days + (Days | Subject)").fit(table, progress=False, draws=500)
    found = fit.coef("Subject").loc[308].set_index("term")
    assert found.loc["Intercept", "mean"] == pytest.approx(253.66, abs=2.0)
    assert found.loc["Days", "mean"] == pytest.approx(19.67, abs=0.4)


def test_exponentials_are_odds_ratios():
    fit = rf.Model("hit ~ f + x", family="bernoulli").fit(TABLE, progress=False, draws=300)
    plain, found = fit.summary(interval=0.8), fit.summary(interval=0.8, exp=True)
    np.testing.assert_allclose(found[["lower", "upper"]], np.exp(plain[["lower", "upper"]]))
    assert found.loc["x", "mean"] == pytest.approx(np.exp(draws(fit, "x")).mean())
    assert found.loc["x", "sd"] == pytest.approx(np.exp(draws(fit, "x")).std(ddof=1))
    assert list(found["scale"]) == ["odds", "odds ratio", "odds ratio", "odds ratio"]
    assert "scale" not in plain.columns
    assert "verdict" in repr(found)


def scales(formula, **options):
    """The scales of a fit whose parameters are all at fixed numbers or that is quick."""
    model = rf.Model(formula, **options)
    return dict(model.fit(TABLE, progress=False, draws=50).summary(exp=True)["scale"])


@pytest.mark.long
def test_every_scale_has_its_name():
    assert scales("c ~ x + (1 | g)", family="poisson") == {
        "Intercept": "rate",
        "x": "rate ratio",
        "1|g_sigma": "",
        "share(g)": "",
    }
    ordinal = scales("grade ~ x", family="ordinal")
    assert ordinal.pop("x") == "odds ratio"
    assert set(ordinal.values()) == {""}
    kinds = scales("kind ~ x", family="categorical")
    assert set(kinds.values()) == {"odds", "odds ratio"}
    table = TABLE.assign(t=np.exp(TABLE["y"]))
    fit = rf.Model("t ~ x", family="lognormal").fit(table, progress=False, draws=50)
    assert dict(fit.summary(exp=True)["scale"]) == {
        "Intercept": "median",
        "x": "median ratio",
        "sigma": "",
    }
    fit = rf.Model("y ~ x; sigma ~ x").fit(TABLE, progress=False, draws=50)
    found = fit.summary(exp=True)
    assert dict(found["scale"]) == {
        "Intercept": "",
        "x": "",
        "sigma_Intercept": "sigma",
        "sigma_x": "sigma ratio",
    }
    assert found.loc["x", "mean"] == fit.summary().loc["x", "mean"]


def test_refusals(fit):
    with pytest.raises(rf.OptionError, match="gaussian has the link identity"):
        fit.summary(exp=True)
    with pytest.raises(rf.OptionError, match="True or False"):
        fit.summary(exp="yes")
    for call in (fit.fixef, fit.varcorr, lambda interval: fit.ranef("g", interval)):
        with pytest.raises(rf.OptionError, match="between 0 and 1"):
            call(interval=95)
