"""A zero-inflated family has all it needs from the family of its counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ranef import registry
from ranef.data import tables
from ranef.errors import DataError
from ranef.families.response_design import ResponseDesign
from ranef.formula.equation import plain
from ranef.formula.formula import Formula

RESPONSE = Formula.parse("y ~ 1").response
COUNTED = {
    "poisson": {"mu": 3.2},
    "negative_binomial": {"mu": 3.2, "alpha": 1.7},
}


def pair(name):
    inflated = registry.load("family", f"zero_inflated_{name}")
    return registry.load("family", name)(RESPONSE), inflated(RESPONSE)


@pytest.mark.parametrize("name", COUNTED)
def test_the_parameters_are_those_of_the_counts_and_psi(name):
    counts, inflated = pair(name)
    assert inflated.parameters[:-1] == counts.parameters
    assert inflated.parameters[-1].name == "psi"
    assert type(inflated) is type(inflated).of(type(counts))


@pytest.mark.parametrize("name", COUNTED)
def test_without_excess_zeros_it_is_the_family_of_the_counts(name):
    counts, inflated = pair(name)
    y = ResponseDesign(np.arange(6.0))
    values = {own: jnp.full(6, value) for own, value in COUNTED[name].items()}
    all_counts = {**values, "psi": jnp.ones(6)}
    np.testing.assert_array_equal(inflated.mean(y, **all_counts), counts.mean(y, **values))
    np.testing.assert_array_equal(inflated.variance(y, **all_counts), counts.variance(y, **values))
    drawn = (
        each.sample(np.random.default_rng(1), y, **own)
        for each, own in ((counts, values), (inflated, all_counts))
    )
    np.testing.assert_array_equal(*drawn)
    with jax.enable_x64(True):
        etas = counts.on_link_scale(**values)
        found = inflated.log_density(y, **etas, psi=jnp.full(6, 40.0))
        np.testing.assert_allclose(found, counts.log_density(y, **etas), rtol=1e-12)


@pytest.mark.parametrize("name", COUNTED)
def test_the_probability_of_zero_is_that_of_the_density(name):
    counts, _ = pair(name)
    zeros = ResponseDesign(np.zeros(3))
    with jax.enable_x64(True):
        etas = {own: jnp.array([-20.0, 0.3, 5.0]) for own in COUNTED[name]}
        expected = counts.log_density(zeros, **etas)
        found = counts.given(zeros, **etas).log_zero()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_it_is_printed_as_the_counts_with_psi():
    _, inflated = pair("negative_binomial")
    symbols = {p.name: (p.symbol,) for p in inflated.parameters}
    line = plain(inflated.distribution_equation(symbols))
    assert line == "ZeroInflatedNegativeBinomial(ψ, μ, α)"


@pytest.mark.parametrize("name", COUNTED)
def test_a_refusal_names_the_family_that_was_asked_for(name):
    for family in pair(name):
        with pytest.raises(DataError, match=f"is 2.5 in row 2, and the family {family.name} takes"):
            family.refuse(np.array([1.0, 2.5]), None, tables.read({"y": [1.0, 2.5]}))
