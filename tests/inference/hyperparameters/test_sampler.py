"""Draws of a few hyperparameters against densities whose moments are known."""

import numpy as np
import pytest
import scipy.stats as st

from ranef.inference.hyperparameters.sampler import sample
from ranef.inference.hyperparameters.surrogate import Surrogate
from ranef.inference.hyperparameters.surrogate_sampler import _flatter
from ranef.numerics.bfgs import minimise
from ranef.numerics.psis import fit, smoothed, threshold


class Normal:
    """A normal density with a skewed first coordinate, even in the second."""

    def __init__(self, skew=0.0, second=3.0):
        self.skew, self.second = skew, second

    def _log(self, x):
        a, b = x[..., 0], x[..., 1]
        folded = np.logaddexp(-0.5 * (b - self.second) ** 2, -0.5 * (b + self.second) ** 2)
        return -0.5 * a**2 + st.norm.logcdf(self.skew * a) + folded

    def log_density(self, x):
        return self._log(x)

    def value_and_gradient(self, x):
        steps = 1e-5 * np.eye(2)
        gradient = [(self._log(x + s) - self._log(x - s)) / 2e-5 for s in steps]
        return float(self._log(x)), np.array(gradient, dtype=np.float64)

    def canonical(self, x):
        return x * np.where(x[:, 1:] < 0, [1.0, -1.0], [1.0, 1.0])

    def folds(self):
        return [(1, np.array([1.0, -1.0]))]


@pytest.mark.parametrize("cheap", [True, False])
@pytest.mark.parametrize("second", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("skew", [0.0, 2.0])
def test_draws_have_the_moments_of_the_target(cheap, second, skew):
    """Skew-normal beside the absolute value of a normal, whose mode may be at zero."""
    rng = np.random.default_rng(1)
    start = np.array([0.5, second + 0.5])
    found = sample(Normal(skew, second), start, np.ones(2), rng, 20_000, cheap=cheap)
    assert found.found
    assert found.reliable
    first, other = st.skewnorm(skew), st.foldnorm(second)
    for column, law in ((0, first), (1, other)):
        x = found.x[:, column]
        assert x.mean() == pytest.approx(law.mean(), abs=0.05 * law.std())
        assert x.std() == pytest.approx(law.std(), rel=0.05)


def test_the_design_is_small():
    evaluations = []
    rng = np.random.default_rng(1)
    found = sample(
        Normal(2.0, 3.0),
        np.array([0.5, 3.5]),
        np.ones(2),
        rng,
        1_000,
        cheap=False,
        tick=lambda: evaluations.append(1),
    )
    assert len(evaluations) == found.evaluations <= 140


def test_a_surrogate_of_a_cubic_is_close_between_its_points():
    def log_density(z):
        return (
            -0.5 * (z**2).sum(axis=-1) + 0.05 * z[..., 0] ** 3 - 0.02 * z[..., 0] * z[..., 1] ** 2
        )

    def gradient(z):
        first = -z[..., 0] + 0.15 * z[..., 0] ** 2 - 0.02 * z[..., 1] ** 2
        return np.stack([first, -z[..., 1] - 0.04 * z[..., 0] * z[..., 1]], axis=-1)

    points = np.array([[a, b] for a in (-2.0, 0.0, 2.0) for b in (-2.0, 0.0, 2.0)])
    surrogate = Surrogate.of(points, log_density(points), gradient(points))
    z = np.random.default_rng(0).uniform(-2, 2, (200, 2))
    np.testing.assert_allclose(surrogate.log_density(z), log_density(z), atol=0.02)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.7])
def test_pareto_shapes_are_found(shape):
    excess = np.sort(st.genpareto(shape, scale=2.0).rvs(5_000, random_state=3))
    k, scale = fit(excess)
    assert k == pytest.approx(shape, abs=0.05)
    assert scale == pytest.approx(2.0, rel=0.1)


def test_weights_without_a_mean_are_told_from_those_with_one():
    """Of a t proposal the ratios are bounded; of a normal one for a t target they are not."""
    rng = np.random.default_rng(0)
    wide = st.t(4).rvs(4_000, random_state=rng)
    good = smoothed(st.norm.logpdf(wide) - st.t(4).logpdf(wide))
    narrow = 0.5 * rng.standard_normal(4_000)
    bad = smoothed(st.t(4).logpdf(narrow) - st.norm(scale=0.5).logpdf(narrow))
    assert good[1] < 0.2
    assert bad[1] > threshold(4_000)
    assert good[0].sum() == pytest.approx(1.0)


def test_minimum_of_rosenbrock():
    def rosenbrock(x):
        a, b = x
        value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
        gradient = [-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)]
        return float(value), np.array(gradient)

    found = minimise(rosenbrock, np.array([-1.2, 1.0]))
    assert found.converged
    np.testing.assert_allclose(found.x, 1.0, atol=1e-6)


def test_a_search_ends_where_the_errors_of_the_function_are_all_that_is_left():
    """At a minimum whose slope says that twice the gain is to be had."""
    error = np.array([2e-2, 0.0])

    def rough(x):
        return 0.5 * float(x @ x), x + error

    found = minimise(rough, np.zeros(2), gain=1e-4, inverse=np.eye(2))
    np.testing.assert_allclose(found.x, 0.0, atol=0.02)
    assert found.evaluations < 15


class TwoSided:
    """Even in its one coordinate, with modes at three and minus three."""

    def log_density(self, x):
        return -0.5 * ((np.abs(x[:, 0]) - 3) / 0.1) ** 2

    def value_and_gradient(self, x):
        gradient = -(np.abs(x) - 3) / 0.01 * np.sign(x)
        return float(self.log_density(x[None])[0]), gradient

    def canonical(self, x):
        return np.abs(x)

    def folds(self):
        return [(0, np.array([-1.0]))]


@pytest.mark.parametrize("cheap", [True, False])
def test_a_search_may_end_on_either_side_of_an_even_density(cheap):
    rng = np.random.default_rng(0)
    found = sample(TwoSided(), np.array([-2.9]), np.array([0.1]), rng, 2000, cheap=cheap)
    assert found.reliable
    assert found.x.mean() == pytest.approx(3.0, abs=0.01)
    assert found.x.std() == pytest.approx(0.1, rel=0.06)
    assert found.evidence == pytest.approx(np.log(0.1 * np.sqrt(2 * np.pi)), abs=0.01)


class FewLevels:
    """Four normal coordinates and b, that of a scale which few levels tell little of.

    Flat about zero, slow to fall beyond, and at an end where t = .001 sinh b meets its prior.
    """

    def log_density(self, x):
        b = np.clip(x[..., -1], -300.0, 300.0)
        slow = -0.25 * np.log(np.cosh(b)) - 0.5 * (0.001 * np.sinh(b)) ** 2
        return -0.5 * (x[..., :-1] ** 2).sum(axis=-1) + slow

    def value_and_gradient(self, x):
        steps = 1e-5 * np.eye(5)
        slopes = [(self.log_density(x + s) - self.log_density(x - s)) / 2e-5 for s in steps]
        return float(self.log_density(x)), np.array(slopes)

    def canonical(self, x):
        return np.c_[x[:, :-1], np.abs(x[:, -1])]

    def folds(self):
        return [(4, np.r_[np.ones(4), -1.0])]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_cliff_does_not_bend_the_surrogate(seed):
    """Proposals beyond it have a density of minus 1e7 nats and less."""
    target, rng = FewLevels(), np.random.default_rng(seed)
    how = {"cheap": False, "spare": 400}
    found = sample(target, np.full(5, 0.5), np.ones(5), rng, 10_000, **how)
    grid = np.zeros((20_001, 5))
    grid[:, -1] = np.linspace(0, 20, len(grid))
    weights = np.exp(target.log_density(grid))
    assert found.reliable
    assert found.evaluations < 200
    np.testing.assert_allclose(found.x[:, :-1].std(axis=0), 1.0, rtol=0.1)
    b = weights @ grid[:, -1] / weights.sum()
    assert np.abs(found.x[:, -1]).mean() == pytest.approx(b, rel=0.15)


def test_a_flatter_density_has_weights_where_a_draw_has_no_mass_at_all():
    """Powers of exp(-2000) overflow; times a weight of zero they are not a number."""
    weights = _flatter(np.array([0.0, -1.0, -2000.0]), np.array([0.6, 0.4, 0.0]), 0.35)
    expected = np.array([0.6, 0.4 * np.exp(0.65), 0.0])
    np.testing.assert_allclose(weights, expected / expected.sum())
