"""Shares of variance."""

import numpy as np
import pytest

import ranef as rf


@pytest.mark.parametrize("family", ["gaussian", "student"])
def test_a_share_is_of_the_mean_variance_of_the_rows_in_any_unit_of_the_weights(family):
    rng = np.random.default_rng(15)
    n = 400
    x, g, w = rng.normal(size=n), rng.integers(0, 20, n), rng.integers(1, 40, n)
    y = 0.5 * x + rng.normal(0, 0.5, 20)[g] + 2 * rng.normal(size=n) / np.sqrt(w)
    shares = []
    for unit in (0.01, 1, 100):
        table = {"y": y, "x": x, "g": g, "w": unit * w}
        model = rf.Model("weights(y, w) ~ x + (1 | g)", family=family)
        method = "exact" if family == "gaussian" else "laplace"
        fit = model.fit(table, progress=False, method=method, draws=400)
        draws = fit.posterior
        group = np.asarray(draws["1|g_sigma"]) ** 2
        common = np.asarray(draws["x"]) ** 2 * x.var()
        residual = np.asarray(draws["sigma"]) ** 2 * (1 / (unit * w)).mean()
        own = fit.summary().loc["share(g)", "mean"]
        assert own == pytest.approx((group / (group + common + residual)).mean(), rel=1e-6)
        shares.append(own)
    assert np.ptp(shares) < 0.02
    assert 0.2 < shares[0] < 0.24


def test_a_share_counts_factors_and_fixed_coefficients():
    rng = np.random.default_rng(1)
    n = 300
    f, g, x = rng.integers(0, 3, n), rng.integers(0, 15, n), rng.normal(size=n)
    y = 2.0 * f + x + rng.normal(0, 1, 15)[g] + rng.normal(size=n)
    table = {"y": y, "f": np.array(["a", "b", "c"])[f], "x": x, "g": g}
    shares = [
        rf.Model("y ~ f + x + (1 | g)", priors=priors)
        .fit(table, progress=False)
        .summary()
        .loc["share(g)", "mean"]
        for priors in ({}, {"x": rf.priors.Fixed(1.0)})
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    assert shares[0] < 0.3
