"""Draws from the prior and the sensitivity to it, held against densities by hand."""

import numpy as np
import pytest
from scipy.stats import halfnorm, norm

import ranef as rf

RNG = np.random.default_rng(5)
N = 40
TABLE = {"y": RNG.normal(1.0, 1.0, N), "g": np.repeat(np.arange(8), 5), "n": RNG.poisson(3, N)}
PRIORS = {"Intercept": rf.Normal(2, 1), "1|g_sigma": 2.0, "sigma": 0.5}


@pytest.fixture(scope="module")
def fit():
    """An intercept with a normal posterior, whose prior is far from the responses."""
    priors = {"Intercept": rf.Normal(2, 0.3), "sigma": 1.0}
    return rf.Model("y ~ 1", priors=priors).fit(TABLE, draws=4000, progress=False)


def test_prior_responses_have_the_variances_of_the_prior():
    """Y = a + b_g + e with variances 1, 4 and 1 / 4: those of one level share the first two."""
    fit = rf.Model("y ~ 1 + (1 | g)", priors=PRIORS).fit(TABLE, draws=20, progress=False)
    drawn = fit.prior_predictive(2000, seed=1)
    assert (drawn.dims, drawn.shape, drawn.name) == (("chain", "draw", "row"), (1, 2000, N), "y")
    each = drawn.to_numpy()[0]
    assert each.mean() == pytest.approx(2, abs=0.15)
    assert each.std() == pytest.approx(np.sqrt(5.25), rel=0.05)
    found = np.corrcoef(each.T)
    assert found[0, 1] == pytest.approx(5 / 5.25, abs=0.02)
    assert found[0, 39] == pytest.approx(1 / 5.25, abs=0.06)
    np.testing.assert_array_equal(fit.prior_predictive(2000, seed=1), drawn)


def test_a_prior_that_cannot_be_drawn_from_is_said():
    flat = rf.Model("y ~ 1", priors={"Intercept": rf.Flat()})
    with pytest.raises(rf.OptionError, match="flat prior"):
        flat.fit(TABLE, draws=20, progress=False).prior_predictive()
    wide = rf.Model("n ~ 1", family="poisson", priors={"Intercept": rf.Normal(0, 1e5)})
    with pytest.raises(rf.OptionError, match="not a finite number; give the model tighter priors"):
        wide.fit(TABLE, draws=20, progress=False).prior_predictive(50)


def test_the_log_prior_is_that_of_scipy():
    priors = {"Intercept": rf.Normal(2, 1), "1|g_sigma": rf.HalfNormal(2), "sigma": 0.5}
    fit = rf.Model("y ~ 1 + (1 | g)", priors=priors).fit(TABLE, draws=50, progress=False)
    found, draws = fit.extend("log_prior")["log_prior"], fit.posterior
    assert set(found.data_vars) == {"Intercept", "1|g_sigma"}
    np.testing.assert_allclose(found["Intercept"], norm.logpdf(draws["Intercept"], 2, 1))
    np.testing.assert_allclose(
        found["1|g_sigma"], halfnorm.logpdf(draws["1|g_sigma"], scale=2), rtol=1e-6
    )


def cumulative_distance(p, q, width):
    """Cumulative Jensen-Shannon distance of two distribution functions on a grid, normalised."""

    def integral(values):
        return float(values.sum() * width)

    def one(a, b):
        return integral(a * np.log2(2 * a / (a + b))) + integral(b - a) / (2 * np.log(2))

    return np.sqrt((one(p, q) + one(q, p)) / (integral(p) + integral(q)))


def test_sensitivity_is_that_of_the_scaled_normal_posterior(fit):
    """Precision and mean of N(2, .3^2)^alpha times the likelihood of a known sigma."""
    y, found = TABLE["y"], fit.sensitivity().loc["Intercept"]
    draws = fit.posterior["Intercept"].to_numpy()
    grid = np.linspace(draws.min(), draws.max(), 20_001)

    def cdf(prior, likelihood):
        precision = prior / 0.09 + likelihood * N
        return norm.cdf(
            grid, (2 * prior / 0.09 + likelihood * y.sum()) / precision, precision**-0.5
        )

    for name, scaled in (("prior", lambda a: (a, 1)), ("likelihood", lambda a: (1, a))):
        p, each = cdf(1, 1), []
        for alpha in (0.99, 1.01):
            q, width = cdf(*scaled(alpha)), grid[1] - grid[0]
            way = max(cumulative_distance(p, q, width), cumulative_distance(1 - p, 1 - q, width))
            each.append(way / abs(np.log2(alpha)))
        assert found[name] == pytest.approx(np.mean(each), rel=0.1)
    assert found["diagnosis"] == "prior and data disagree"


@pytest.mark.long
def test_a_default_prior_is_no_cause_for_concern(fit):
    weak = fit.update(priors=None, progress=False).sensitivity()
    assert set(weak["diagnosis"]) == {"none"}
    assert list(weak.index) == ["Intercept", "sigma"]
    with pytest.raises(rf.OptionError, match="at least 50 draws, and the fit has 20"):
        fit.update(draws=20, progress=False).sensitivity()
    with pytest.raises(rf.OptionError, match="at least 25 draws, and the fit has 20"):
        fit.update(draws=20, progress=False).loo()
    none = fit.update(priors={"Intercept": 1.0, "sigma": 1.0}, draws=20, progress=False)
    with pytest.raises(rf.OptionError, match="fixed or point estimates"):
        none.sensitivity()
