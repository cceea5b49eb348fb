"""Separation, and priors that the data contradict."""

import numpy as np
import pytest

import ranef as rf
from ranef.check.separation import separating

RNG = np.random.default_rng(0)
X = RNG.normal(size=(100, 2))
ONES = np.ones((100, 1))
SOME = (np.arange(100) < 20) * 1.0


@pytest.mark.parametrize(
    ("columns", "value", "top", "expected"),
    [
        (np.hstack([ONES, X]), (X[:, 0] > 0.2) * 1.0, 1.0, True),
        (np.hstack([ONES, X]), (RNG.random(100) < 0.5) * 1.0, 1.0, False),
        # All zeros where an indicator is one: quasi-separation.
        (np.hstack([ONES, SOME[:, None]]), np.where(SOME == 1, 0.0, np.arange(100) % 2), 1, True),
        (np.hstack([ONES, SOME[:, None]]), np.where(SOME == 1, 0.0, 3.0), np.inf, True),
        (np.hstack([ONES, SOME[:, None]]), np.where(SOME == 1, np.arange(100) % 2, 3.0),
         np.inf, False),
    ],
)  # fmt: skip
def test_directions_along_which_the_likelihood_rises(columns, value, top, expected):
    direction = separating(columns, value == 0, value == top)
    assert bool(np.abs(direction).max() > 0.01) == expected
    if expected:
        eta = columns @ direction
        assert (eta[value == 0] <= 1e-9).all()
        assert (eta[value == top] >= -1e-9).all()
        np.testing.assert_allclose(eta[(value != 0) & (value != top)], 0, atol=1e-9)


def table(separated):
    rng = np.random.default_rng(4)
    x = rng.normal(size=120)
    g = np.repeat(np.arange(12), 10)
    y = (x > 0.1) * 1.0 if separated else (rng.random(120) < 0.4) * 1.0
    # A group all of zeros, which partial pooling takes care of.
    return {"y": y if separated else np.where(g == 3, 0.0, y), "x": x, "g": g.astype(str)}


@pytest.mark.parametrize("separated", [True, False])
def test_a_column_that_separates_is_named_and_a_group_of_zeros_is_not(separated):
    model = rf.Model("y ~ x + (1 | g)", family="bernoulli")
    verdict = model.fit(table(separated), method="laplace", progress=False).check()
    assert any("separated by x" in r for r in verdict.reasons) == separated
    if not separated:
        assert verdict.verdict == "trust"


def test_prior_and_data_that_contradict_each_other(grouped):
    def reasons(**priors):
        fit = rf.Model("y ~ x + (1 | g)", priors=priors).fit(grouped, progress=False)
        return [r for r in fit.check().reasons if "far tail" in r]

    assert reasons(x=rf.Normal(2, 1), sigma=rf.HalfNormal(1)) == []
    assert "mean of x, 1.9" in reasons(x=rf.Normal(0, 0.2))[0]
    assert "sigma" in reasons(sigma=rf.HalfNormal(0.05))[0]
    # Near zero is where a half-normal prior has most of its mass.
    assert reasons(**{"1|g_sigma": rf.HalfNormal(100)}) == []
    assert len(reasons(common=rf.Normal(0, 0.2))) == 1
