"""svi against closed forms: with known variances the best guide and its ELBO are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ranef as rf
from ranef.errors import DataError, OptionError
from ranef.inference.advi import elbo

N, ZIPS = 3_000, 60


@pytest.fixture(scope="module")
def posted():
    """Data of the post's shape: three scaled predictors, skewed groups, small signal."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(N, 3))
    codes = rng.choice(ZIPS, N, p=rng.dirichlet(np.ones(ZIPS)))
    y = 0.01 + x @ [0.02, -0.01, 0.0] + rng.normal(0, 0.1, ZIPS)[codes] + rng.normal(size=N)
    return {
        "y": y,
        **{name: x[:, i] for i, name in enumerate("abc")},
        "zip": np.array([f"z{c}" for c in codes]),
    }


def best(table, sigma_zip=None):
    """Log evidence and the best mean-field ELBO, with noise sd 1 and N(0, 1) priors.

    The posterior is normal with precision P; the best factorised normal has its mean and
    the variances 1 / P_ii, and lies KL = (sum log P_ii - log det P) / 2 below the evidence.
    """
    y = table["y"]
    columns, precisions = [np.ones(N), *(table[k] for k in "abc")], [1.0] * 4
    if sigma_zip is not None:
        for level in np.unique(table["zip"]):
            columns.append((table["zip"] == level).astype(float))
            precisions.append(sigma_zip**-2)
    x, prior = np.column_stack(columns), np.array(precisions)
    posterior = x.T @ x + np.diag(prior)
    mean = np.linalg.solve(posterior, x.T @ y)
    log_det = np.linalg.slogdet(posterior)[1]
    evidence = 0.5 * (
        -N * np.log(2 * np.pi) - y @ y + mean @ posterior @ mean - log_det + np.log(prior).sum()
    )
    gap = 0.5 * (np.log(np.diag(posterior)).sum() - log_det)
    return evidence, evidence - gap


PRIORS = {"Intercept": rf.Normal(0, 1), "common": rf.Normal(0, 1), "sigma": 1.0}


def test_linear_elbo_is_within_a_nat_of_the_best_mean_field(posted):
    fit = rf.Model("y ~ a + b + c", priors=PRIORS).fit(posted, guide="meanfield", progress=False)
    assert fit.converged
    assert abs(fit.elbo - best(posted)[1]) < 1.0


def test_random_intercepts_elbo_at_a_fixed_scale_is_within_two_nats(posted):
    priors = {**PRIORS, "1|zip_sigma": 0.1}
    model = rf.Model("y ~ a + b + c + (1 | zip)", priors=priors)
    fit = model.fit(posted, guide="meanfield", progress=False)
    assert fit.converged
    assert abs(fit.elbo - best(posted, 0.1)[1]) < 2.0


def test_random_intercepts_elbo_at_the_fitted_scale_is_within_two_nats(posted):
    priors = {**PRIORS, "1|zip_sigma": rf.PointEstimate()}
    model = rf.Model("y ~ a + b + c + (1 | zip)", priors=priors)
    fit = model.fit(posted, guide="meanfield", progress=False)
    scale = fit.summary().loc["1|zip_sigma"]
    assert fit.converged
    assert scale["kind"] == "point estimate"
    assert abs(fit.elbo - best(posted, scale["mean"])[1]) < 2.0


def test_the_structured_guide_reaches_the_evidence_itself(posted):
    """Known variances make the posterior normal, which the structured guide can be."""
    priors = {**PRIORS, "1|zip_sigma": 0.1}
    model = rf.Model("y ~ a + b + c + (1 | zip)", priors=priors)
    fit = model.fit(posted, method="svi", progress=False)
    evidence, mean_field = best(posted, 0.1)
    assert evidence - mean_field > 0.1
    assert abs(fit.elbo - evidence) < 0.05


def test_a_group_sd_that_is_a_point_estimate_may_move_far_from_its_start(posted):
    """The structured guide holds to the evidence at the fitted scale, not to where it began."""
    effects = np.random.default_rng(6).normal(0, 0.5, ZIPS)
    codes = np.unique(posted["zip"], return_inverse=True)[1]
    table = {**posted, "y": posted["y"] + effects[codes]}
    priors = {**PRIORS, "1|zip_sigma": rf.PointEstimate(start=0.1)}
    fit = rf.Model("y ~ a + b + c + (1 | zip)", priors=priors).fit(
        table, method="svi", progress=False
    )
    scale = fit.summary().loc["1|zip_sigma", "mean"]
    assert scale > 0.4
    assert abs(fit.elbo - best(table, scale)[0]) < 0.05


def slopes(levels, sds, correlation, seed):
    """Intercepts and slopes that vary, noise sd 1, at the same eight values of x in each level."""
    rng = np.random.default_rng(seed)
    z = np.column_stack([np.ones(8), np.linspace(-1.5, 1.5, 8)])
    root = np.diag(sds) @ np.linalg.cholesky([[1, correlation], [correlation, 1]])
    y = rng.normal(size=(levels, 2)) @ root.T @ z.T + rng.normal(size=(levels, 8))
    names = np.repeat([f"g{i}" for i in range(levels)], 8)
    return z, y, {"y": y.ravel(), "x": np.tile(z[:, 1], levels), "g": names}


def log_marginal(z, y, sds, correlation):
    """Log p(y | sds, correlation), the coefficients integrated out; all broadcast."""
    first, second, correlation = np.broadcast_arrays(*sds, correlation)
    sigma = np.stack([first**2, *[first * second * correlation] * 2, second**2], axis=-1)
    cov = np.eye(8) + z @ sigma.reshape(*first.shape, 2, 2) @ z.T
    fitted = np.trace(np.linalg.solve(cov, y.T @ y), axis1=-2, axis2=-1)
    return -0.5 * (len(y) * (8 * np.log(2 * np.pi) + np.linalg.slogdet(cov)[1]) + fitted)


KNOWN = {"sigma": 1.0, "1|g_sigma": 0.2, "x|g_sigma": 0.2}


def test_the_correlation_is_as_uncertain_as_levels_that_say_little_leave_it():
    """Against the integral over a grid, all else being known: the sd is .30. A guide in which
    the levels do not follow the correlation makes it less than a third of that."""
    z, y, table = slopes(150, [0.2, 0.2], 0.3, seed=3)
    grid = (np.arange(2000) + 0.5) / 1000 - 1
    log_p = log_marginal(z, y, (0.2, 0.2), grid) - np.log(len(grid))
    evidence = np.logaddexp.reduce(log_p)
    weight = np.exp(log_p - evidence)
    mean = weight @ grid
    sd = np.sqrt(weight @ (grid - mean) ** 2)
    fit = rf.Model("y ~ 0 + (1 + x | g)", priors=KNOWN).fit(
        table, draws=5000, method="svi", progress=False
    )
    row = fit.summary().loc["g_corr[1, x]"]
    assert row["mean"] == pytest.approx(mean, abs=0.1 * sd)
    assert row["sd"] == pytest.approx(sd, rel=0.1)
    assert abs(fit.elbo - evidence) < 0.2


def test_correlation_and_scales_are_as_uncertain_as_the_integral_says():
    z, y, table = slopes(150, [0.4, 0.3], 0.4, seed=1)
    sds = [np.linspace(low, high, 50) for low, high in ((0.05, 0.75), (0.03, 0.6))]
    grid = np.meshgrid(*sds, (np.arange(60) + 0.5) / 30 - 1, indexing="ij")
    # Half-normal priors with sd 1 and a uniform one.
    log_p = log_marginal(z, y, grid[:2], grid[2]) - 0.5 * (grid[0] ** 2 + grid[1] ** 2)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    priors = {"sigma": 1.0, "1|g_sigma": rf.HalfNormal(1), "x|g_sigma": rf.HalfNormal(1)}
    fit = rf.Model("y ~ 0 + (1 + x | g)", priors=priors).fit(
        table, draws=5000, method="svi", progress=False
    )
    table = fit.summary()
    for name, values in zip(("1|g_sigma", "x|g_sigma", "g_corr[1, x]"), grid, strict=True):
        mean = (weight * values).sum()
        sd = np.sqrt((weight * (values - mean) ** 2).sum())
        assert table.loc[name, "mean"] == pytest.approx(mean, abs=0.2 * sd)
        assert table.loc[name, "sd"] == pytest.approx(sd, rel=0.12)


@pytest.mark.parametrize(
    ("guide", "intercept_sd", "effect_sd"),
    [("structured", 19.3834, 24.7730), ("meanfield", 9.0393, 19.5866)],
)
def test_dyestuff_with_known_variances(dyestuff, guide, intercept_sd, effect_sd):
    """The conjugate posterior, and what a mean-field approximation must make of it."""
    priors = {
        "Intercept": rf.Flat(),
        "sigma": float(np.sqrt(2451.25)),
        "1|Batch_sigma": float(np.sqrt(1764.05)),
    }
    model = rf.Model("Yield ~ 1 + (1 | Batch)", priors=priors)
    fit = model.fit(dyestuff, guide=guide, draws=20_000, progress=False)
    effects = [-17.607, 0.391, 28.562, -23.085, 56.733, -44.995]
    assert abs(fit.fixef().loc["Intercept", "mean"] - 1527.5) < 0.1 * intercept_sd
    assert fit.fixef().loc["Intercept", "sd"] == pytest.approx(intercept_sd, rel=0.03)
    table = fit.ranef("Batch")
    np.testing.assert_allclose(table["mean"], effects, atol=0.1 * effect_sd)
    np.testing.assert_allclose(table["sd"], effect_sd, rtol=0.03)


def test_collinear_raw_columns_are_no_obstacle():
    """Means far from zero and correlated columns: least squares within a tenth of an sd."""
    rng = np.random.default_rng(2)
    year = rng.normal(1968, 20, 800)
    area = 1800 + 30 * (year - 1968) + rng.normal(0, 300, 800)
    y = 5e5 + 3e3 * (year - 1968) + 100 * area + rng.normal(0, 5e4, 800)
    fit = rf.Model("y ~ year + area").fit(
        {"y": y, "year": year, "area": area}, method="svi", progress=False
    )
    x = np.column_stack([np.ones(800), year, area])
    beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
    sd = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * rss[0] / 797)
    table = fit.fixef()
    assert (np.abs(table["mean"] - beta) < 0.1 * sd).all()
    np.testing.assert_allclose(table["sd"], sd, rtol=0.1)


def test_minibatches_find_what_all_rows_find(posted):
    whole = rf.Model("y ~ a + b + c", priors=PRIORS).fit(posted, method="exact", progress=False)
    part = rf.Model("y ~ a + b + c", priors=PRIORS).fit(posted, batch_size=500, progress=False)
    sd = whole.fixef()["sd"]
    assert ((part.fixef()["mean"] - whole.fixef()["mean"]).abs() < 0.3 * sd).all()
    np.testing.assert_allclose(part.fixef()["sd"], sd, rtol=0.15)


def test_minibatches_know_how_uncertain_the_group_sd_is():
    """With 50 rows in each of 40 groups: about 1 / sqrt(2 J) of the sd, as exact says."""
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(40), 50)
    y = rng.normal(0, 1, 40)[codes] + rng.normal(size=2000)
    table = {"y": y, "g": np.array([f"g{c}" for c in codes])}
    model = rf.Model("y ~ 1 + (1 | g)")
    whole = model.fit(table, method="exact", progress=False).summary().loc["1|g_sigma"]
    part = model.fit(table, batch_size=250, progress=False).summary().loc["1|g_sigma"]
    assert whole["sd"] / whole["mean"] == pytest.approx(1 / np.sqrt(80), rel=0.2)
    assert part["sd"] == pytest.approx(whole["sd"], rel=0.25)
    assert part["mean"] == pytest.approx(whole["mean"], abs=0.3 * whole["sd"])


def test_any_optax_optimizer_serves(posted):
    model = rf.Model("y ~ a + b + c", priors=PRIORS)
    fit = model.fit(posted, optimizer=optax.rmsprop(0.02), guide="meanfield", progress=False)
    assert abs(fit.elbo - best(posted)[1]) < 1.0


def test_steps_are_a_limit_and_running_out_is_said(posted):
    fit = rf.Model("y ~ a").fit(posted, steps=70, progress=False)
    assert fit.steps == 70
    assert not fit.converged
    assert "not converged in 70 steps" in fit.message
    assert fit.idata["optimization"]["elbo"].shape == (70,)


def test_steps_that_are_not_finite_are_skipped_and_counted(posted, monkeypatch):
    """One step in five fails; the fit must be none the worse, and say how many did."""
    clean = elbo.Objective.samples_of

    def faulty(self, params, carried, key, data):
        values, updated = clean(self, params, carried, key, data)
        return values + jnp.where(jax.random.uniform(key) < 0.2, jnp.nan, 0.0), updated

    monkeypatch.setattr(elbo.Objective, "samples_of", faulty)
    model = rf.Model("y ~ a + b + c", priors=PRIORS)
    fit = model.fit(posted, guide="meanfield", progress=False)
    skipped = int(np.isnan(fit.idata["optimization"]["elbo"]).sum())
    assert 0.1 < skipped / fit.steps < 0.3
    assert f"{skipped} steps were skipped" in fit.message
    assert (fit.fixef()["mean"].abs() < 1).all()


def test_values_whose_squares_overflow_end_no_search(posted, monkeypatch):
    """A rare sample from far out, as of exp(eta), makes the noise infinite and not the fit."""
    clean = elbo.Objective.samples_of

    def rare(self, params, carried, key, data):
        values, updated = clean(self, params, carried, key, data)
        return values - jnp.where(jax.random.uniform(key) < 0.05, 1e200, 0.0), updated

    monkeypatch.setattr(elbo.Objective, "samples_of", rare)
    model = rf.Model("y ~ a + b + c", priors=PRIORS)
    fit = model.fit(posted, guide="meanfield", progress=False, steps=300)
    assert fit.steps == 300
    assert (fit.fixef()["mean"].abs() < 2).all()


def test_columns_too_large_to_be_squared_are_refused(posted):
    wild = {**posted, "a": posted["a"] * 1e150}
    with pytest.raises(DataError, match="values of common reach .* too large to be squared"):
        rf.Model("y ~ a").fit(wild, guide="meanfield", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "full"}, "guide must be"),
        ({"steps": 0}, "steps must be"),
        ({"samples": 1.5}, "samples must be"),
        ({"batch_size": -3}, "batch_size must be"),
        ({"optimizer": "adam"}, "optax"),
        ({"learning_rate": 3}, "no option 'learning_rate'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError, match=message):
        rf.Model("y ~ 1").fit({"y": np.arange(9.0)}, method="svi", **options)
