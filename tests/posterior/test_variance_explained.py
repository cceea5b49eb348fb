"""R2 and intraclass correlations, held against R's package performance and dense algebra."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import ranef as rf
from ranef.data import parquet
from ranef.posterior.posterior import Posterior
from ranef.posterior.row_variances import WeightedVariance
from ranef.posterior.variance_explained import VarianceExplained

RNG = np.random.default_rng(11)
N, J = 240, 12
G = np.repeat(np.arange(J), N // J)
X = RNG.normal(1.0, 1.0, N)
TABLE = pd.DataFrame(
    {
        "y": 2
        + 0.8 * X
        + RNG.normal(size=J)[G]
        + RNG.normal(0, 0.4, J)[G] * X
        + RNG.normal(size=N),
        "x": X,
        "g": G,
        "w": RNG.uniform(0.5, 3.0, N),
        "k": np.array(list("abc"))[RNG.integers(0, 3, N)],
    }
)


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ x + (1 + x | g)").fit(TABLE, progress=False, draws=400)


def at(fit, **values) -> VarianceExplained:
    """The shares of a fit at one value of its parameters."""
    posterior = Posterior(fit.program, fit.training, fit.draws)
    posterior.__dict__["ready"] = {n.replace("_of_", "|"): np.asarray(v, float)[None, None]
                                   for n, v in values.items()}  # fmt: skip
    return VarianceExplained(posterior)


def test_performance_at_the_maximum_likelihood_estimates_of_sleepstudy(reference_data):
    """lmer(Reaction ~ Days + (Days | Subject), REML = FALSE), performance 0.10.2."""
    table = pd.read_csv(reference_data / "mixed" / "sleepstudy.csv")
    fit = rf.Model("Reaction ~ Days + (Days | Subject)").fit(table, progress=False, draws=500)
    corr = 0.081321093
    found = at(
        fit,
        Intercept=251.405105,
        Days=10.467286,
        **{"1|Subject_sigma": 23.779759589, "Days|Subject_sigma": 5.716798514},
        Subject_corr=[[1, corr], [corr, 1]],
        sigma=25.591907036,
    )
    r2, icc = found.r2("nakagawa", 0.9, 0)["estimate"], found.icc(0.9)
    assert r2["marginal"] == pytest.approx(0.28761589, abs=1e-6)
    assert r2["conditional"] == pytest.approx(0.79275857, abs=1e-6)
    icc = icc.set_index("kind")["estimate"]
    assert icc["adjusted"] == pytest.approx(0.70908752, abs=1e-6)
    assert icc["unadjusted"] == pytest.approx(0.50514268, abs=1e-6)
    # The posterior lies around these values.
    own = fit.r2(kind="nakagawa")
    assert (abs(own["estimate"] - r2) < own["sd"]).all()


@pytest.mark.long
def test_performance_at_the_maximum_likelihood_estimates_of_counts(reference_data):
    """By glmer and performance 0.10.2, which takes exp(intercept) of the null model for m."""
    table = pd.read_csv(reference_data / "mixed" / "cbpp.csv")
    fit = rf.Model("incidence / size ~ period + (1 | herd)", family="binomial").fit(
        table, progress=False
    )
    found = at(fit, Intercept=-0.9323388854, period=-0.5591817348, **{"1|herd_sigma": 0.6635091103})
    r2, icc = found.r2("nakagawa", 0.9, 0)["estimate"], found.icc(0.9)
    assert r2["marginal"] == pytest.approx(0.09620368202, abs=1e-6)
    assert r2["conditional"] == pytest.approx(0.20287371297, abs=1e-6)
    assert list(icc["estimate"]) == pytest.approx([0.1180244142, 0.1066700310], abs=1e-6)
    own = fit.r2(kind="nakagawa")
    assert (abs(own["estimate"] - r2) < own["sd"]).all()

    table = pd.read_csv(reference_data / "mixed" / "epil.csv")
    fit = rf.Model("y ~ lbase + (1 | subject)", family="poisson").fit(table, progress=False)
    found = at(fit, Intercept=1.629825628, lbase=0.997908938, **{"1|subject_sigma": 0.5439191012})
    r2 = found.r2("nakagawa", 0.9, 0)["estimate"]
    common, group, residual = 0.5543786108, 0.2958479887, np.log1p(1 / 8.262711864)
    total = common + group + residual
    assert r2["marginal"] == pytest.approx(common / total, abs=1e-6)
    assert r2["conditional"] == pytest.approx((common + group) / total, abs=1e-6)
    own = fit.r2(kind="nakagawa")
    assert own.loc["marginal", "lower"] < 0.5379568 < own.loc["marginal", "upper"]
    # The residual variance of performance is .18 for .11 here, since its m is 5.1 and not 8.3.
    assert own.loc["conditional", "estimate"] == pytest.approx(0.8250412, abs=0.07)


def test_bayesian_r2_is_the_dense_one_by_draw(fit):
    draws = fit.posterior.stack(s=("chain", "draw"))
    a, b, sigma = (draws[name].to_numpy() for name in ("Intercept", "x", "sigma"))
    u, v = (draws[name].transpose("s", ...).to_numpy() for name in ("1|g", "x|g"))
    common = a[:, None] + b[:, None] * X
    mean = common + u[:, G] + v[:, G] * X
    own, groups = mean.var(axis=1, ddof=1), (mean - common).var(axis=1, ddof=1)
    conditional = own / (own + sigma**2)
    marginal = common.var(axis=1, ddof=1)
    marginal = marginal / (marginal + groups + sigma**2)
    found = fit.r2(kind="bayes", interval=0.8)
    for name, values in {"conditional": conditional, "marginal": marginal}.items():
        expected = [values.mean(), values.std(ddof=1), *np.quantile(values, [0.1, 0.9])]
        np.testing.assert_allclose(found.loc[name].astype(float), expected, rtol=1e-8)
    assert "sigma^2" in repr(found)


def test_icc_with_slopes_is_the_mean_variance_of_the_rows(fit):
    draws = fit.posterior.stack(s=("chain", "draw"))
    s0, s1, sigma, b = (draws[n].to_numpy() for n in ("1|g_sigma", "x|g_sigma", "sigma", "x"))
    rho = draws["g_corr"].transpose("s", ...).to_numpy()[:, 0, 1]
    own = s0**2 + 2 * rho * s0 * s1 * X.mean() + s1**2 * (X**2).mean()
    adjusted = own / (own + sigma**2)
    unadjusted = own / (own + sigma**2 + b**2 * X.var(ddof=1))
    found = fit.icc()
    assert list(found.index) == ["g", "g"]
    assert list(found["estimate"]) == pytest.approx([adjusted.mean(), unadjusted.mean()], rel=1e-8)
    assert list(found["sd"]) == pytest.approx([adjusted.std(ddof=1), unadjusted.std(ddof=1)])


@pytest.mark.long
def test_r2_by_leave_one_out_is_that_of_arviz(fit):
    """loo_r2 of arviz-stats, from means and log densities computed here."""
    from arviz_stats.base.array import array_stats
    from scipy.stats import dirichlet, norm

    draws = fit.posterior.stack(s=("chain", "draw"))
    a, b, sigma = (draws[name].to_numpy() for name in ("Intercept", "x", "sigma"))
    u, v = (draws[name].transpose("s", ...).to_numpy() for name in ("1|g", "x|g"))
    mean = a[:, None] + b[:, None] * X + u[:, G] + v[:, G] * X
    y = TABLE["y"].to_numpy()
    weights, _ = array_stats.psislw(norm.logpdf(y, mean, sigma[:, None]), axis=0)
    error = y - (np.exp(weights.T) * mean).sum(axis=0)
    share = dirichlet.rvs(np.ones(N), 4000, random_state=1)
    left = share @ error**2 - (share @ error) ** 2
    expected = 1 - left / (share @ y**2 - (share @ y) ** 2)
    found = fit.r2(kind="loo").loc["loo"]
    assert found["estimate"] == pytest.approx(expected.mean(), abs=0.003)
    assert found["sd"] == pytest.approx(expected.std(), rel=0.06)
    assert found["estimate"] < fit.r2(kind="bayes").loc["conditional", "estimate"]
    assert list(fit.r2().index) == ["marginal", "conditional", "loo"]
    assert fit.r2(seed=1).loc["loo", "estimate"] != fit.r2(seed=2).loc["loo", "estimate"]


@pytest.mark.long
def test_rows_of_trials_count_as_their_trials():
    rng = np.random.default_rng(2)
    trials = rng.integers(1, 20, 60)
    x, g = rng.normal(size=60), np.arange(60) % 6
    hits = rng.binomial(trials, expit(0.5 * x + rng.normal(0, 0.7, 6)[g]))
    table = {"s": hits, "n": trials, "x": x, "g": g}
    fit = rf.Model("s / n ~ x + (1 | g)", family="binomial").fit(table, progress=False, draws=300)
    draws = fit.posterior.stack(s=("chain", "draw"))
    eta = draws["Intercept"].to_numpy()[:, None] + draws["x"].to_numpy()[:, None] * x
    eta = eta + draws["1|g"].transpose("s", ...).to_numpy()[:, g]
    p = np.repeat(expit(eta), trials, axis=1)
    own = p.var(axis=1, ddof=1)
    expected = own / (own + (p * (1 - p)).mean(axis=1))
    found = fit.r2(kind="bayes")
    assert found.loc["conditional", "estimate"] == pytest.approx(expected.mean(), rel=1e-6)


@pytest.mark.long
def test_known_weights_and_standard_errors():
    weighted = rf.Model("weights(y, w) ~ x + (1 | g)").fit(TABLE, progress=False, draws=100)
    known = rf.Model("se(y, w) ~ x + (1 | g)").fit(TABLE, progress=False, draws=100)
    w = TABLE["w"].to_numpy()
    for fit in (weighted, known):
        draws = fit.posterior.stack(s=("chain", "draw"))
        residual = draws["sigma"].to_numpy() ** 2 * (1 / w).mean() if fit is weighted else w @ w / N
        group = draws["1|g_sigma"].to_numpy() ** 2
        expected = (group / (group + residual)).mean()
        assert fit.icc()["estimate"].iloc[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.long
def test_a_level_for_each_row_is_residual():
    table = TABLE.assign(row=np.arange(N))
    fit = rf.Model("y ~ 1 + (1 | g) + (1 | row)").fit(table, progress=False, draws=100)
    draws = fit.posterior.stack(s=("chain", "draw"))
    group, row = (draws[f"1|{n}_sigma"].to_numpy() ** 2 for n in ("g", "row"))
    found = fit.icc()
    assert list(found.index) == ["g", "g"]
    residual = row + draws["sigma"].to_numpy() ** 2
    assert found["estimate"].iloc[0] == pytest.approx((group / (group + residual)).mean())


@pytest.mark.long
def test_rows_read_in_batches(tmp_path, fit, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 70)
    path = tmp_path / "rows.parquet"
    TABLE.to_parquet(path, row_group_size=50)
    streamed = rf.Model("y ~ x + (1 + x | g)").fit(path, method="exact", progress=False, draws=400)
    assert streamed.training.stream is not None
    found = streamed.r2()
    assert list(found.index) == ["marginal", "conditional"]
    assert "kind='loo' asks for it" not in repr(found)
    np.testing.assert_allclose(found["estimate"], fit.r2(kind="bayes")["estimate"], atol=0.01)
    np.testing.assert_allclose(streamed.icc()["estimate"], fit.icc()["estimate"], atol=0.02)
    assert (streamed.residual_checks()["p"] > 0).all()
    assert len(streamed.coef("g", 0.5)) == 2 * J
    for call in (lambda: streamed.r2(kind="loo"), streamed.residuals):
        with pytest.raises(rf.OptionError, match="in batches"):
            call()


def test_what_is_not_defined_is_refused_in_a_sentence(fit):
    plain = rf.Model("y ~ x").fit(TABLE, progress=False, draws=50)
    with pytest.raises(rf.OptionError, match="has none"):
        plain.icc()
    with pytest.raises(rf.OptionError, match="'bayes', 'nakagawa', 'loo'"):
        fit.r2(kind="adjusted")
    with pytest.raises(rf.OptionError, match="between 0 and 1"):
        fit.r2(interval=90)
    kinds = rf.Model("k ~ x", family="categorical").fit(TABLE, progress=False, draws=50)
    for kind in (None, "bayes", "loo", "nakagawa"):
        with pytest.raises(rf.OptionError, match="categorical"):
            kinds.r2(kind=kind)
    r2 = plain.r2(kind="nakagawa")["estimate"]
    assert r2["marginal"] == r2["conditional"]


def test_a_constant_has_no_variance_and_large_numbers_keep_theirs():
    rng = np.random.default_rng(0)
    values = 1e6 + rng.normal(size=(3, 50)) * [[0.0], [1.0], [2.0]]
    weights = rng.integers(1, 4, 50).astype(float)
    found = WeightedVariance()
    for rows in (slice(0, 7), slice(7, 50)):
        found.add(values[:, rows], weights[rows])
    expected = [np.repeat(own, weights.astype(int)).var(ddof=1) for own in values]
    np.testing.assert_allclose(found.variance, expected, rtol=1e-9)
    assert found.variance[0] == 0
