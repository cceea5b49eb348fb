"""Closed averages and integrals are those of automatic differentiation; extrapolation is exact."""

import jax
import numpy as np
import pytest

from contract_family import EXAMPLES, family
from ranef.inference.glmm import expected_log_density_natural
from ranef.inference.glmm.expected_log_density import ExpectedLogDensity, expected_log_density_of
from ranef.inference.glmm.expected_log_density_natural import NaturalExpectedLogDensity
from ranef.inference.glmm.extrapolation import WorkingModelExtrapolator
from ranef.inference.glmm.level_quadrature import LevelQuadrature
from ranef.numerics.gauss_hermite import hermite

# By how much the average of a Bernoulli row's density and its three derivatives may be off: on a
# grid of means, 151 nodes beside those taken, it is by 2/3 of this at most.
LIMITS = {
    0.0: (1e-12, 1e-12, 1e-12, 1e-12),
    0.1: (3e-6, 5e-6, 1.2e-5, 2.5e-5),
    0.5: (5e-6, 1e-5, 3e-5, 9e-5),
    2.0: (1e-4, 2.3e-4, 6e-4, 1.7e-3),
}


def both(name, n):
    """Averages in closed form and by differentiation, of rows drawn from the family's example."""
    distribution, rng = family(name), np.random.default_rng(0)
    example = EXAMPLES[name]
    with jax.enable_x64(True):
        response = example.response(example.law.rvs(n, random_state=rng).astype(float))
    closed = expected_log_density_of(distribution, response, [distribution.parameters[0].name])
    assert isinstance(closed, NaturalExpectedLogDensity)
    return (
        closed,
        ExpectedLogDensity(distribution, response, [distribution.parameters[0].name]),
        rng,
    )


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("variance", [0.0, 0.1, 0.5, 2.0])
def test_averages_are_those_of_many_nodes(name, compiled, variance, monkeypatch):
    """Of the automatic derivatives, at the largest variance for each number of nodes."""
    monkeypatch.setattr(expected_log_density_natural, "_MANY", 0 if compiled else 10**9)
    closed, automatic, rng = both(name, 60)
    mean, covariance = 1.5 * rng.normal(size=(60, 1)), np.full((60, 1, 1), variance)
    nodes, weights = hermite(41)
    known = [automatic.of({}, mean + node * variance**0.5, 0 * covariance) for node in nodes]
    shares = weights / weights.sum()
    expected = [sum(w * each[k] for w, each in zip(shares, known, strict=True)) for k in range(3)]
    # A Poisson average is known, and there the many nodes are what is off.
    limits = LIMITS[variance] if name != "poisson" else (1e-7,) * 4
    third = [automatic.third({}, mean + node * variance**0.5, 0 * covariance) for node in nodes]
    expected.append(sum(w * each for w, each in zip(shares, third, strict=True)))
    found = [*closed.of({}, mean, covariance), closed.third({}, mean, covariance)]
    for own, other, limit in zip(found, expected, limits, strict=True):
        room = limit * closed.natural.size.max() * (60 if np.ndim(own) == 0 else 1)
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=room)
    assert closed.by_number({}, mean, covariance) == {}


@pytest.mark.parametrize("name", ["binomial", "poisson"])
@pytest.mark.parametrize("compiled", [False, True])
def test_integrals_over_levels_are_those_of_any_family(name, compiled, monkeypatch):
    monkeypatch.setattr(expected_log_density_natural, "_MANY", 0 if compiled else 10**9)
    closed, automatic, rng = both(name, 60)
    centre, scale = rng.normal(size=7), np.full(7, 0.4)
    over = LevelQuadrature(rng.integers(0, 7, 60), rng.normal(size=60), 0, 9, centre, scale)
    arguments = over, rng.normal(size=(60, 1)), 0.8, {}
    own, other = closed.integrals(*arguments), automatic.integrals(*arguments)
    for name in ("value", "mean", "variance", "slope"):
        np.testing.assert_allclose(
            getattr(own, name), getattr(other, name), rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_what_is_quadratic_along_each_coordinate_is_extrapolated():
    extrapolator = WorkingModelExtrapolator(np.array([0.5, 2.0]))
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 4, 2))

    def model(x):
        value = 1 + a @ x + b @ x**2
        return value[:, None, None], c @ x[:, None]

    assert extrapolator.at(np.zeros(2)) is None
    for x in ([0, 0], [0.5, 0], [-0.5, 0], [0, 2.0], [0, -2.0]):
        extrapolator.add(np.array(x, float), *model(np.array(x, float)))
    x = np.array([0.7, -1.3])
    for found, expected in zip(extrapolator.at(x), model(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    # Too far from the stored models.
    assert extrapolator.at(np.array([50.0, 0.0])) is None
