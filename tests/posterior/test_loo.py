"""What is left out without refitting, held against refits."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import ranef as rf
from ranef.comparison import stacking
from ranef.posterior.level_likelihood import LevelLikelihood
from ranef.posterior.loo import smoothed_out
from ranef.posterior.posterior import Posterior

RNG = np.random.default_rng(3)
J, N = 10, 60
G = np.repeat(np.arange(J), N // J)
X = RNG.normal(size=N)
Y = 1 + 0.5 * X + RNG.normal(size=J)[G] + 0.7 * RNG.normal(size=N)
TABLE = {"y": Y, "x": X, "g": np.array([f"g{j}" for j in G])}
PRIORS = {
    "Intercept": rf.Normal(0, 5),
    "x": rf.Normal(0, 5),
    "1|g_sigma": rf.HalfNormal(2),
    "sigma": rf.HalfNormal(2),
}
MODEL = rf.Model("y ~ x + (1 | g)", priors=PRIORS)


def without(keep):
    return {name: values[keep] for name, values in TABLE.items()}


@pytest.fixture(scope="module")
def fit():
    return MODEL.fit(TABLE, draws=4000, progress=False)


def test_rows_against_refits(fit):
    found = fit.loo()
    refits = [
        MODEL.fit(without(np.arange(N) != i), progress=False).log_score(without([i]))[0]
        for i in range(N)
    ]
    np.testing.assert_allclose(found.pointwise["elpd"], refits, atol=0.1)
    assert found.elpd == pytest.approx(sum(refits), abs=0.4)
    assert found.bad == 0
    assert found.se == pytest.approx(np.sqrt(N) * np.std(refits, ddof=1), rel=0.1)
    assert 3 < found.p_loo < 12


def test_groups_against_refits(fit):
    """Log p(y_j | y_-j) as a mean over the other groups' posterior of a normal density."""
    found = fit.loo(group="g")
    refits = []
    for j in range(J):
        draws = MODEL.fit(without(j != G), draws=2000, progress=False).posterior
        a, b, s, tau = (
            draws[n].to_numpy().ravel() for n in ("Intercept", "x", "sigma", "1|g_sigma")
        )
        y, x = Y[j == G], X[j == G]
        each = [
            multivariate_normal.logpdf(y, a[i] + b[i] * x, s[i] ** 2 * np.eye(len(y)) + tau[i] ** 2)
            for i in range(len(a))
        ]
        refits.append(logsumexp(each) - np.log(len(each)))
    np.testing.assert_allclose(found.pointwise["elpd"], refits, atol=0.2)
    assert found.elpd == pytest.approx(sum(refits), abs=0.5)
    assert list(found.pointwise.index) == [f"g{j}" for j in range(J)]


@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ x + (1 + x | g)", "y ~ (x || g)"])
def test_the_integral_by_importance_sampling_is_that_in_closed_form(formula):
    fit = rf.Model(formula).fit(TABLE, draws=400, progress=False)
    own = LevelLikelihood.of(Posterior(fit.program, fit.training, fit.draws), "g", G)
    closed = own.log_likelihood(0)
    import jax

    with jax.enable_x64(True):
        drawn = own._drawn(own._roots(), 0)
    assert np.median(np.abs(drawn - closed)) < 0.05
    one, other = (smoothed_out(values, 1.0)["elpd"].sum() for values in (closed, drawn))
    assert one == pytest.approx(other, abs=0.3)


def test_fits_beside_each_other(fit):
    plain = rf.Model("y ~ x").fit(TABLE, progress=False)
    table = rf.compare({"plain": plain, "groups": fit})
    assert list(table.index) == ["groups", "plain"]
    away = plain.loo().pointwise["elpd"] - fit.loo().pointwise["elpd"]
    assert table.loc["plain", "difference"] == pytest.approx(away.sum())
    assert table.loc["plain", "se"] == pytest.approx(np.sqrt(N) * away.std(ddof=1))
    assert table["weight"].sum() == pytest.approx(1)
    assert table.loc["groups", "difference"] == 0
    # The model without groups is scored on the levels of the other.
    by_group = rf.compare({"plain": plain, "groups": fit}, group="g")
    assert list(by_group.columns) == ["elpd", "difference", "se", "p_loo", "bad", "weight"]
    unseen = rf.compare({"plain": plain, "groups": fit}, data=TABLE)
    assert unseen.loc["groups", "elpd"] == pytest.approx(fit.log_score(TABLE).sum())


def test_stacking_weights():
    """Of two fits of which each is right on some rows the shares; of one twice, half each."""
    right, wrong = np.log(1.0), np.log(1e-9)
    density = np.array([[right, wrong]] * 30 + [[wrong, right]] * 10)
    np.testing.assert_allclose(stacking(density), [0.75, 0.25], atol=1e-6)
    np.testing.assert_allclose(stacking(np.zeros((5, 2))), [0.5, 0.5])


def test_what_cannot_be_compared_is_refused(fit):
    others = {
        "different responses": rf.Model("log(y + 9) ~ x").fit(TABLE, progress=False),
        "has used 60 rows": rf.Model("y ~ x").fit(without(np.arange(N) > 1), progress=False),
        "another order": rf.Model("y ~ x").fit(without(np.arange(N)[::-1]), progress=False),
    }
    for words, other in others.items():
        with pytest.raises(rf.DataError, match=words):
            rf.compare({"a": fit, "b": other})
    with pytest.raises(rf.OptionError, match="two fits or more"):
        rf.compare({"a": fit})
    with pytest.raises(rf.ColumnError, match="no grouping 'h'"):
        fit.loo(group="h")
