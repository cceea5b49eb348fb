"""s(): its mixed model is the penalized regression of Eilers and Marx."""

import numpy as np

import ranef as rf
from ranef.terms.smooth.spline import b_splines


def test_b_splines_add_to_one_and_hold_lines():
    u = np.linspace(-1.4, 1.4, 50)
    basis = b_splines(u, 9)
    np.testing.assert_allclose(basis.sum(axis=1), 1.0, atol=1e-12)
    middles = (np.arange(9) - 1.0) * 2 / 6 - 1
    np.testing.assert_allclose(basis @ middles, u, atol=1e-12)


def test_it_is_the_penalized_regression():
    """With both sds known and flat priors on the line: (B'B + r D'D)^-1 B'y."""
    rng = np.random.default_rng(2)
    x = np.sort(rng.uniform(0, 4, 80))
    y = np.cos(2 * x) + 0.3 * rng.normal(size=80)
    given = {"s(x)_sigma": 0.8, "sigma": 0.3, "Intercept": rf.Flat(), "x": rf.Flat()}
    fit = rf.Model("y ~ s(x, k=12)", priors=given).fit(
        {"x": x, "y": y}, method="exact", draws=4000, progress=False
    )
    u = (x - (x[0] + x[-1]) / 2) / (x[-1] - x[0]) * 2
    basis, penalty = b_splines(u, 12), np.diff(np.eye(12), 2, axis=0)
    # The unit of the sd: that of the curve about its line, over the range.
    grid = np.linspace(-1, 1, 401)
    bent = b_splines(grid, 12) @ np.linalg.pinv(penalty)
    line = np.stack([np.ones_like(grid), grid], axis=1)
    bent -= line @ np.linalg.lstsq(line, bent, rcond=None)[0]
    size = np.sqrt((bent**2).sum(axis=1).mean())
    ratio = (0.3 * size / 0.8) ** 2
    inverse = np.linalg.inv(basis.T @ basis + ratio * penalty.T @ penalty)
    expected, sd = basis @ inverse @ basis.T @ y, 0.3 * np.sqrt(np.diag(basis @ inverse @ basis.T))
    found = fit.predict({"x": x})
    np.testing.assert_allclose(found["mean"], expected, atol=0.1 * sd.max())
    np.testing.assert_allclose(found["sd"], sd, rtol=0.08)
    assert list(fit.fixef().index) == ["Intercept", "x"]
