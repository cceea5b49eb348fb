"""Chains with exact gradients, and what draws hyperparameters in many dimensions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import digamma, polygamma

import ranef as rf
from ranef.inference.hyperparameters.hmc import hmc
from ranef.inference.hyperparameters.mode import find_mode
from ranef.inference.hyperparameters.sampler import sample

D = 25


class Skewed:
    """Independent x_i = log g_i, g_i ~ Gamma(shape, shape), which are skewed to the left."""

    def __init__(self, shape=3.0):
        self.shape = shape

    def log_density(self, x):
        return (self.shape * x - self.shape * np.exp(x)).sum(axis=-1)

    def value_and_gradient(self, x):
        return float(self.log_density(x)), self.shape - self.shape * np.exp(x)

    def canonical(self, x):
        return x

    def folds(self):
        return []

    @property
    def sds(self):
        return float(np.sqrt(polygamma(1, self.shape)))

    @property
    def mean(self):
        return float(digamma(self.shape) - np.log(self.shape))


def test_chains_have_the_moments_of_a_skewed_density():
    target = Skewed()
    top = find_mode(target, np.full(D, 0.3), np.full(D, 0.5), lambda: None)
    found = hmc(
        target.value_and_gradient, target.canonical, top, np.random.default_rng(0), draws=2_000
    )
    assert found.converged
    flat = found.x.reshape(-1, D)
    assert flat.mean() == pytest.approx(target.mean, abs=0.03)
    np.testing.assert_allclose(flat.std(axis=0), target.sds, rtol=0.12)
    np.testing.assert_allclose(target.log_density(found.x), found.values)


@pytest.mark.parametrize("chains", [True, False])
def test_many_dimensions_are_explored(chains):
    """By weights alone, or by chains where these say that they do not suffice."""
    target = Skewed(shape=6.0)
    found = sample(
        target,
        np.full(D, 0.3),
        np.full(D, 0.3),
        np.random.default_rng(1),
        2_000,
        cheap=True,
        chains=chains,
    )
    assert found.reliable
    assert found.x.mean() == pytest.approx(target.mean, abs=0.03)
    np.testing.assert_allclose(found.x.std(axis=0), target.sds, rtol=0.15)


def test_chains_say_where_they_have_not_mixed():
    """Two modes far apart, between which no trajectory goes."""

    class TwoModes(Skewed):
        def value_and_gradient(self, x):
            first = np.where(np.arange(len(x)) == 0, x, 0.0)
            near = -0.5 * ((np.abs(first[0]) - 6) / 0.3) ** 2
            rest = x[1:]
            slope = np.r_[-(np.abs(x[0]) - 6) / 0.09 * np.sign(x[0]), -rest]
            return float(near - 0.5 * rest @ rest), slope

    target = TwoModes()
    top = find_mode(target, np.r_[5.5, np.zeros(3)], np.ones(4), lambda: None)
    wide = top.root.copy()
    wide[0, 0] = 6.0
    top = replace(top, x=np.zeros(4), root=wide)
    found = hmc(
        target.value_and_gradient, lambda x: x, top, np.random.default_rng(0), 200, most=3_000
    )
    assert not found.converged


def test_chains_that_go_nowhere_are_given_up_early():
    """A density whose slope is that of another: every step of a natural length is refused."""

    class Rough(Skewed):
        def value_and_gradient(self, x):
            value, slope = super().value_and_gradient(x)
            return value - 2e3 * float(np.abs(np.sin(40 * x)).sum()), slope

    target = Skewed()
    top = find_mode(target, np.full(D, 0.3), np.full(D, 0.5), lambda: None)
    rough = Rough().value_and_gradient
    found = hmc(rough, target.canonical, top, np.random.default_rng(0), draws=1_000)
    assert not found.converged
    assert found.evaluations < 1_000


def _slopes(columns, levels=80, n=1_500, seed=0):
    rng = np.random.default_rng(seed)
    g = rng.integers(0, levels, n)
    x = rng.normal(size=(n, columns))
    b = rng.normal(0, 0.5, (levels, columns))
    y = rng.normal(0, 0.5, levels)[g] + (b[g] * x).sum(axis=1) + rng.normal(size=n)
    table = {f"x{i}": x[:, i] for i in range(columns)}
    return {"y": y, "g": g, **table}, " + ".join(table)


def test_six_correlated_columns_agree_with_the_likelihood():
    """Twenty-two hyperparameters, of which a surrogate would take gigabytes."""
    table, columns = _slopes(5)
    fit = rf.Model(f"y ~ ({columns} | g)").fit(table, progress=False)
    assert fit.converged
    best = fit.maximum_likelihood()["varcorr"]["estimate"]
    mine = fit.varcorr()["mean"]
    sds = [name for name in best.index if name.endswith("_sigma") or name == "sigma"]
    np.testing.assert_allclose(mine[sds], best[sds], rtol=0.1)


def test_fourteen_thresholds_are_found():
    rng = np.random.default_rng(3)
    x = rng.normal(size=300)
    z = x + rng.logistic(size=300)
    y = np.searchsorted(np.quantile(z, np.arange(1, 15) / 15), z)
    fit = rf.Model("y ~ x", family="ordinal").fit({"y": y, "x": x}, draws=500, progress=False)
    assert fit.converged
    assert fit.fixef().loc["x", "mean"] == pytest.approx(1.0, abs=0.25)
    best = fit.maximum_likelihood()
    np.testing.assert_allclose(fit.posterior["threshold"].mean(("chain", "draw")),
                               best["threshold"], atol=0.35)  # fmt: skip
