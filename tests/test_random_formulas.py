"""Random formulas are fitted or refused in a sentence; benchmarks/random_formulas.py has more."""

import numpy as np
import pytest

import contract_random_formulas as contract
import ranef as rf
from ranef import registry

# Seeds whose cases take a second or two, one of each family that does. They are others once the
# generator has changed.
SEEDS = (2054, 2022, 2105, 2082, 2204, 2320, 2376, 2382, 2423, 2440, 2496, 2546, 2655, 2746, 2068)
# Seeds of notations that came later, each of half a second.
LATER_SEEDS = (10316, 10431)
# Cases that are drawn to see that every plug-in is among them.
DRAWN = 400


@pytest.mark.parametrize("seed", [*SEEDS, *LATER_SEEDS])
def test_a_random_formula_is_fitted_or_refused(seed, tmp_path):
    case = contract.random_case(seed)
    found = contract.outcome(case, tmp_path)
    assert found.holds, f"{case.name}: {found.word} at {found.step}: {found.said}\n{found.trace}"


# Cases that once ended otherwise: an overflow on the way to draws of a response that is constant,
# and a check of scales where a model has none.
MENDED = (2899, 3100)


@pytest.mark.parametrize("seed", MENDED)
def test_a_case_that_was_mended_stays_so(seed, tmp_path):
    found = contract.outcome(contract.random_case(seed), tmp_path)
    assert found.word == "fitted", f"{found.step}: {found.said}"


def test_components_that_cannot_be_told_apart_are_not_converged():
    """Three components for sixty rows: no normal is near the coefficients' posterior."""
    case = contract.random_case(2435)
    fit = rf.Model(case.formula, family=case.family).fit(
        case.table, method="laplace", draws=20, progress=False
    )
    assert not fit.converged
    assert "no normal distribution of the coefficients" in fit.message
    assert np.isfinite(fit.predict(case.table).to_numpy(float)).all()


def test_every_plug_in_is_drawn():
    drawn = set().union(*(contract.random_case(seed).kinds for seed in range(DRAWN)))
    wanted = {*registry.TERMS, *registry.FAMILIES, *registry.METHODS, "auto"}
    assert wanted <= drawn


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (rf.DataError("a sentence"), "refused"),
        (ValueError("no sentence"), "raw"),
        (contract.NotFinite("a number"), "nonfinite"),
    ],
)
def test_the_contract_tells_how_a_case_ends(error, word, tmp_path, monkeypatch):
    def fit(*args, **kwargs):
        raise error

    monkeypatch.setattr(rf.Model, "fit", fit)
    found = contract.outcome(contract.random_case(2105), tmp_path)
    assert (found.word, found.step) == (word, "fit")


def test_a_case_without_end_is_slow(tmp_path, monkeypatch):
    def fit(*args, **kwargs):
        while True:
            pass

    monkeypatch.setattr(rf.Model, "fit", fit)
    found = contract.outcome(contract.random_case(2105), tmp_path, limit=0.2)
    assert (found.word, found.step) == ("slow", "fit")
