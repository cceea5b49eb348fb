"""Random formulas are fitted or refused in a sentence; benchmarks/random_formulas.py has more."""

import pytest

import contract_random_formulas as contract

# Seeds whose cases take a second or two, of as many families, terms and methods as there is time
# for. They are drawn anew when the generator changes.
SEEDS: tuple[int, ...] = ()
# Cases that `random_case` is asked for to see that every plug-in is drawn.
DRAWN = 300


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_formula_is_fitted_or_refused(seed, tmp_path):
    case = contract.random_case(seed)
    found = contract.outcome(case, tmp_path)
    assert found.holds, f"{case.name}: {found.word} at {found.step}: {found.said}\n{found.trace}"
