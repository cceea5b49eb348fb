"""The likelihood of any family: its gradient, its boundary, its standard errors."""

import numpy as np
import pytest

import ranef as rf
from ranef.inference.glmm.deviance import IntegratedLikelihood, _ScaledCriterion
from ranef.program import learning
from ranef.program.problem_builder import build_problem


def likelihood(formula, table, family):
    program, training = rf.Model(formula, family=family)._learned(table)
    return IntegratedLikelihood(build_problem(program, learning.as_written(program, training)), 1)


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("hit ~ x + (1 | g) + (1 | f)", "bernoulli"),
        ("count / trials ~ x + (1 + x | g)", "binomial"),
        ("count ~ x + (1 | h/g) + offset(log(w))", "poisson"),
        ("count ~ x + (x || g)", "negative_binomial"),
        ("grade ~ x + (1 | g)", "ordinal"),
    ],
)
def test_the_gradient_is_that_of_the_criterion(formula, family, grouped):
    whole = likelihood(formula, grouped, family)
    theta = 0.6 * whole.layout.start
    z = whole.density.start[whole.density.number_places]
    q = whole.joint(theta, whole.number_values(z))
    root = np.linalg.cholesky(q.solution.common_covariance[0])
    place = _ScaledCriterion(whole, q, theta, z, q.solution.common[0], root, len(theta))
    rng = np.random.default_rng(0)
    for _ in range(2):
        v = 0.5 * rng.normal(size=place.size)
        value, gradient = place.objective(v)
        again, expected = place._differences(v)
        assert value == pytest.approx(again, abs=1e-8)
        np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=2e-3)


def test_the_criterion_is_a_function(grouped):
    whole = likelihood("hit ~ x + (1 | g) + (1 | f)", grouped, "bernoulli")
    theta = np.array([0.5, 0.3])
    first = whole.deviance(theta)
    whole.deviance([2.0, 0.0])
    whole.maximum()
    assert whole.deviance(theta) == first


@pytest.mark.parametrize("seed", range(4))
def test_small_scales_are_left_at_zero_only_where_that_is_the_maximum(seed):
    """Of twelve groups of ten yes or no answers."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(12), 10)
    eta = np.repeat(rng.normal(0, 0.4, 12), 10)
    table = {"y": (eta + rng.logistic(size=120) > 0).astype(int), "g": g}
    whole = likelihood("y ~ 1 + (1 | g)", table, "bernoulli")
    found = whole.maximum()
    grid = [whole.deviance([t]) for t in np.linspace(0, 1.5, 31)]
    assert found["deviance"] <= min(grid) + 1e-6


def test_numbers_of_the_family_and_standard_errors_from_the_curvature(grouped):
    """Beside a scale and a dispersion that are estimated common effects are less certain."""
    whole = likelihood("count ~ x + (1 | g)", grouped, "negative_binomial")
    found = whole.maximum()
    assert found["alpha"] > 0
    z = whole.density.start[whole.density.number_places]
    assert whole.number_values(z)["alpha"] != found["alpha"]
    known = whole.joint(found["theta"], {"alpha": np.asarray(found["alpha"])})
    least = np.sqrt(np.diagonal(known.solution.common_covariance[0]))
    assert (found["fixef"]["se"] > 0.98 * least).all()
    np.testing.assert_allclose(found["fixef"]["se"], least, rtol=0.3)


def test_thresholds_follow_a_column_that_is_far_from_zero():
    """Thresholds stand in for the intercept, and the maximum is the same wherever zero lies."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 12, 200), rng.normal(size=200)
    y = np.digitize(x + 0.7 * rng.normal(size=12)[g] + rng.logistic(size=200), [-1.0, 0.5, 2.0])
    model = rf.Model("y ~ x + (1 | g)", family="ordinal")
    near = model.fit({"y": y, "x": x, "g": g}, draws=20, progress=False).maximum_likelihood()
    far = model.fit({"y": y, "x": x + 500, "g": g}, draws=20, progress=False).maximum_likelihood()
    assert far["deviance"] == pytest.approx(near["deviance"], abs=1e-6)
    slope = near["fixef"].loc["x", "estimate"]
    np.testing.assert_allclose(far["threshold"], near["threshold"] + 500 * slope, rtol=1e-4)
