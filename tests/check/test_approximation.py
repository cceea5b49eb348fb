"""Approximations beside references that integrate what they approximate."""

from dataclasses import replace

import numpy as np
import pytest

import ranef as rf
from ranef.check import check
from ranef.check.deadline import Deadline
from ranef.check.reference import Reference, normal_k_hat
from ranef.check.reference_exact import closed
from ranef.check.reference_importance import sampled
from ranef.inference.base import Draws
from ranef.posterior.posterior import Posterior
from ranef.program.problem_builder import build_problem


@pytest.fixture(scope="module")
def exact(dyestuff):
    priors = {"Intercept": rf.Normal(1500, 150)}  # a site of its own
    model = rf.Model("Yield ~ 1 + (1 | Batch)", priors=priors)
    return model.fit(dyestuff, method="exact", progress=False)


def judged(fit, change):
    """The verdict on the fit's draws, changed, as if a guide had made them."""
    sites = {name: np.array(value) for name, value in fit.draws.sites.items()}
    change(sites)
    draws = Draws(lambda: sites, {}, {}, True, "m", elbo=(0.0, 0.0))
    return check(Posterior(fit.program, fit.training, draws))


def about_the_mean(values, factor):
    middle = values.mean()
    return middle + factor * (values - middle)


@pytest.mark.parametrize(
    ("factor", "shift", "expected"),
    [
        (1.0, 0.0, "trust"),
        (0.93, 0.03, "trust"),
        (0.8, 0.0, "distrust"),
        (1.4, 0.0, "distrust"),
        (1.0, 0.4, "distrust"),
    ],
)
def test_means_and_sds_of_a_common_effect(factor, shift, expected, exact):
    def change(sites):
        sd = sites["Intercept"].std()
        sites["Intercept"] = about_the_mean(sites["Intercept"], factor) + shift * sd

    verdict = judged(exact, change)
    assert verdict.verdict == expected
    assert all("Intercept" in s.sign or "k-hat" in s.sign for s in verdict.symptoms)


def test_effects_of_levels_are_judged(exact):
    def change(sites):
        effects = sites["1|Batch"]
        effects[..., 2] = about_the_mean(effects[..., 2], 0.6)

    verdict = judged(exact, change)
    assert verdict.verdict == "distrust"
    assert "the sd of an effect of 1|Batch is 0.6" in verdict.reasons[0]


def test_a_direction_is_seen_where_every_sd_is_right():
    """Draws of a correlated pair that are shuffled apart keep their sds and lose their sum's."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    z = 0.95 * x + np.sqrt(1 - 0.95**2) * rng.normal(size=200)
    table = {"x": x, "z": z, "y": x + z + rng.normal(size=200)}
    own = {"common": rf.Normal(0, 10)}  # sites of their own
    fit = rf.Model("y ~ x + z", priors=own).fit(table, progress=False)

    def shuffled(sites):
        sites["x"] = rng.permutation(sites["x"][0])[None]

    verdict = judged(fit, shuffled)
    assert verdict.verdict == "distrust"
    assert any(r.startswith("the sd along") and "x - z" in r.replace("z - x", "x - z")
               for r in verdict.reasons)  # fmt: skip
    assert not any(r.startswith("the sd of") for r in verdict.reasons)
    assert judged(fit, lambda sites: None).verdict == "trust"


def test_the_two_references_agree(dyestuff):
    """Importance sampling through the program, and the closed form, share no formula."""
    fit = rf.Model("Yield ~ 1 + (1 | Batch)").fit(dyestuff, method="svi", progress=False)
    posterior = Posterior(fit.program, fit.training, fit.draws)
    problem, deadline = build_problem(posterior.program, posterior.training), Deadline(60)
    one, other = (look(posterior, problem, deadline) for look in (closed, sampled))
    assert isinstance(one, Reference)
    assert isinstance(other, Reference)
    # Given the scales the effects are normal, so that Laplace's integral is exact.
    assert other.k_hat == pytest.approx(one.k_hat, abs=1e-6)
    place = [other.labels.index(label) for label in one.labels]
    sd = np.sqrt(np.diag(one.covariance))
    np.testing.assert_allclose((other.mean[place] - one.mean) / sd, 0, atol=0.15)
    np.testing.assert_allclose(np.sqrt(np.diag(other.covariance))[place] / sd, 1, atol=0.12)
    for name, (_, _, mean, spread) in one.levels.items():
        np.testing.assert_allclose((other.levels[name][2] - mean) / spread, 0, atol=0.15)
        np.testing.assert_allclose(other.levels[name][3] / spread, 1, atol=0.12)


def test_binary_responses_have_a_reference():
    rng = np.random.default_rng(1)
    g, x = rng.integers(0, 15, 200), rng.normal(size=200)
    eta = x + rng.normal(size=15)[g]
    table = {"y": (rng.random(200) < 1 / (1 + np.exp(-eta))) * 1.0, "x": x, "g": g.astype(str)}
    model = rf.Model("y ~ x + (1 | g)", family="bernoulli")
    assert model.fit(table, method="laplace", progress=False).check().verdict == "trust"
    poor = model.fit(table, method="svi", guide="meanfield", progress=False)
    assert poor.draws.is_gaussian_guide
    assert poor.check().verdict == "distrust"
    # A linear model's svi is its closed form, and is not judged as a normal guide would be.
    assert not model.fit(table, method="svi", progress=False).draws.is_gaussian_guide


@pytest.mark.parametrize(
    ("guide", "formula", "expected"),
    [
        ("meanfield", "y ~ x + (1 | g)", "distrust"),
        ("meanfield", "y ~ x", "caution"),
        ("structured", "y ~ x + (1 | g)", "unchecked"),
    ],
)
def test_a_guide_is_not_trusted_unchecked(guide, formula, expected, monkeypatch):
    """As of a model too large for a reference."""
    monkeypatch.setattr("ranef.check.reference_importance._COST", 0)
    monkeypatch.setattr("ranef.check.chain_coordinates._LARGEST", 0)
    rng = np.random.default_rng(1)
    g, x = rng.integers(0, 15, 200), rng.normal(size=200)
    table = {"y": (rng.random(200) < 0.5) * 1.0, "x": x, "g": g.astype(str)}
    fit = rf.Model(formula, family="bernoulli").fit(
        table, method="svi", guide=guide, steps=1_000, progress=False
    )
    assert fit.draws.is_gaussian_guide
    found = [s for s in fit.check().symptoms if s.sign.startswith("the sds were not checked")]
    assert [symptom.weight for symptom in found] == [expected]
    assert fit.check().looked == ()


@pytest.mark.parametrize(("factor", "low", "high"), [(1.0, -np.inf, 0.4), (0.5, 0.55, 0.9)])
def test_k_hat_of_a_normal_for_a_normal(factor, low, high):
    """Weights of N(0, 1) under draws of N(0, s^2) have the tail index 1 - s^2."""
    z = factor * np.random.default_rng(2).normal(size=(100_000, 1))
    k = normal_k_hat(z, -0.5 * z[:, 0] ** 2)
    assert k is not None
    assert low < k < high


def test_an_elbo_that_still_rises(exact):
    sites = dict(exact.draws.sites)
    rng = np.random.default_rng(3)
    flat = rng.normal(size=2000)
    draws = Draws(
        lambda: sites, {}, {}, True, "m", steps=2000, elbo=(0.0, 0.0), trace={"elbo": flat}
    )
    assert check(Posterior(exact.program, exact.training, draws)).verdict == "trust"
    rising = replace(draws, trace={"elbo": flat + 0.02 * np.arange(2000)})
    verdict = check(Posterior(exact.program, exact.training, rising))
    assert verdict.verdict == "caution"
    assert "still rose" in verdict.reasons[0]
