"""Every registered family keeps the contract."""

import pytest

from contract_family import CHECKS, EXAMPLES
from ranef import registry


def test_every_registered_family_is_under_contract():
    named = {registry.load("family", name).name for name in registry.FAMILIES}
    assert {registry.parts(name)[0] for name in EXAMPLES} == named


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name):
    check(name)
