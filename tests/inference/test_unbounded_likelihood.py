"""Responses that tell next to nothing: every family fits them soundly or says why it cannot."""

import warnings

import numpy as np
import pytest

import ranef as rf
from ranef import registry

N = 48
RNG = np.random.default_rng(1)
W = RNG.normal(size=N)
G = np.repeat(np.arange(6), N // 6)
F = np.where(np.arange(N) % 2, "a", "b")
HALF = (np.arange(N) % 2).astype(float)

RESPONSES = {
    "zeros": np.zeros(N),
    "ones": np.ones(N),
    "shares": np.full(N, 0.5),
    "nearly": 0.5 + 1e-13 * W,
    "two": 1.0 + HALF,
    "apart": 1e15 * HALF,
    "huge": 1e150 * np.exp(0.1 * W),
}
FAMILIES = [
    *(name for name in registry.FAMILIES if name not in ("mixture", "cumulative")),
    *("mixture(gaussian, gaussian)", "mixture(poisson, poisson)", "mixture(gamma, lognormal)"),
]
# What has a proper posterior must be fitted, not refused.
SOUND = {
    ("bernoulli", "zeros"),
    ("bernoulli", "ones"),
    ("binomial", "zeros"),
    ("binomial", "ones"),
    ("poisson", "zeros"),
    ("poisson", "ones"),
    ("negative_binomial", "zeros"),
    ("zero_inflated_poisson", "zeros"),
    ("exponential", "ones"),
    ("exponential", "huge"),
    ("student", "two"),
    ("gamma", "two"),
    ("lognormal", "two"),
}
# Families whose density has no end where all rows lie on their predictors.
COLLAPSING = ("gaussian", "student", "gamma", "beta", "lognormal")


def table_of(family: str, response: str) -> dict:
    return {
        "y": RESPONSES[response],
        "w": W,
        "g": G,
        "f": F,
        # As many trials as successes, so that all are.
        "n": np.maximum(RESPONSES[response], 1.0),
    }


def model_of(family: str, right: str, **given) -> rf.Model:
    left = "y / n" if family == "binomial" else "y"
    return rf.Model(f"{left} ~ {right}", family=family, **given)


def assert_sound_or_said(family: str, right: str, response: str, method: str = "auto") -> None:
    table = table_of(family, response)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            fit = model_of(family, right).fit(table, method=method, draws=50, progress=False)
        except rf.RanefError as error:
            fit, said = None, str(error)
    if fit is None:
        assert (family, response) not in SOUND, said
        assert "response y" in said or "column 'y'" in said
        return
    assert fit.converged or "not converged" in fit.message
    for kind in ("mean", "response"):
        found = fit.predict(table, kind=kind).select_dtypes("number")
        assert np.isfinite(found.to_numpy()).all()


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_degenerate_response_is_fitted_or_refused_in_a_sentence(family, response):
    assert_sound_or_said(family, "w", response)


@pytest.mark.parametrize("right", ["1", "w + (1 | g)"])
@pytest.mark.parametrize("response", ["zeros", "shares"])
@pytest.mark.parametrize("family", ["student", "gamma", "beta", "exponential", "poisson"])
def test_with_an_intercept_alone_and_with_groups(family, response, right):
    assert_sound_or_said(family, right, response)


@pytest.mark.parametrize("method", ["laplace", "svi", "nuts"])
@pytest.mark.parametrize("family", COLLAPSING)
def test_no_method_is_run_where_nothing_tells_the_dispersion(family, method):
    with pytest.raises(
        rf.DataError, match=r"the response y is 0\.5 in every row, so nothing tells"
    ):
        model_of(family, "w").fit(table_of(family, "shares"), method=method, progress=False)


@pytest.mark.parametrize("family", COLLAPSING)
def test_a_factor_that_fits_exactly_is_refused(family):
    table = {**table_of(family, "ones"), "y": np.where(F == "a", 0.25, 0.75)}
    with pytest.raises(rf.DataError, match="the common effects fit the response y exactly"):
        model_of(family, "f").fit(table, progress=False)


@pytest.mark.parametrize("family", COLLAPSING)
def test_a_fixed_dispersion_makes_a_constant_response_sound(family):
    name = {"gamma": "alpha", "beta": "kappa"}.get(family, "sigma")
    fit = model_of(family, "w", priors={name: 1.0}).fit(
        table_of(family, "shares"), draws=50, progress=False
    )
    assert np.isfinite(fit.predict(table_of(family, "shares"))["mean"]).all()


def test_an_offset_may_make_a_constant_response_vary():
    table = {"y": np.full(N, 2.0), "w": W}
    fit = rf.Model("y ~ 1 + offset(w)", family="student").fit(table, draws=50, progress=False)
    assert fit.summary().loc["sigma", "mean"] == pytest.approx(W.std(), rel=0.3)
    with pytest.raises(rf.DataError, match="fit the response y exactly"):
        rf.Model("y ~ w + offset(w)", family="student").fit(table, progress=False)


def test_a_mixture_of_as_many_components_as_values_is_refused():
    table = table_of("", "two")
    with pytest.raises(rf.DataError, match="y takes 2 different values, which the 2 components"):
        rf.Model("y ~ w", family=rf.Mixture("gaussian", k=2)).fit(table, progress=False)
    fixed = {"sigma1": 0.1, "sigma2": 0.1}
    fit = rf.Model("y ~ 1", family=rf.Mixture("gaussian", k=2), priors=fixed).fit(
        table, draws=50, progress=False
    )
    assert fit.predict(table)["mean"].to_numpy() == pytest.approx(1.5, abs=0.2)


def test_a_response_close_to_an_exact_fit_is_still_fitted():
    """The refusal is of rounding alone: a residual of one part in a million is fitted."""
    table = {"y": 10 + W + 1e-6 * RNG.normal(size=N), "w": W}
    fit = rf.Model("y ~ w", family="student").fit(table, draws=50, progress=False)
    assert fit.summary().loc["sigma", "mean"] == pytest.approx(1e-6, rel=0.5)
