"""Priors are plain values; their densities are scipy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from scipy.special import expit

import ranef as rf
from ranef.errors import OptionError
from ranef.priors import sites

X = np.array([0.2, 0.5, 0.9])


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (rf.Normal(1, 2), st.norm(1, 2).logpdf(X)),
        (rf.StudentT(4, 1, 2), st.t(4, 1, 2).logpdf(X)),
        (rf.Cauchy(1, 2), st.cauchy(1, 2).logpdf(X)),
        (rf.HalfNormal(2), st.halfnorm(0, 2).logpdf(X)),
        (rf.HalfStudentT(4, 2), st.t(4, 0, 2).logpdf(X) + np.log(2)),
        (rf.HalfCauchy(2), st.halfcauchy(0, 2).logpdf(X)),
        (rf.Exponential(2), st.expon(0, 1 / 2).logpdf(X)),
        (rf.Gamma(2, 3), st.gamma(2, 0, 1 / 3).logpdf(X)),
        (rf.InverseGamma(2, 3), st.invgamma(2, 0, 3).logpdf(X)),
        (rf.LogNormal(0.5, 2), st.lognorm(2, 0, np.exp(0.5)).logpdf(X)),
        (rf.Uniform(0, 2), st.uniform(0, 2).logpdf(X)),
        (rf.Beta(2, 3), st.beta(2, 3).logpdf(X)),
        (rf.Variance(rf.Gamma(2, 3)), st.gamma(2, 0, 1 / 3).logpdf(X**2) + np.log(2 * X)),
        (rf.Precision(rf.Gamma(2, 3)), st.gamma(2, 0, 1 / 3).logpdf(X**-2) + np.log(2 / X**3)),
        (rf.Variance(rf.Uniform(0, 2)), np.log(X)),
        (
            rf.LogOdds(rf.Beta(2, 3)),
            st.beta(2, 3).logpdf(expit(X)) + np.log(expit(X) * expit(-X)),
        ),
        (rf.Flat(), np.zeros(3)),
    ],
)
def test_densities(prior, expected):
    got = sites.distribution(prior).log_prob(jnp.asarray(X))
    np.testing.assert_allclose(np.broadcast_to(got, 3), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rf.Normal(0, -1),
        lambda: rf.Normal(0, 0),
        lambda: rf.Normal(float("nan"), 1),
        lambda: rf.Normal("a", 1),
        lambda: rf.HalfNormal(True),
        lambda: rf.Uniform(2, 1),
        lambda: rf.Gamma(0, 1),
        lambda: rf.Variance(2.0),
        lambda: rf.LogOdds(rf.Normal()),
        lambda: rf.Variance(rf.Normal()),
        lambda: rf.Variance(rf.Flat()),
        lambda: rf.Precision(rf.Uniform(-1, 2)),
        lambda: rf.Variance(rf.Precision(rf.Gamma())),
    ],
)
def test_what_is_no_prior_is_refused(make):
    with pytest.raises(OptionError):
        make()


@pytest.mark.parametrize(
    ("prior", "ends"),
    [
        (rf.Variance(rf.Gamma()), (0, np.inf)),
        (rf.Variance(rf.Uniform(1, 4)), (1, 2)),
        (rf.Variance(rf.Beta()), (0, 1)),
        (rf.Precision(rf.Uniform(0.25, 4)), (0.5, 2)),
        (rf.Precision(rf.Uniform(0, 4)), (0.5, np.inf)),
    ],
    ids=str,
)
def test_of_a_power_lives_where_its_inner_prior_does(prior, ends):
    assert (prior.lower, prior.upper) == ends
    density = sites.distribution(prior)
    draws = np.asarray(density.sample(jax.random.key(0), (20_000,)))
    assert np.asarray(density.support(draws)).all()
    inner = np.asarray(sites.distribution(prior.prior).sample(jax.random.key(1), (20_000,)))
    assert st.ks_2samp(draws**prior.power, inner).pvalue > 1e-3


def test_of_a_power_says_what_it_is_of():
    assert str(rf.Variance(rf.InverseGamma(1, 1))) == "Variance(InverseGamma(1, 1))"


def test_log_odds_are_drawn_by_their_probability():
    draws = sites.distribution(rf.LogOdds(rf.Beta(2, 5))).sample(jax.random.key(0), (20_000,))
    assert st.kstest(expit(np.asarray(draws)), st.beta(2, 5).cdf).pvalue > 1e-3
