"""The verdict: a good fit is not cried over, a bad one does not look good."""

import numpy as np
import pytest

import ranef as rf
from ranef.check import check
from ranef.inference.base import Draws
from ranef.numerics.chain_diagnostics import convergence, energy_fractions
from ranef.posterior.posterior import Posterior


def judged(fit, **changes):
    """The verdict on the fit with some of its draws' record changed."""
    record = {
        "draw": lambda: fit.draws.sites,
        "points": {},
        "carried": {},
        "converged": True,
        "message": "m",
    }
    draws = Draws(**{**record, **changes})
    return check(Posterior(fit.program, fit.training, draws))


@pytest.fixture(scope="module")
def exact(grouped):
    return rf.Model("y ~ x + (1 | g)").fit(grouped, method="exact", progress=False)


def chains(fit, values, **statistics):
    """Four chains of the sites, `values` for sigma."""
    sites = {name: np.tile(v, (4, *[1] * (v.ndim - 1))) for name, v in fit.draws.sites.items()}
    rng = np.random.default_rng(0)
    sites = {n: v + 1e-3 * v.std() * rng.normal(size=v.shape) for n, v in sites.items()}
    stats = {"energy": rng.normal(size=(4, 1000)), "diverging": np.zeros((4, 1000), bool)}
    return {"draw": lambda: {**sites, "sigma": values}, "statistics": {**stats, **statistics}}


def test_a_good_fit_is_trusted(exact):
    verdict = exact.check()
    assert verdict.verdict == "trust"
    assert verdict.reasons == ()
    none, looked, subject, word = str(verdict).splitlines()
    assert (none, word) == ("nothing speaks against this fit", "trust")
    assert subject.startswith("the verdict is on the computation of the posterior;")
    assert looked.startswith("second opinion: the draws' weights by their exact density, k-hat")


def test_a_fit_that_did_not_end_is_distrusted(exact):
    verdict = judged(exact, converged=False, message="not reliable: k-hat 1.20")
    assert verdict.verdict == "distrust"
    assert "k-hat 1.20" in verdict.reasons[0]
    assert str(verdict).splitlines()[-1] == "distrust"


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "trust"), (0.4, "caution"), (3, "distrust")])
def test_chains_apart(shift, expected, exact):
    """R-hat of chains whose means differ by so many sds."""
    draws = 1 + 0.1 * np.random.default_rng(1).normal(size=(4, 1000))
    draws[0] += 0.1 * shift
    assert judged(exact, **chains(exact, draws)).verdict == expected


def test_divergences_and_energy(exact):
    draws = 1 + 0.1 * np.random.default_rng(1).normal(size=(4, 1000))
    few, many = np.zeros((4, 1000), bool), np.zeros((4, 1000), bool)
    few[0, 3], many[:, :50] = True, True
    assert judged(exact, **chains(exact, draws, diverging=few)).verdict == "caution"
    assert judged(exact, **chains(exact, draws, diverging=many)).verdict == "distrust"
    walk = np.cumsum(np.random.default_rng(2).normal(size=(4, 1000)), axis=1)
    verdict = judged(exact, **chains(exact, draws, energy=walk))
    assert any("E-BFMI" in reason for reason in verdict.reasons)


def test_a_variance_that_may_be_zero_is_named_and_not_cried_over(grouped):
    rng = np.random.default_rng(3)
    table = {**grouped, "y": rng.normal(size=300)}
    verdict = rf.Model("y ~ x + (1 | g)").fit(table, method="exact", progress=False).check()
    assert verdict.verdict == "trust"
    assert any("1|g_sigma may be zero" in reason for reason in verdict.reasons)


def test_collinear_columns_are_named(grouped):
    near = {**grouped, "x2": grouped["x"] + 0.01 * grouped["z"]}
    verdict = rf.Model("y ~ x + x2 + (1 | g)").fit(near, method="exact", progress=False).check()
    assert verdict.verdict == "trust"
    assert any(reason.startswith("x2 is nearly a combination") for reason in verdict.reasons)
    same = {**grouped, "x2": grouped["x"]}
    verdict = rf.Model("y ~ x + x2 + (1 | g)").fit(same, method="exact", progress=False).check()
    assert verdict.verdict == "caution"


def test_independent_draws_are_all_effective():
    draws = np.random.default_rng(4).normal(size=(4, 500, 3))
    how = convergence({"a": draws, "constant": np.ones((4, 500))})
    assert how.ess == pytest.approx(2000, rel=0.2)
    assert how.mixed
    np.testing.assert_allclose(energy_fractions(draws[..., 0]), 2.0, rtol=0.15)
