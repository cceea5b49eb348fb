"""Closed averages and integrals are those of automatic differentiation; what is foretold is."""

import jax
import numpy as np
import pytest

from contract_family import EXAMPLES, family
from ranef.inference import closed_averages
from ranef.inference.averages import Averages, averages_of
from ranef.inference.closed_averages import ClosedAverages
from ranef.inference.foretold import Foretold
from ranef.inference.hermite import hermite


def both(name, n):
    """Averages in closed form and by differentiation, of rows drawn from the family's example."""
    law, rng = family(name), np.random.default_rng(0)
    example = EXAMPLES[name]
    with jax.enable_x64(True):
        response = example.response(example.law.rvs(n, random_state=rng).astype(float))
    closed = averages_of(law, response, [law.parameters[0].name])
    assert isinstance(closed, ClosedAverages)
    return closed, Averages(law, response, [law.parameters[0].name]), rng


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson"])
@pytest.mark.parametrize("compiled", [False, True])
def test_averages_are_those_of_any_family(name, compiled, monkeypatch):
    monkeypatch.setattr(closed_averages, "_MANY", 0 if compiled else 10**9)
    closed, automatic, rng = both(name, 60)
    mean, spread = rng.normal(size=(60, 1)), 0.3 * rng.random((60, 1, 1))
    for own, other in zip(closed.of({}, mean, spread), automatic.of({}, mean, spread), strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(
        closed.third({}, mean, spread), automatic.third({}, mean, spread), rtol=1e-3, atol=1e-4
    )
    assert closed.at({}, mean) == pytest.approx(automatic.at({}, mean), rel=1e-12)
    assert closed.by_number({}, mean, spread) == {}


@pytest.mark.parametrize("name", ["binomial", "poisson"])
@pytest.mark.parametrize("compiled", [False, True])
def test_integrals_over_levels_are_those_of_any_family(name, compiled, monkeypatch):
    monkeypatch.setattr(closed_averages, "_MANY", 0 if compiled else 10**9)
    closed, automatic, rng = both(name, 60)
    by = rng.integers(0, 7, 60), rng.normal(size=60), 7, 0
    given = hermite(9), by, rng.normal(size=(60, 1)), 0.8, {}, rng.normal(size=7), np.full(7, 0.4)
    for own, other in zip(closed.integrals(*given), automatic.integrals(*given), strict=True):
        if not isinstance(own, dict):
            np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)


def test_what_is_quadratic_along_each_coordinate_is_foretold():
    foretold = Foretold(np.array([0.5, 2.0]))
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 4, 2))

    def model(x):
        value = 1 + a @ x + b @ x**2
        return value[:, None, None], c @ x[:, None]

    assert foretold.at(np.zeros(2)) is None
    for x in ([0, 0], [0.5, 0], [-0.5, 0], [0, 2.0], [0, -2.0]):
        foretold.add(np.array(x, float), *model(np.array(x, float)))
    x = np.array([0.7, -1.3])
    for found, expected in zip(foretold.at(x), model(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    # So far out that what is known says nothing.
    assert foretold.at(np.array([50.0, 0.0])) is None
