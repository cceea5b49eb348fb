"""The answer does not depend on how the table and the formula are written."""

import pytest

import contract_equivariance as contract
from ranef import registry


@pytest.mark.parametrize(
    ("case", "transformation"),
    [
        pytest.param(case, transformation, id=f"{transformation.name}: {case.name}")
        for case, transformation in contract.covering()
    ],
)
def test_answers_are_the_same(case, transformation, tmp_path):
    contract.check_equivariance(case, transformation, tmp_path)


def test_every_family_is_under_the_contract():
    assert set(registry.FAMILIES) == contract.FAMILIES_COVERED


def test_the_contract_tells_apart_what_differs(tmp_path):
    """A column that is bent is not the same information."""
    case = contract.CASES[0]
    bent = contract.Transformation("bent", rewrite=contract.changed(x=lambda x: x + 0.3 * x**2))
    found = {failure.what for failure in contract.failures_of(case, bent, tmp_path)}
    assert {"predictions", "contrasts", "log score"} <= found
