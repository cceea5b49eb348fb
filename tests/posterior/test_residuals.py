"""Residuals and their tests, held against densities and a few lines of NumPy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import ranef as rf
from ranef.inference.base import Draws
from ranef.posterior.predictive import Predictive
from ranef.posterior.simulated_residuals import redrawn, some_rows
from ranef.terms.base import RunOptions

RNG = np.random.default_rng(8)
N, J = 150, 10
G = np.repeat(np.arange(J), N // J)
X = RNG.normal(size=N)
Y = 1 + X + RNG.normal(size=J)[G] + RNG.normal(0, 2, N)
TABLE = pd.DataFrame({"y": Y, "x": X, "g": G}, index=pd.Index([f"r{i}" for i in range(N)]))


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ x + (1 | g)").fit(TABLE, progress=False, draws=200)


@pytest.fixture(scope="module")
def location(fit):
    """Draws of the mean and of sigma."""
    draws = fit.posterior.stack(s=("chain", "draw"))
    a, b, sigma = (draws[name].to_numpy()[:, None] for name in ("Intercept", "x", "sigma"))
    return a + b * X + draws["1|g"].transpose("s", ...).to_numpy()[:, G], sigma


def test_residuals_of_a_gaussian_response(fit, location):
    mean, sigma = location
    found = fit.residuals()
    assert found.index.equals(TABLE.index)
    np.testing.assert_allclose(found, Y - mean.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(fit.residuals("pearson"), ((Y - mean) / sigma).mean(axis=0))
    expected = stats.norm.ppf(stats.norm.cdf(Y, mean, sigma).mean(axis=0))
    np.testing.assert_allclose(fit.residuals(kind="quantile"), expected, rtol=1e-6)
    some = TABLE.iloc[[7, 3]]
    pd.testing.assert_series_equal(fit.residuals(data=some), found.iloc[[7, 3]])
    scaled = fit.residuals("scaled", seed=3)
    assert scaled.between(0, 1, inclusive="neither").all()
    assert not scaled.equals(fit.residuals("scaled", seed=4))


def tables_of(fit, anew: bool, seed: int = 0):
    """Simulated tables, as the residual checks draw them first."""
    rows = some_rows(fit._known, None)
    designs = redrawn(rows) if anew else rows.designs
    replay = RunOptions(training=False, new_levels="sample")
    predictive = Predictive(fit.program, fit.training.state, fit.draws, replay, seed)
    return predictive.responses(designs, rows.response, rows.n)


def test_checks_by_a_few_lines_of_numpy(fit, location):
    drawn = tables_of(fit, anew=True)
    found = fit.residual_checks(simulations=200)
    scaled = fit.residuals("scaled")
    assert fit.draws.shape == (1, 200)
    below = (drawn < Y).sum(axis=0)
    assert ((scaled * 201 >= below) & (scaled * 201 <= below + 1)).all()

    tables = np.concatenate([Y[None], drawn])
    ranks = stats.rankdata(tables, axis=0)
    uniform = np.arange(1, 202) / 201
    reached = np.stack([np.searchsorted(np.sort(r), np.arange(1, 202), "right") for r in ranks])
    distance = np.abs(reached / N - uniform).max(axis=1)
    assert found.loc["uniformity", "statistic"] == pytest.approx(distance[0])
    assert found.loc["uniformity", "p"] == pytest.approx((distance >= distance[0]).mean())
    # Kolmogorov-Smirnov's distance of the scaled residuals, up to one rank.
    assert distance[0] == pytest.approx(stats.kstest(scaled, "uniform").statistic, abs=1 / 201)

    beyond = ((ranks == 1) | (ranks == 201)).sum(axis=1)
    two_sided = min(1, 2 * min((beyond <= beyond[0]).mean(), (beyond >= beyond[0]).mean()))
    assert found.loc["outliers", "statistic"] == beyond[0]
    assert found.loc["outliers", "expected"] == pytest.approx(beyond[1:].mean())
    assert found.loc["outliers", "p"] == pytest.approx(two_sided)
    assert beyond.mean() == pytest.approx(2 * N / 201)

    mean, sigma = location
    spread = (Y - mean).var(axis=1, ddof=1).mean()
    dispersion = found.loc["dispersion"]
    assert dispersion["statistic"] == pytest.approx(spread / (sigma**2).mean(), rel=0.05)
    assert found.index.tolist() == ["uniformity", "dispersion", "outliers"]
    assert "nothing stands out" in repr(found)


def test_group_effects_are_drawn_anew(fit):
    """Each table has its own effects: means of levels vary as much as the sd between levels."""
    kept, anew = tables_of(fit, anew=False), tables_of(fit, anew=True)
    draws = fit.posterior.stack(s=("chain", "draw"))
    between = (draws["1|g_sigma"].to_numpy() ** 2).mean()
    of_level = [t[:, G == 0].mean(axis=1).var() for t in (anew, kept)]
    residual = (draws["sigma"].to_numpy() ** 2).mean() / (N // J)
    assert of_level[0] == pytest.approx(between + residual, rel=0.5)
    assert of_level[1] < 0.6 * of_level[0]
    assert isinstance(fit.draws, Draws)


@pytest.mark.long
def test_overdispersed_counts_stand_out_and_right_ones_do_not():
    rng = np.random.default_rng(1)
    mu = np.exp(1 + 0.5 * X + rng.normal(0, 0.5, J)[G])
    table = TABLE.assign(right=rng.poisson(mu), wide=rng.poisson(mu * rng.gamma(1.0, 1.0, N)))
    checks = {
        name: rf.Model(f"{name} ~ x + (1 | g)", family="poisson")
        .fit(table, progress=False, draws=200)
        .residual_checks()
        for name in ("right", "wide")
    }
    assert (checks["right"]["p"] > 0.05).all()
    assert checks["wide"].loc["dispersion", "statistic"] > 2
    assert checks["wide"].loc["dispersion", "p"] == pytest.approx(2 / 201)
    assert checks["wide"].loc["zeros", "p"] < 0.05
    zeros = checks["wide"].loc["zeros", "statistic"]
    assert zeros == (table["wide"] == 0).sum()
    assert "overdispersion" in repr(checks["wide"])


@pytest.mark.long
def test_discrete_quantile_residuals_lie_between_the_limits():
    rng = np.random.default_rng(2)
    table = TABLE.assign(c=rng.poisson(2.0, N))
    fit = rf.Model("c ~ x", family="poisson").fit(table, progress=False, draws=200)
    draws = fit.posterior.stack(s=("chain", "draw"))
    mu = np.exp(draws["Intercept"].to_numpy()[:, None] + draws["x"].to_numpy()[:, None] * X)
    low, high = (stats.poisson.cdf(table["c"] - d, mu).mean(axis=0) for d in (1, 0))
    found = fit.residuals("quantile")
    assert ((stats.norm.cdf(found) >= low) & (stats.norm.cdf(found) <= high)).all()
    assert stats.kstest(found, "norm").pvalue > 0.01
    np.testing.assert_allclose(
        fit.residuals("pearson"), ((table["c"].to_numpy() - mu) / np.sqrt(mu)).mean(axis=0)
    )


@pytest.mark.long
def test_p_values_of_a_right_model_are_not_too_small():
    """Rows of a level are alike, which a test of independent rows takes for a misfit."""
    rejected, naive = 0, 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        table = TABLE.assign(y=rng.normal(0, 2, J)[G] + rng.normal(size=N))
        fit = rf.Model("y ~ 1 + (1 | g)").fit(table, progress=False, draws=100)
        rejected += (fit.residual_checks(seed=seed)["p"] < 0.05).to_numpy()
        naive += stats.kstest(fit.residuals("scaled", seed=seed), "uniform").pvalue < 0.05
    assert (rejected <= 2).all()
    assert naive >= 3


def test_refusals(fit):
    with pytest.raises(rf.OptionError, match="'response', 'pearson', 'quantile', 'scaled'"):
        fit.residuals("deviance")
    with pytest.raises(rf.OptionError, match="at most 200"):
        fit.residual_checks(simulations=201)
    with pytest.raises(rf.OptionError, match="at least 20"):
        fit.residual_checks(simulations=5)
    with pytest.raises(rf.DataError, match="not seen in training"):
        fit.residuals(data=TABLE.assign(g=99))
    table = TABLE.assign(k=np.array(list("abc"))[G % 3])
    kinds = rf.Model("k ~ x", family="categorical").fit(table, progress=False, draws=50)
    for call in (kinds.residuals, kinds.residual_checks, lambda: rf.plots.residual_checks(kinds)):
        with pytest.raises(rf.OptionError, match="no order"):
            call()
