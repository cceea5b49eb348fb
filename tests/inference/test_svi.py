"""svi against closed forms: with known variances the best guide and its ELBO are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ranef as rf
from ranef.errors import DataError, OptionError
from ranef.inference import svi

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
    fit = rf.Model("y ~ year + area").fit({"y": y, "year": year, "area": area}, progress=False)
    x = np.column_stack([np.ones(800), year, area])
    beta, rss, *_ = np.linalg.lstsq(x, y, rcond=None)
    sd = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * rss[0] / 797)
    table = fit.fixef()
    assert (np.abs(table["mean"] - beta) < 0.1 * sd).all()
    np.testing.assert_allclose(table["sd"], sd, rtol=0.1)


def test_minibatches_find_what_all_rows_find(posted):
    whole = rf.Model("y ~ a + b + c", priors=PRIORS).fit(posted, progress=False)
    part = rf.Model("y ~ a + b + c", priors=PRIORS).fit(posted, batch_size=500, progress=False)
    sd = whole.fixef()["sd"]
    assert ((part.fixef()["mean"] - whole.fixef()["mean"]).abs() < 0.3 * sd).all()
    np.testing.assert_allclose(part.fixef()["sd"], sd, rtol=0.15)


def test_minibatches_know_how_uncertain_the_group_sd_is():
    """With 50 rows in each of 40 groups: about 1 / sqrt(2 J) of the sd, as all rows say."""
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(40), 50)
    y = rng.normal(0, 1, 40)[codes] + rng.normal(size=2000)
    table = {"y": y, "g": np.array([f"g{c}" for c in codes])}
    model = rf.Model("y ~ 1 + (1 | g)")
    whole = model.fit(table, progress=False).summary().loc["1|g_sigma"]
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
    clean = svi._Objective.samples_of

    def faulty(self, params, carried, key, data):
        values, updated = clean(self, params, carried, key, data)
        return values + jnp.where(jax.random.uniform(key) < 0.2, jnp.nan, 0.0), updated

    monkeypatch.setattr(svi._Objective, "samples_of", faulty)
    model = rf.Model("y ~ a + b + c", priors=PRIORS)
    fit = model.fit(posted, guide="meanfield", progress=False)
    skipped = int(np.isnan(fit.idata["optimization"]["elbo"]).sum())
    assert 0.1 < skipped / fit.steps < 0.3
    assert f"{skipped} steps were skipped" in fit.message
    assert (fit.fixef()["mean"].abs() < 1).all()


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
