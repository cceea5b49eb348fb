"""The groups that `Fit.extend` adds, against closed forms and the fit's own predictions."""

import arviz_stats
import numpy as np
import pytest
import scipy.stats

import ranef as rf


@pytest.fixture(scope="module")
def table(grouped):
    return {name: grouped[name] for name in ("y", "x", "f", "g")}


@pytest.fixture(scope="module")
def linear(table):
    priors = {"Intercept": rf.Normal(3.0, 2.0), "x": rf.Normal(0.0, 0.5)}
    model = rf.Model("y ~ x + f + (1 | g)", priors=priors)
    return model.fit(table, progress=False)


@pytest.fixture(scope="module")
def alone(table):
    return rf.Model("y ~ 1 + (1 | g)").fit(table, progress=False)


def test_without_predictors_the_unpooled_estimate_is_the_levels_mean(alone, table):
    found = alone.extend("shrinkage")["shrinkage"]
    names = found["g__factor_dim"].to_numpy()
    means = [table["y"][table["g"] == name].mean() for name in names]
    np.testing.assert_allclose(found.attrs["centre|g"] + found["unpooled|g"], means, atol=1e-9)
    sizes = [int((table["g"] == name).sum()) for name in names]
    np.testing.assert_array_equal(alone.idata["constant_data"]["size|g"], sizes)


def test_partial_pooling_draws_a_level_towards_the_mean_by_what_its_rows_weigh(alone):
    """b_j = n_j / (n_j + sigma^2 / tau^2) times the unpooled estimate, for known scales."""
    found = alone.extend("shrinkage")["shrinkage"]
    posterior = alone.posterior.mean(("chain", "draw"))
    ratio = float(posterior["sigma"] ** 2 / posterior["1|g_sigma"] ** 2)
    size = alone.idata["constant_data"]["size|g"].to_numpy()
    expected = size / (size + ratio) * found["unpooled|g"].to_numpy()
    np.testing.assert_allclose(posterior["1|g"], expected, atol=0.1)
    assert np.abs(expected).max() > 1.5


def test_the_effect_of_a_linear_predictor_is_its_coefficient(linear):
    effects = linear.extend("partial_effects")["partial_effects"]
    assert set(effects.data_vars) == {"x", "f"}
    slopes = effects["x"].diff("x_point") / effects["x_point"].diff("x_point")
    draws = linear.posterior["x"].to_numpy().ravel()
    assert np.isin(np.round(slopes.to_numpy(), 8), np.round(draws, 8)).all()
    a, b = (effects["f"].sel(f_point=name) for name in "ab")
    assert float((b - a).mean()) == pytest.approx(
        float(linear.posterior["f"].sel(f_dim="b").mean()), abs=0.05
    )


def test_prior_draws_follow_the_priors(linear):
    prior = linear.extend("prior")["prior"]
    for name, law in (("Intercept", scipy.stats.norm(3, 2)), ("x", scipy.stats.norm(0, 0.5))):
        drawn = prior[name].to_numpy().ravel()
        assert len(drawn) == 1000
        assert scipy.stats.kstest(drawn, law.cdf).pvalue > 0.001, name
    assert float((prior["1|g"] / prior["1|g_sigma"]).std()) == pytest.approx(1.0, abs=0.05)


def test_the_surface_is_the_location_and_its_prior(linear, table):
    surface = linear.extend("surface")["surface"]
    assert surface.attrs["predictors"] == ["x"]
    np.testing.assert_array_equal(surface["row_response"], table["y"])
    levels = surface["prior"].std("draw") > 2 * surface["posterior"].std("draw")
    assert bool(levels.all())


def test_flat_priors_have_no_draws(table):
    fit = rf.Model("y ~ x", priors={"x": rf.Flat()}).fit(table, progress=False)
    with pytest.raises(rf.OptionError, match="'x' has a flat prior"):
        fit.extend("prior")
    assert "prior" not in fit.extend("surface")["surface"]


def test_validation_agrees_with_prediction_and_log_score(linear, table):
    rows = linear.extend("validation", data=table, seed=4)["validation"]
    predicted = linear.predict(table, kind="response", seed=4)
    np.testing.assert_allclose(rows["mean"], predicted["mean"])
    np.testing.assert_allclose(rows["log_score"], linear.log_score(table, seed=4))
    inside = (table["y"] >= predicted["lower"]) & (table["y"] <= predicted["upper"])
    covered = np.abs(2 * rows["pit"].to_numpy() - 1) <= 0.9
    assert abs(inside.mean() - covered.mean()) < 0.01
    with pytest.raises(rf.OptionError, match="rows that the fit has not seen"):
        linear.extend("validation")


def test_the_log_likelihood_is_the_density_at_each_draw(linear, table):
    found = linear.extend("log_likelihood")["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "row")
    draw = linear.posterior.isel(chain=0, draw=7)
    f = np.array([0.0, *draw["f"].to_numpy()])[np.searchsorted(["a", "b", "c"], table["f"])]
    g = draw["1|g"].sel(g__factor_dim=table["g"].tolist()).to_numpy()
    location = float(draw["Intercept"]) + float(draw["x"]) * table["x"] + f + g
    expected = scipy.stats.norm.logpdf(table["y"], location, float(draw["sigma"]))
    np.testing.assert_allclose(found.isel(chain=0, draw=7), expected, rtol=1e-6)
    assert np.isfinite(arviz_stats.loo(linear.idata).elpd)


def test_responses_drawn_from_the_fit_scatter_as_its_predictions(linear, table):
    drawn = linear.extend("posterior_predictive")["posterior_predictive"]["y"]
    predicted = linear.predict(table, kind="response")
    np.testing.assert_allclose(drawn.mean(("chain", "draw")), predicted["mean"], atol=0.25)
    assert float((drawn.std(("chain", "draw")) / predicted["sd"]).mean()) == pytest.approx(
        1.0, abs=0.02
    )


def test_an_unknown_group_is_named(linear):
    with pytest.raises(rf.OptionError, match="no group 'priors'.*did you mean 'prior'"):
        linear.extend("priors")


def test_equations_say_what_the_model_is(linear):
    assert linear.equations() == [
        "y_{i} ~ Normal(μ_{i}, σ²)",
        "μ_{i} = β_{0} + β_{x} x_{i} + β_{f[i]} + b_{1|g[i]}",
        "b_{1|g[j]} ~ Normal(0, σ_{1|g}²)",
    ]


def test_the_surface_of_few_draws(grouped):
    fit = rf.Model("y ~ x + (1 | g)").fit(grouped, draws=40, progress=False)
    surface = fit.extend("surface")["surface"].to_dataset()
    assert surface["prior"].shape == surface["posterior"].shape == (8, 15)


def test_responses_are_drawn_for_each_draw_of_the_log_likelihood(linear):
    """ArviZ's loo_pit weights the drawn responses by the log likelihood of their own draw."""
    tree = linear.extend("posterior_predictive", "log_likelihood")
    drawn, each = tree["posterior_predictive"]["y"], tree["log_likelihood"]["y"]
    assert drawn.sizes == each.sizes
    assert dict(drawn.sizes)["draw"] == linear.posterior.sizes["draw"]
    pit = arviz_stats.loo_pit(tree)["y"].to_numpy()
    assert ((pit >= -1e-9) & (pit <= 1 + 1e-9)).all()
    assert 0.4 < pit.mean() < 0.6


def test_the_mean_of_a_level_of_successes_is_that_of_its_trials():
    """Observed and drawn are shares of all trials of the level, on one scale."""
    table = {
        "s": np.array([9, 1, 30, 2, 5, 50]),
        "t": np.array([10, 10, 60, 40, 10, 100]),
        "g": np.array(list("aabbcc")),
    }
    fit = rf.Model("s / t ~ 1 + (1 | g)", family="binomial").fit(table, progress=False)
    found = fit.extend("predictive_by_group")["predictive_by_group"]
    np.testing.assert_allclose(found["observed_mean|g"], [10 / 20, 32 / 100, 55 / 110])
    drawn = found["drawn_mean|g"].mean("draw").to_numpy()
    assert ((drawn > 0.2) & (drawn < 0.7)).all()
