"""Every registered method keeps the contract."""

import pytest

from contract_method import CHECKS, EXAMPLES
from ranef import registry


def test_every_registered_method_is_under_contract():
    assert set(EXAMPLES) == set(registry.METHODS)


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, several in EXAMPLES.items() for o in several]
)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check, name, options, grouped):
    check(name, options, grouped)
