"""The log density of every method is the program's."""

import pytest

from contract_log_density import DENSITIES, MODELS, check_log_density
from ranef import registry


def test_the_density_of_every_registered_method_is_under_contract():
    assert set(DENSITIES) == set(registry.METHODS)
    assert {(method, which) for method, all_of in DENSITIES.items() for which in all_of} == set(
        MODELS
    )


@pytest.mark.parametrize(
    ("method", "which", "formula", "family"),
    [(*key, *model) for key, several in MODELS.items() for model in several],
)
def test_log_density_is_the_programs(method, which, formula, family, grouped):
    check_log_density(method, which, formula, family, grouped)
