"""A density in closed form has the automatic value and derivatives, of every registered family."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contract_family import EXAMPLES, family
from ranef.families.response_design import ResponseDesign

N = 40
# Families that give one, and the predictors that rows have.
GIVEN = {
    ("ordinal", ("mu",)),
    ("categorical", ("mub", "muc")),
    ("negative_binomial", ("mu",)),
    ("zero_inflated_poisson", ("mu",)),
    ("zero_inflated_poisson", ("mu", "psi")),
    ("zero_inflated_negative_binomial", ("mu",)),
    ("zero_inflated_negative_binomial", ("mu", "psi")),
    ("gamma", ("mu",)),
    ("beta", ("mu",)),
    ("student", ("mu",)),
}


def candidates():
    """Each family with one predictor, with that and psi, and with as many as there can be."""
    for name in EXAMPLES:
        parameters = family(name).parameters
        scalars = tuple(p.name for p in parameters if not p.labels)
        yield from {(name, own) for own in (scalars[:1], (scalars[0], "psi"), scalars)}


def given(name, predictors):
    """The family, its example's quantiles as the response, and the density or None."""
    law, example = family(name), EXAMPLES[name]
    with jax.enable_x64(True):
        response = example.response(example.quantiles(N))
        return law, response, law.row_density(response, list(predictors))


def test_the_families_that_say_so_give_one():
    assert {case for case in candidates() if given(*case)[2] is not None} == GIVEN


@partial(jax.jit, static_argnums=(0, 1))
def automatic(law, predictors, response, eta, numbers, weights):
    """Log p (n,), its gradient, Hessian and thirds, and slopes of the weighted sum in numbers."""

    def rows(eta, numbers):
        each = {own: eta[:, c] for c, own in enumerate(predictors)}
        return law.log_density(response, **each, **law.on_link_scale(**numbers))

    def along(derivative, c):
        unit = jnp.zeros_like(eta).at[:, c].set(1.0)
        return lambda eta: jax.jvp(derivative, (eta,), (unit,))[1]

    slope = jax.grad(lambda eta: rows(eta, numbers).sum())
    second = [along(slope, c) for c in range(len(predictors))]
    third = [along(each, c)(eta)[:, c] for c, each in enumerate(second)]
    return (
        rows(eta, numbers),
        slope(eta),
        jnp.stack([each(eta) for each in second], axis=-1),
        jnp.stack(third, axis=-1),
        jax.grad(lambda numbers: weights @ rows(eta, numbers))(numbers),
    )


@pytest.mark.parametrize(("name", "predictors"), sorted(GIVEN))
def test_derivatives_are_the_automatic_ones(name, predictors):
    """At random points, and as far out as a search may go."""
    law, response, density = given(name, predictors)
    rng = np.random.default_rng(5)
    eta = 3.0 * rng.normal(size=(N, len(predictors)))
    # The quantiles are in order: far points of rows from all over.
    eta[::10], eta[1::10] = 30.0, -30.0
    eta[2::10], eta[2::10, 0] = -30.0, 30.0
    others = {own: v for own, v in EXAMPLES[name].values.items() if own not in predictors}
    numbers = {own: np.asarray(value, np.float64) for own, value in others.items()}
    weights = rng.uniform(size=N)
    with jax.enable_x64(True):
        given_ = jnp.asarray(eta), {own: jnp.asarray(v) for own, v in numbers.items()}, weights
        *expected, by_number = automatic(law, predictors, response, *given_)
    found = density.derivatives(eta[None], numbers, 3)
    averaged = density.averaged(eta[None], numbers, np.ones(1), 3)
    for own, other, right in zip(found, averaged, expected, strict=True):
        np.testing.assert_allclose(own[0], right, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other, right, rtol=1e-9, atol=1e-12)
    slopes = density.by_number(eta[None], numbers, weights[None])
    assert set(slopes) == set(by_number)
    for own, right in by_number.items():
        np.testing.assert_allclose(slopes[own], right, rtol=1e-9, atol=1e-12)


def test_a_weight_is_a_smaller_scale():
    law, response, _ = given("student", ("mu",))
    weighted = ResponseDesign(response.value, np.full(N, 4.0), "weights")
    eta, numbers = np.linspace(-9.0, 9.0, N)[None, :, None], {"sigma": 0.6, "nu": 4.5}
    found = law.row_density(weighted, ["mu"]).derivatives(eta, numbers, 3)
    halved = law.row_density(response, ["mu"]).derivatives(eta, {**numbers, "sigma": 0.3}, 3)
    for own, right in zip(found, halved, strict=True):
        np.testing.assert_allclose(own, right, rtol=1e-12)


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_negative_binomial"])
def test_a_shape_without_end_is_the_poisson_one(name):
    """Where the difference of two log gammas would have lost its digits."""
    _, response, density = given(name, ("mu",))
    poisson, _, _ = given("zero_inflated_poisson", ("mu",))
    eta = np.linspace(-3.0, 3.0, N)[None, :, None]
    numbers = {"alpha": np.asarray(1e13), "psi": np.asarray(0.7)}
    if name == "negative_binomial":
        numbers["psi"] = np.asarray(1.0)
    limit = poisson.row_density(response, ["mu"]).derivatives(eta, numbers, 3)
    for own, right in zip(density.derivatives(eta, numbers, 3), limit, strict=True):
        np.testing.assert_allclose(own, right, rtol=1e-9, atol=1e-9)
