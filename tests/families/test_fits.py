"""Each family from formula to fit: what was simulated comes back, and bad responses do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ranef as rf
from ranef.families.response_design import ResponseDesign
from ranef.formula.formula import Formula
from ranef.registry import load

N = 300
RNG = np.random.default_rng(4)
X = RNG.normal(size=N)
MEAN = np.exp(0.5 + 0.7 * X)
SHARE = 1 / (1 + np.exp(-0.5 - 0.7 * X))
COUNTS = RNG.poisson(MEAN).astype(float)
RESPONSES = {
    "bernoulli": (RNG.random(N) < SHARE).astype(float),
    "poisson": COUNTS,
    "negative_binomial": RNG.poisson(RNG.gamma(2.0, MEAN / 2.0)).astype(float),
    "gamma": RNG.gamma(3.0, MEAN / 3.0),
    "beta": np.clip(RNG.beta(9 * SHARE, 9 * (1 - SHARE)), 1e-9, 1 - 1e-9),
    "lognormal": np.exp(0.5 + 0.7 * X + 0.5 * RNG.normal(size=N)),
    "exponential": RNG.exponential(MEAN),
    "zero_inflated_poisson": COUNTS * (RNG.random(N) < 0.7),
    "ordinal": np.digitize(0.7 * X + RNG.logistic(size=N), [-1.0, 0.5]) + 1.0,
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_slope_comes_back(name):
    fit = rf.Model("y ~ x", family=name).fit(
        {"y": RESPONSES[name], "x": X}, method="svi", draws=100, progress=False
    )
    slope = fit.summary().loc["x"]
    assert abs(slope["mean"] - 0.7) < 4 * slope["sd"]
    assert slope["sd"] < 0.3


def test_two_texts_are_bernoulli_and_a_saved_fit_knows_them(tmp_path):
    table = {"y": np.where(RESPONSES["bernoulli"] > 0, "yes", "no"), "x": X}
    fit = rf.Model("y ~ x").fit(table, draws=100, progress=False)
    assert fit.program.family.name == "bernoulli"
    assert fit.summary().loc["x", "mean"] > 0
    again = rf.load(fit.save(tmp_path / "fit.ranef"))
    np.testing.assert_array_equal(again.log_score(table), fit.log_score(table))


def test_categories_have_predictors_of_their_own_and_probabilities(tmp_path):
    etas = np.stack([0 * X, 0.5 + X, -X], axis=1) + RNG.gumbel(size=(N, 3))
    table = {"y": np.array(list("abc"))[etas.argmax(axis=1)], "x": X}
    fit = rf.Model("y ~ x", family="categorical").fit(table, draws=100, progress=False)
    slopes = fit.summary().loc[["mub_x", "muc_x"]]
    assert (abs(slopes["mean"] - [1, -1]) < 4 * slopes["sd"]).all()
    found = fit.predict(table)
    np.testing.assert_allclose(found[["p[a]", "p[b]", "p[c]"]].sum(axis=1), 1.0, rtol=1e-6)
    again = rf.load(fit.save(tmp_path / "fit.ranef"))
    np.testing.assert_array_equal(again.predict(table), found)


@pytest.mark.parametrize(
    ("family", "left", "column", "message"),
    [
        ("poisson", "y", [1.0, 2.5, 3.0], "is 2.5 in row 2, and the family poisson takes whole"),
        ("gamma", "y", [1.0, 2.0, 0.0], "is 0 in row 3, and the family gamma takes numbers above"),
        ("beta", "y", [0.5, 1.0, 0.2], "is 1 in row 2, and the family beta takes numbers above"),
        ("bernoulli", "y", [0, 1, 2], "is 2 in row 3, and the family bernoulli takes 0 or 1"),
        ("binomial", "y / n", [1, 2, 9], "is 9 in row 3, and the family binomial takes whole"),
        ("gaussian", "y", ["a", "b", "c"], "has 3 distinct texts"),
        ("ordinal", "y", [1.0, 1.5, 2.0], "is 1.5 in row 2, and the family ordinal takes whole"),
    ],
)
def test_a_response_outside_the_support_is_named(family, left, column, message):
    table = {"y": column, "n": [4, 4, 4], "x": [0.1, 0.2, 0.4]}
    with pytest.raises(rf.DataError, match=message):
        rf.Model(f"{left} ~ x", family=family).fit(table, progress=False)


def test_a_certain_row_keeps_its_digits():
    """At a logit of 50 the probability is one, and the log of what is left -50."""
    law = load("family", "bernoulli")(Formula.parse("y ~ 1").response)
    with jax.enable_x64(True):
        got = law.log_density(ResponseDesign(np.array([0.0, 1.0])), p=jnp.array([50.0, 50.0]))
    np.testing.assert_allclose(got, [-50.0, -np.exp(-50)], rtol=1e-12)


def test_an_offset_moves_the_intercept_to_the_rate():
    exposure = np.full(N, 1e6)
    table = {"y": COUNTS, "n": exposure, "x": X}
    prior = rf.Model("y ~ x + offset(log(n))", family="poisson").priors_for(table)["Intercept"]
    assert abs(prior.prior.mu - np.log(COUNTS.mean() / 1e6)) < 1e-6
    apart = {**table, "n": np.where(np.arange(N) % 2, 1e2, 1e6)}
    rate = rf.Model("y ~ x + offset(log(n))", family="poisson").priors_for(apart)["Intercept"]
    assert rate.prior.mu == pytest.approx(np.log(COUNTS.sum() / apart["n"].sum()))
