"""Every registered term keeps the contract."""

import pytest

from contract_term import CHECKS, EXAMPLES
from ranef import registry


def test_every_registered_term_is_under_contract():
    assert set(EXAMPLES) == set(registry.TERMS)


@pytest.mark.parametrize("formula", [f for formulas in EXAMPLES.values() for f in formulas])
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, formula, grouped):
    check(formula, grouped)
