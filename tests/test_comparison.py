"""Comparisons by k-fold and their notes, and mixtures of fits, held against sums by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

import ranef as rf
from ranef.posterior.kfold import KFold
from ranef.posterior.loo import LeaveOneOut

RNG = np.random.default_rng(3)
N = 60
G = np.repeat(np.arange(6), 10)
X = RNG.normal(size=N)
TABLE = pd.DataFrame(
    {"y": 1 + 0.5 * X + 0.5 * RNG.normal(size=6)[G] + RNG.normal(size=N), "x": X, "g": G},
    index=np.arange(N) + 7,
)


@pytest.fixture(scope="module")
def fits():
    formulas = {"line": "y ~ x", "groups": "y ~ 1 + (1 | g)"}
    return {
        name: rf.Model(formula).fit(TABLE, draws=300, progress=False)
        for name, formula in formulas.items()
    }


def left_out(elpd, k=0.0, **how):
    """A result of loo() with these values and the same k-hat in every row."""
    columns = {"elpd": elpd, "p": np.zeros(len(elpd)), "k": np.full(len(elpd), k)}
    return LeaveOneOut(pd.DataFrame(columns), **{"group": "", "limit": 0.7, **how})


def folded(elpd, fold, group="", response="y"):
    return KFold(pd.DataFrame({"elpd": elpd, "fold": fold}), group, response)


def test_results_are_compared_as_they_are():
    """Stacking weights of densities 1, 0 and 0, 1 in shares of 3 to 1 are 3/4 and 1/4."""
    one, other = np.log([1.0, 1, 1, 1e-9]), np.log([1e-9, 1e-9, 1e-9, 1.0])
    table = rf.compare({"b": folded(other, [1, 2, 1, 2]), "a": folded(one, [1, 2, 1, 2])})
    assert list(table.index) == ["a", "b"]
    np.testing.assert_allclose(table["elpd"], [one.sum(), other.sum()])
    assert table.loc["b", "se"] == pytest.approx(2 * (other - one).std(ddof=1))
    np.testing.assert_allclose(table["weight"], [0.75, 0.25], atol=1e-4)
    assert list(table.columns) == ["elpd", "difference", "se", "weight"]
    assert table.notes == ()


def test_a_k_hat_above_its_limit_is_said():
    good, bad = np.full(4, -2.0), np.full(4, -1.0)
    table = rf.compare({"a": left_out(good), "b": left_out(bad, k=0.9)})
    assert table.notes == (
        "k-hat is over 0.70 for 4 of 4 rows of b: its elpd and its first place are not to be "
        "relied on; compare by folds=10, or on data=",
    )
    assert str(table).endswith(table.notes[0])
    assert table.notes[0] in table._repr_html_()
    assert "its elpd is not" in rf.compare({"a": left_out(bad), "b": left_out(good, 0.8)}).notes[0]
    assert rf.compare({"a": left_out(good), "b": left_out(bad, k=0.6)}).notes == ()


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ((folded([-1.0, -2], [1, 2]), folded([-1.0, -2], [2, 1])), "different rows, levels or"),
        ((folded([-1.0, -2], [1, 2]), folded([-1.0, -2, -3], [1, 2, 1])), "different rows"),
        ((folded([-1.0, -2], [1, 2]), folded([-1.0, -2], [1, 2], "g")), "different rows, levels"),
        ((folded([-1.0, -2], [1, 2]), folded([-1.0, -2], [1, 2], "", "z")), "responses, y and z"),
        ((folded([-1.0, -2], [1, 2]), left_out(np.zeros(2))), "is a KFold and 'b' a LeaveOneOut"),
        ((3, 4), "takes fits or results of loo"),
    ],
)
def test_results_of_other_rows_are_refused(results, said):
    with pytest.raises(rf.RanefError, match=said):
        rf.compare(dict(zip("ab", results, strict=True)))


def test_what_does_not_go_together_is_said(fits):
    mixed = {"line": fits["line"], "b": left_out(np.zeros(N))}
    for call, said in (
        (lambda: rf.compare(mixed), "compare takes fits alone"),
        (lambda: rf.compare(fits, folds=2, data=TABLE), "by folds= or on data=, not both"),
        (lambda: rf.stack(mixed), "stack takes fits by name"),
        (lambda: rf.stack(fits, weights={"line": 1}), "one number for each fit"),
        (lambda: rf.stack(fits, weights={"line": -1, "groups": 2}), "at least zero"),
        (lambda: rf.stack(fits, weights={"line": "a", "groups": 2}), "at least zero"),
        (lambda: rf.stack(fits, "g", weights={"line": 1, "groups": 2}), "not both"),
        (lambda: rf.stack(fits, data=TABLE).predict(TABLE, kind="component"), "'mean' or"),
    ):
        with pytest.raises(rf.OptionError, match=said):
            call()


def test_a_mixture_of_fits(fits):
    """Density, mean and variance of a mixture, and its quantiles from pooled draws."""
    weights = {"line": 1, "groups": 3}
    both, new = rf.stack(fits, weights=weights), TABLE.tail(8)
    assert dict(both.weights) == {"line": 0.25, "groups": 0.75}
    each = np.stack([fits[name].log_score(new) for name in weights])
    score = both.log_score(new)
    np.testing.assert_allclose(score, logsumexp(each.T + np.log([0.25, 0.75]), axis=1))
    assert list(score.index) == list(new.index)
    a, b, found = (own.predict(new, kind="response") for own in (*fits.values(), both))
    mean = 0.25 * a["mean"] + 0.75 * b["mean"]
    second = 0.25 * (a["sd"] ** 2 + a["mean"] ** 2) + 0.75 * (b["sd"] ** 2 + b["mean"] ** 2)
    np.testing.assert_allclose(found["mean"], mean)
    np.testing.assert_allclose(found["sd"], np.sqrt(second - mean**2))
    drawn = both.predictive(new, draws=4000)
    assert (drawn.dims, drawn.shape) == (("chain", "draw", "row"), (1, 4000, 8))
    assert list(drawn["row"].to_numpy()) == list(new.index)
    np.testing.assert_allclose(drawn.mean(("chain", "draw")), mean, atol=0.2)
    pooled = drawn.quantile([0.05, 0.95], ("chain", "draw"))
    np.testing.assert_allclose(found[["lower", "upper"]].T, pooled, atol=0.3)


@pytest.mark.long
def test_a_fit_without_the_grouping_is_compared_by_its_levels(fits):
    table = rf.compare(fits, group="g")
    assert table.loc["groups", "elpd"] == fits["groups"].loo(group="g").elpd
    whole = fits["line"].log_score(TABLE).sum()
    assert whole - 6 < table.loc["line", "elpd"] < whole  # less the effective number of parameters


@pytest.mark.long
def test_fits_are_compared_in_the_same_folds(fits):
    each = {name: fit.kfold(3, seed=2) for name, fit in fits.items()}
    table = rf.compare(fits, folds=3, seed=2)
    pd.testing.assert_frame_equal(table, rf.compare(each))
    by_group = rf.compare(fits, "g", folds=3).loc["line", "elpd"]
    assert by_group == fits["line"].kfold(3, group="g", data=TABLE).elpd
    stacked = rf.stack(fits, folds=3, seed=2)
    assert dict(stacked.weights) == pytest.approx(dict(table["weight"]))
