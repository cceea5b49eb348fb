"""Coordinates of the hyperparameters: their densities are the program's, up to the Jacobian."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import ranef as rf
from ranef.inference.hyperparameters.coordinates import (
    Coordinates,
    CorrelationCoordinates,
    ScaleCoordinate,
)
from ranef.priors import Flat, sites
from ranef.priors.log_density import log_density

PRIORS = [
    rf.HalfNormal(2.0),
    rf.HalfStudentT(4.0, 1.5),
    rf.HalfCauchy(0.7),
    rf.Exponential(1.3),
    rf.Gamma(2.5, 0.8),
    rf.InverseGamma(3.0, 2.0),
    rf.LogNormal(0.3, 1.2),
    rf.Uniform(0.0, 4.0),
    rf.Beta(2.0, 3.0),
    rf.Variance(rf.InverseGamma(3.0, 2.0)),
    rf.Variance(rf.HalfStudentT(4.0, 1.5)),
    rf.Variance(rf.Uniform(0.0, 4.0)),
    rf.Precision(rf.Gamma(2.5, 0.8)),
    rf.Precision(rf.Exponential(1.3)),
    rf.Precision(rf.Uniform(0.0, 500.0)),
    rf.Precision(rf.Uniform(1.0, 500.0)),
    Flat(),
]


@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_densities_are_numpyros_and_slopes_their_derivatives(prior):
    x = np.array([0.05, 0.3, 0.9])
    value, slope = log_density(prior, x)
    with jax.enable_x64(True):
        expected = np.asarray(sites.distribution(prior, "positive").log_prob(x))
    np.testing.assert_allclose(value, np.broadcast_to(expected, 3), rtol=1e-9, atol=1e-12)
    up, down = (log_density(prior, x + s)[0] for s in (1e-6, -1e-6))
    np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("prior", PRIORS, ids=str)
@pytest.mark.parametrize("folds", [True, False])
def test_log_prior_in_x_is_the_prior_times_the_jacobian(prior, folds):
    scale = ScaleCoordinate.of("s", prior, 0.4, folds=folds)
    x = np.array([-1.1, 0.2, 1.3])
    value, slope = scale.log_prior(x)
    up, down = x + 1e-6, x - 1e-6
    size = np.abs(scale.value(x))
    jacobian = (scale.value(up) - scale.value(down)) / 2e-6
    np.testing.assert_allclose(value, log_density(prior, size)[0] + np.log(jacobian), rtol=1e-7)
    numeric = (scale.log_prior(up)[0] - scale.log_prior(down)[0]) / 2e-6
    np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(scale.slope(x), jacobian, rtol=1e-7)
    assert scale.value(np.array(scale.place(0.5))) == pytest.approx(0.5)


@pytest.mark.parametrize(("size", "eta"), [(2, 1.0), (3, 2.5), (4, 1.0)])
def test_correlations_have_the_lkj_density(size, eta):
    correlation = CorrelationCoordinates("c", size, eta)
    x = np.random.default_rng(size).normal(size=len(correlation.places))
    lower = correlation.cholesky(x)
    np.testing.assert_allclose(np.diagonal(lower @ lower.T), 1.0)
    places = tuple(zip(*correlation.places, strict=True))

    def elements(at):
        return correlation.cholesky(at)[places]

    steps = 1e-6 * np.eye(len(x))
    jacobian = np.array([(elements(x + s) - elements(x - s)) / 2e-6 for s in steps])
    with jax.enable_x64(True):
        expected = float(dist.LKJCholesky(size, eta).log_prob(lower))
    expected += np.linalg.slogdet(jacobian)[1]
    value, slope = correlation.log_prior(x)
    assert value == pytest.approx(expected, rel=1e-6)
    numeric = [(correlation.log_prior(x + s)[0] - correlation.log_prior(x - s)[0]) / 2e-6
               for s in steps]  # fmt: skip
    np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-8)
    weights = np.random.default_rng(1).normal(size=(size, size))
    gradient = correlation.gradient(x, weights)
    for i, s in enumerate(steps):
        up, down = ((weights * correlation.cholesky(x + t)).sum() for t in (s, -s))
        assert gradient[i] == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-8)


def test_turning_a_scale_round_is_the_same_model():
    """Sigma = D L L' D is unchanged where the signs of the partial correlations turn too."""
    names = ("a", "b", "c")
    scales = [ScaleCoordinate.of(name, rf.HalfNormal(1.0), 0.5) for name in names]
    coordinates = Coordinates(scales, [(CorrelationCoordinates("L", 3, 1.0), names)])
    x = np.array([[0.4, -0.8, 1.1, 0.3, -0.9, 0.6]])

    def covariance(at):
        values = coordinates.values(at)
        d = np.stack([values[name] for name in names], axis=-1)
        root = d[..., None] * values["L"]
        return root @ root.swapaxes(-1, -2)

    turned = coordinates.canonical(x)
    assert (turned[:, :3] > 0).all()
    np.testing.assert_allclose(covariance(turned), covariance(x), rtol=1e-12)
    np.testing.assert_allclose(coordinates.log_prior(turned)[0], coordinates.log_prior(x)[0])
