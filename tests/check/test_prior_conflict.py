"""Priors against the data: who is named, and who is not."""

import numpy as np
import pytest

import ranef as rf
from ranef.program.problem_builder import build_problem

N = 80
RNG = np.random.default_rng(11)
X = RNG.normal(size=N)
G = RNG.integers(0, 8, N)
TABLE = {
    "x": X,
    "year": RNG.integers(1990, 2021, N).astype(float),
    "g": G,
    "y": 3 + X + RNG.normal(size=N),
    "yes": (X > 0).astype(float),
    "noisy": (X + RNG.logistic(size=N) > 0).astype(float),
    "zero": np.zeros(N),
}


def signs(formula, family="gaussian", priors=None):
    fit = rf.Model(formula, family=family, priors=priors).fit(TABLE, progress=False)
    return [s.sign for s in fit.check(quick=True).symptoms]


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("y ~ x*year + (year | g)", "gaussian"),
        ("noisy ~ x + (1 | g)", "bernoulli"),
        ("y ~ 0 + x", "gaussian"),
    ],
)
def test_default_priors_are_not_named_where_the_data_say_more(formula, family):
    assert not any("prior" in sign for sign in signs(formula, family))


def test_a_default_prior_that_holds_an_effect_back_is_named():
    [sign] = [s for s in signs("yes ~ x", "bernoulli") if "default prior moves" in s]
    assert "x by " in sign


def test_an_effect_that_only_its_prior_tells_is_named():
    [sign] = [s for s in signs("y ~ x + zero") if "nearly as wide" in s]
    assert sign.startswith("the posterior of zero is")


def test_a_prior_of_the_users_far_from_the_data_is_named():
    named = signs("y ~ x", priors={"Intercept": rf.Normal(0, 0.3)})
    assert any("posterior mean of Intercept" in s and "far tail of its prior" in s for s in named)


def test_the_likelihoods_mean_is_what_a_flat_prior_gives():
    """Of a Gaussian model, the prior taken off the posterior leaves least squares."""
    from ranef.check.prior_conflict import moved

    fit = rf.Model("y ~ x", priors={"sigma": 1.0}).fit(
        {"x": X[:6], "y": TABLE["y"][:6]}, draws=20_000, progress=False
    )
    flat = rf.Model("y ~ x", priors={"sigma": 1.0, "common": rf.Flat(), "Intercept": rf.Flat()})
    least = flat.fit({"x": X[:6], "y": TABLE["y"][:6]}, progress=False).fixef()["mean"]
    found = fit.fixef()
    problem = build_problem(fit.program, fit.training)
    [block] = [b for b in problem.unit_blocks().values() if b is not None]
    z, share = moved(block, fit._known)
    expected = np.abs(found["mean"] - least) / found["sd"]
    np.testing.assert_allclose(z, expected, atol=0.02)
    assert (share < 1).all()


@pytest.mark.parametrize(
    ("prior", "named"),
    [
        (rf.Variance(rf.InverseGamma(3, 2)), False),
        (rf.Variance(rf.InverseGamma(50, 5000)), True),
        (rf.Precision(rf.Gamma(0.001, 0.001)), False),
        (rf.Precision(rf.Gamma(50, 5000)), True),
        (rf.Variance(rf.Uniform(0, 9)), False),
    ],
    ids=str,
)
def test_a_prior_of_a_variance_in_conflict_is_named(prior, named):
    found = signs("y ~ x", priors={"sigma": prior})
    assert any(f"prior {prior}" in sign for sign in found) == named


@pytest.mark.parametrize(("beta", "named"), [((2, 2), False), ((500, 5), True)])
def test_a_prior_of_log_odds_in_conflict_is_named(beta, named):
    prior = rf.LogOdds(rf.Beta(*beta))
    model = rf.Model("noisy ~ 1", family="bernoulli", priors={"Intercept": prior})
    fit = model.fit(TABLE, method="nuts", draws=100, tune=100, chains=2, progress=False)
    found = [s.sign for s in fit.check(quick=True).symptoms]
    assert any(f"prior {prior}" in sign for sign in found) == named
