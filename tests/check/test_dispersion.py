"""Counts that vary more than their distribution allows are named, others are not."""

import numpy as np
import pytest

import ranef as rf
from ranef.check.deadline import Deadline
from ranef.check.dispersion import dispersion

RNG = np.random.default_rng(4)
N = 200
TABLE = {
    "x": RNG.normal(size=N),
    "many": RNG.negative_binomial(1.0, 0.2, N),
    "few": RNG.poisson(0.3, N),
    "row": np.arange(N),
    "wins": RNG.binomial(10, RNG.beta(1, 1, N)),
    "fair": RNG.binomial(10, 0.3, N),
    "ten": np.full(N, 10),
    "yes": RNG.binomial(1, 0.3, N),
}


def notes(formula, family, seconds=10.0):
    fit = rf.Model(formula, family=family).fit(TABLE, draws=200, progress=False)
    return [note.sign for note in dispersion(fit._known, Deadline(seconds))]


def test_overdispersed_counts_are_a_note_and_no_symptom():
    """Of an intercept alone the statistic is the variance over the mean."""
    fit = rf.Model("many ~ 1", family="poisson").fit(TABLE, progress=False)
    check = fit.check()
    [note] = check.notes
    ratio = TABLE["many"].var() / TABLE["many"].mean()
    assert f"vary {ratio:.2g} times as much about their means" in note.sign
    assert f"by a factor of up to {np.sqrt(ratio):.2g}" in note.meaning
    assert "family='negative_binomial'" in note.remedy
    assert check.verdict == "trust"
    assert check.reasons == ()
    assert f"- about the model: {note}" in str(check).splitlines()
    assert fit.check(quick=True).notes == check.notes  # the check that is known


@pytest.mark.parametrize(
    ("formula", "family", "named"),
    [
        ("wins / ten ~ x", "binomial", True),
        ("fair / ten ~ x", "binomial", False),
        ("few ~ x", "poisson", False),
        ("yes ~ x", "bernoulli", False),
        pytest.param("many ~ x", "negative_binomial", False, marks=pytest.mark.long),
        pytest.param("many ~ x + (1 | row)", "poisson", False, marks=pytest.mark.long),
    ],
)
def test_only_what_varies_too_much_is_named(formula, family, named):
    found = notes(formula, family)
    assert bool(found) == named
    assert all("the numbers of successes vary 3." in sign for sign in found)


def test_without_time_nothing_is_said():
    assert notes("many ~ 1", "poisson", seconds=0.0) == []
