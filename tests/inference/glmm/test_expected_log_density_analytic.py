"""Averages and integrals of densities in closed form are those of automatic differentiation."""

import jax
import numpy as np
import pytest

from contract_family import EXAMPLES, family
from ranef.inference.glmm import expected_log_density as averages_module
from ranef.inference.glmm import expected_log_density_analytic
from ranef.inference.glmm.expected_log_density import (
    ExpectedLogDensity,
    expected_log_density_of,
    root_of,
)
from ranef.inference.glmm.expected_log_density_analytic import AnalyticExpectedLogDensity
from ranef.inference.glmm.level_quadrature import LevelQuadrature

CASES = [
    ("ordinal", ["mu"]),
    ("categorical", ["mub", "muc"]),
    ("zero_inflated_negative_binomial", ["mu"]),
    ("zero_inflated_poisson", ["mu", "psi"]),
]
N = 60


def both(name, predictors):
    """In closed form and by differentiation, of rows drawn from the family's example."""
    distribution, example, rng = family(name), EXAMPLES[name], np.random.default_rng(0)
    with jax.enable_x64(True):
        response = example.response(example.law.rvs(size=N, random_state=rng).astype(float))
    closed = expected_log_density_of(distribution, response, predictors)
    assert isinstance(closed, AnalyticExpectedLogDensity)
    others = {own: value for own, value in example.values.items() if own not in predictors}
    numbers = {own: np.asarray(value, np.float64) for own, value in others.items()}
    return closed, ExpectedLogDensity(distribution, response, predictors), numbers, rng


def covariances(k, rng):
    """(N, k, k), some of them singular or zero."""
    roots = 0.6 * rng.normal(size=(N, k, k))
    roots[:5] = 0.0
    roots[5:10, :, 1:] = 0.0
    return roots @ roots.transpose(0, 2, 1)


@pytest.mark.parametrize(("name", "predictors"), CASES)
@pytest.mark.parametrize("chunk", [16_384, 300])
def test_averages_are_those_of_any_family(name, predictors, chunk, monkeypatch):
    """Whether the rows are gone through at once or in several batches."""
    monkeypatch.setattr(expected_log_density_analytic, "_CHUNK", chunk)
    closed, automatic, numbers, rng = both(name, predictors)
    mean, covariance = rng.normal(size=(N, len(predictors))), covariances(len(predictors), rng)
    arguments = numbers, mean, covariance
    pairs = [*zip(closed.of(*arguments), automatic.of(*arguments), strict=True)]
    pairs.append((closed.third(*arguments), automatic.third(*arguments)))
    pairs.append((closed.at(numbers, mean), automatic.at(numbers, mean)))
    slopes, expected = closed.by_number(*arguments), automatic.by_number(*arguments)
    assert set(slopes) == set(expected)
    pairs += [(slopes[own], value) for own, value in expected.items()]
    for own, other in pairs:
        np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "predictors"), CASES)
def test_integrals_over_levels_are_those_of_any_family(name, predictors, monkeypatch):
    monkeypatch.setattr(expected_log_density_analytic, "_CHUNK", 300)
    closed, automatic, numbers, rng = both(name, predictors)
    place, k = len(predictors) - 1, len(predictors)
    levels = rng.normal(size=7), np.full(7, 0.4)
    over = LevelQuadrature(rng.integers(0, 7, N), rng.normal(size=N), place, 9, *levels)
    arguments = over, rng.normal(size=(N, k)), 0.8, numbers
    own, other = closed.integrals(*arguments), automatic.integrals(*arguments)
    for field in ("value", "mean", "variance", "slope"):
        np.testing.assert_allclose(
            getattr(own, field), getattr(other, field), rtol=1e-9, atol=1e-12, err_msg=field
        )
    assert set(own.by_number) == set(other.by_number)
    for field, value in other.by_number.items():
        np.testing.assert_allclose(own.by_number[field], value, rtol=1e-9, err_msg=field)


def test_very_many_rows_are_compiled(monkeypatch):
    monkeypatch.setattr(averages_module, "_COMPILED", N)
    distribution, response = family("ordinal"), EXAMPLES["ordinal"].response(np.ones(N))
    assert isinstance(expected_log_density_of(distribution, response, ["mu"]), ExpectedLogDensity)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_roots_of_singular_covariances_give_them_back(k):
    spread = covariances(k, np.random.default_rng(1))
    with jax.enable_x64(True):
        compiled = np.asarray(root_of(jax.numpy.asarray(spread)))
    for own in (expected_log_density_analytic.root_of(spread), compiled):
        np.testing.assert_allclose(own @ own.transpose(0, 2, 1), spread, atol=1e-12)
        assert (np.triu(own, 1) == 0).all()


def test_the_number_of_nodes_changes_only_where_it_is_settled(monkeypatch):
    """Many rows have fewer nodes, for which no place of the density may have a jump."""
    monkeypatch.setattr(averages_module, "_MANY", 500)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        response = EXAMPLES["student"].response(rng.normal(size=500))
    averages = ExpectedLogDensity(family("student"), response, ["mu"])
    numbers, mean = {"nu": 4.0, "sigma": 1.0}, rng.normal(size=(500, 1))

    def total(variance):
        return averages.of(numbers, mean, np.full((500, 1, 1), variance))[0]

    whole = total(0.01)
    averages.settle(np.full((500, 1, 1), 0.01))
    assert total(0.01) != whole
    assert total(0.01) == pytest.approx(whole, abs=0.01)
    # The sum changes with the variance as the derivative says, also where 500 v^3 passes the limit.
    limit = (averages_module._NEARLY_KNOWN / 500) ** (1 / 3)
    below, at, above = (total(limit * (1 + step)) for step in (-1e-4, 0.0, 1e-4))
    assert above - at == pytest.approx(at - below, rel=1e-2)
    averages.settle(np.full((500, 1, 1), 0.5))
    full = total(0.5)
    averages._count = 25
    assert full == pytest.approx(total(0.5), abs=0.05)
