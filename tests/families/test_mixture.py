"""Mixtures from formula to fit: what was simulated, and what is published, comes back."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats as st

import ranef as rf
from ranef.formula.formula import Formula
from ranef.program.program import Program
from ranef.program.relabelling import relabel
from ranef.registry import load

N = 400
RNG = np.random.default_rng(7)
X = RNG.normal(size=N)
SECOND = RNG.random(N) < 1 / (1 + np.exp(-0.4 - X))
LINES = {
    "y": np.where(SECOND, 3.0 - X + 0.8 * RNG.normal(size=N), -1.0 + X + 0.4 * RNG.normal(size=N)),
    "x": X,
}
TRUTH = {
    **{"mu1_Intercept": -1.0, "mu1_x": 1.0, "mu2_Intercept": 3.0, "mu2_x": -1.0},
    **{"mix2_Intercept": 0.4, "mix2_x": 1.0, "sigma1": 0.4, "sigma2": 0.8},
}
TWO = rf.Mixture("gaussian", k=2)


@pytest.fixture(scope="module")
def fit() -> rf.Fit:
    return rf.Model("y ~ x; mix ~ x", family=TWO).fit(LINES, progress=False)


def test_two_lines_and_their_shares_come_back(fit):
    summary = fit.summary()
    assert fit.method == "laplace"
    assert list(summary.index) == list(TRUTH)
    away = (summary["mean"] - pd.Series(TRUTH)) / summary["sd"]
    assert (abs(away) < 3.5).all()
    assert (summary["sd"] < 0.25).all()


def test_components_of_rows_are_bayes_rule(fit):
    found = fit.predict(LINES, kind="component")
    assert list(found.columns) == ["component", "p[1]", "p[2]"]
    np.testing.assert_allclose(found["p[1]"] + found["p[2]"], 1.0, rtol=1e-6)
    assert ((found["component"] == 2) == SECOND).mean() > 0.95
    m = fit.summary()["mean"]
    first = st.norm(m["mu1_Intercept"] + m["mu1_x"] * X, m["sigma1"]).pdf(LINES["y"])
    second = st.norm(m["mu2_Intercept"] + m["mu2_x"] * X, m["sigma2"]).pdf(LINES["y"])
    odds = np.exp(m["mix2_Intercept"] + m["mix2_x"] * X)
    # At the posterior mean, not averaged over draws.
    np.testing.assert_allclose(found["p[2]"], odds * second / (first + odds * second), atol=0.05)
    shares = fit.predict(LINES)["p[2]"]
    np.testing.assert_allclose(shares, odds / (1 + odds), atol=0.02)


def test_a_mixture_is_kept(fit, tmp_path):
    again = rf.load(fit.save(tmp_path / "fit.ranef"))
    assert again.program.family.name == "mixture(gaussian, gaussian)"
    np.testing.assert_array_equal(again.log_score(LINES), fit.log_score(LINES))
    pd.testing.assert_frame_equal(
        again.predict(LINES, kind="component"), fit.predict(LINES, kind="component")
    )


def test_the_verdict_is_reached(fit):
    assert fit.check().verdict in ("trust", "caution")


def test_old_faithful_has_two_kinds_of_waiting(reference_data):
    table = pd.read_csv(reference_data / "mixed" / "faithful.csv")
    summary = rf.Model("waiting ~ 1", family=TWO).fit(table, progress=False).summary()
    assert abs(summary.loc["mu1_Intercept", "mean"] - 54.6) < 0.3
    assert abs(summary.loc["mu2_Intercept", "mean"] - 80.1) < 0.3
    share = 1 / (1 + np.exp(-summary.loc["mix2_Intercept", "mean"]))
    assert abs(share - 0.64) < 0.01


def test_different_families_are_mixed():
    rng = np.random.default_rng(2)
    second = rng.random(N) < 0.3
    y = np.where(second, 8 + 0.7 * rng.standard_t(3, N), rng.normal(0, 1, N))
    fit = rf.Model("y ~ 1", family=rf.Mixture("gaussian", "student")).fit({"y": y}, progress=False)
    summary = fit.summary()
    assert list(summary.index[:2]) == ["mu1_Intercept", "mu2_Intercept"]
    assert {"sigma1", "sigma2", "nu2", "mix2_Intercept"} < set(summary.index)
    assert abs(summary.loc["mu2_Intercept", "mean"] - 8) < 4 * summary.loc["mu2_Intercept", "sd"]


def program(formula: str, family: rf.Mixture = TWO) -> Program:
    return Program(Formula.parse(formula), family.name, {}, {}, ())


def test_which_part_predicts_which_parameter():
    found = {
        name: [term.label for term in terms]
        for name, terms in program("y ~ x; sigma ~ z; sigma2 ~ w; mu2 ~ z + (1 | g)").terms.items()
    }
    assert found == {
        "mu1": ["mu1_common"],
        "mu2": ["mu2_common", "mu2_1 | g"],
        "sigma1": ["sigma1_common"],
        "sigma2": ["sigma2_common"],
        "mix2": ["mix2_common"],
    }


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("y ~ x; nu ~ x", "has no parameter 'nu' to predict; it has: mix, mix2, mu1, mu2, sigma"),
        ("y ~ x; mu ~ x", "has no parameter 'mu' to predict"),
        ("y ~ x; mix1 ~ x", "has no parameter 'mix1' to predict"),
        ("y ~ x; mu1 ~ x; mu2 ~ z", "no component is left for the predictor of the mean"),
        ("y ~ x; mix ~ x; mix2 ~ z", "no component is left for the predictor of mix"),
        ("y / n ~ x", "has no response of the form successes / trials"),
    ],
)
def test_what_a_formula_cannot_say_of_a_mixture(formula, said):
    with pytest.raises(rf.RanefError, match=said):
        program(formula)


@pytest.mark.parametrize(
    ("families", "k", "said"),
    [
        (("gausian",), 2, "there is no family 'gausian' to mix; did you mean 'gaussian'"),
        (("gaussian",), 1, "from 2 to 20 components, .*this one has 1"),
        (("gaussian",), None, "this one has 1"),
        (("gaussian", "student"), 2, "k is the number of components of one family"),
        (("gaussian", "poisson"), None, "mixes counts with measurements"),
        (("ordinal",), 2, "cannot be ordinal"),
        (("mixture",), 2, "cannot be mixture"),
    ],
)
def test_what_cannot_be_mixed(families, k, said):
    with pytest.raises(rf.OptionError, match=said):
        load("family", rf.Mixture(*families, k=k).name)


def test_a_family_that_is_made_of_nothing_is_refused():
    with pytest.raises(rf.OptionError, match=r"write family=rf.Mixture\('gaussian', k=2\)"):
        rf.Model("y ~ x", family="mixture")
    with pytest.raises(rf.OptionError, match="'gaussian' is not made of others"):
        rf.Model("y ~ x", family="gaussian(student)")
    with pytest.raises(rf.OptionError, match="no components; kind='component' takes a mixture"):
        rf.Model("y ~ x").fit(LINES, progress=False).predict(LINES, kind="component")


def drawn(k: int, seed: int) -> dict[str, np.ndarray]:
    """Draws of k components whose lines cross at x = 0: intercepts do not tell them apart."""
    rng = np.random.default_rng(seed)
    out = {}
    for j in range(1, k + 1):
        out[f"mu{j}_Intercept"] = 0.01 * j + rng.normal(0, 0.1, (2, 500))
        out[f"mu{j}_x"] = 3.0 * j + rng.normal(0, 0.1, (2, 500))
        out[f"sigma{j}"] = np.exp(rng.normal(j / 10, 0.1, (2, 500)))
        if j > 1:
            out[f"mix{j}_Intercept"] = j / 2 + rng.normal(0, 0.1, (2, 500))
    return out


@pytest.mark.parametrize("k", [2, 3])
def test_draws_in_other_orders_are_put_in_one(k):
    straight = drawn(k, 1)
    law = program("y ~ x", rf.Mixture("gaussian", k=k)).family
    priors = {name: rf.Normal(0, 1) for name in straight}
    rng = np.random.default_rng(3)
    orders = np.array(
        [rng.permutation(k) if rng.random() < 0.3 else np.arange(k) for _ in range(1000)]
    )
    orders = orders.reshape(2, 500, k)
    odds = np.stack(
        [np.zeros((2, 500)), *(straight[f"mix{j}_Intercept"] for j in range(2, k + 1))], axis=2
    )
    moved = np.take_along_axis(odds, orders, axis=2)
    mixed = {f"mix{j + 1}_Intercept": moved[:, :, j] - moved[:, :, 0] for j in range(1, k)}
    for stem, rest in (("mu", "_Intercept"), ("mu", "_x"), ("sigma", "")):
        each = np.stack([straight[f"{stem}{j + 1}{rest}"] for j in range(k)], axis=2)
        each = np.take_along_axis(each, orders, axis=2)
        mixed |= {f"{stem}{j + 1}{rest}": each[:, :, j] for j in range(k)}
    found, exchanged = relabel(law, priors, mixed)
    np.testing.assert_array_equal(exchanged, (orders != np.arange(k)).any(axis=-1))
    for name, values in straight.items():
        np.testing.assert_allclose(found[name], values, atol=1e-12)


def test_priors_that_tell_components_apart_keep_their_numbers():
    straight = drawn(2, 1)
    law = program("y ~ x").family
    priors = {name: rf.Normal(0, 1) for name in straight} | {"mu2_x": rf.Normal(6, 1)}
    found, exchanged = relabel(law, priors, straight)
    assert exchanged is None
    assert found.keys() == straight.keys()


def test_a_beta_prior_of_a_share():
    """Of 800 answers that say a half the share is what they say, not the rows' fifth."""
    rng = np.random.default_rng(1)
    table = {"y": np.r_[rng.normal(0, 1, 160), rng.normal(5, 1, 40)]}
    priors = {
        "mix2_Intercept": rf.LogOdds(rf.Beta(400, 400)),
        **{"mu1_Intercept": 0.0, "mu2_Intercept": 5.0, "sigma1": 1.0, "sigma2": 1.0},
    }
    model = rf.Model("y ~ 1", family=rf.Mixture("gaussian", k=2), priors=priors)
    fit = model.fit(table, draws=2_000, progress=False)
    assert fit.method == "svi"
    share = 1 / (1 + np.exp(-np.asarray(fit.posterior["mix2_Intercept"])))
    # The components known it is about Beta(440, 560).
    assert share.mean() == pytest.approx(0.44, abs=0.015)
    assert share.std() == pytest.approx(np.sqrt(0.44 * 0.56 / 1001), rel=0.2)
