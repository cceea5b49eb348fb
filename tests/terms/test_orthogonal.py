"""Coordinates in which default priors are stated: the space and the model stay what they are."""

import numpy as np
import pytest

import ranef as rf
from ranef.terms.orthogonal import coordinates, spans_constant

N = 200
RNG = np.random.default_rng(3)
YEAR = RNG.integers(1990, 2021, N).astype(float)
F = np.eye(3)[RNG.integers(0, 3, N)]
ONE = np.ones(N)


def moments(x):
    return x.mean(axis=0), np.cov(x, rowvar=False, bias=True).reshape(x.shape[1], -1)


@pytest.mark.parametrize(
    ("columns", "constant", "directions"),
    [
        ([ONE, YEAR, YEAR**2], True, 2),
        ([F], True, 2),
        ([ONE, F], True, 2),
        ([ONE, YEAR, 2 * YEAR, 0 * YEAR], True, 1),
        ([YEAR, YEAR**2], False, 2),
    ],
)
def test_coordinates_span_what_the_columns_span(columns, constant, directions):
    x = np.column_stack(columns)
    mean, covariance = moments(x)
    assert spans_constant(mean, covariance) == constant
    found = coordinates(tuple(range(x.shape[1])), mean, covariance, anchored=False, elsewhere=False)
    u = found.columns(x - mean if found.centred else x)
    np.testing.assert_allclose(x @ found.matrix, u, atol=1e-6 * np.abs(x).max())
    assert np.linalg.matrix_rank(found.matrix) == x.shape[1] == found.size
    used = int(constant) + directions
    np.testing.assert_allclose(u[:, :used].T @ u[:, :used] / N, np.eye(used), atol=1e-3)
    np.testing.assert_array_equal(u[:, used:], 0.0)


TABLE = {
    "x": YEAR,
    "z": RNG.normal(size=N),
    "f": np.array(["a", "b", "c"])[F.argmax(axis=1)],
    "h": RNG.choice(["u", "v"], N),
    "g": np.array([f"g{i}" for i in RNG.integers(0, 8, N)]),
    "y": RNG.normal(size=N),
}
VARYING = [
    *("x", "poly(x, 2)", "x + I(x**2)", "x*z", "f", "0 + f", "f + h", "f*x", "f*h", "h:x", "x + f"),
    "0 + x",
]


@pytest.mark.parametrize("inside", VARYING)
def test_effects_in_coordinates_are_those_of_the_formula(inside):
    model = rf.Model(f"y ~ 1 + ({inside} | g)")
    training = model._learn(TABLE)
    [(_, term)] = [(p, t) for p, t in model.program.all_terms() if t.call.kind == "group"]
    state, design = training.state.terms[term.label], training.designs[term.label]
    width = len(state.columns)
    if state.carry is None:
        assert width == 1
        return
    assert len(set(term._sd_sites(state))) == width
    raw = term.design_as_written(state, design).arrays["columns"]
    plain = state.matrix.build(training.sample)
    np.testing.assert_allclose(raw, plain, rtol=1e-6, atol=1e-6 * np.abs(plain).max())
    held = design.arrays["columns"]
    # Columns of higher degree are orthogonal to those of lower, in units of their sizes.
    unit = held / np.linalg.norm(held, axis=0)
    numbers = [i for i, name in enumerate(state.labels) if "x" in name or "z" in name]
    others = [i for i in range(width) if i not in numbers]
    if others and numbers:
        assert np.abs(unit[:, others].T @ unit[:, numbers]).max() < 1e-6
    assert all(size > 0.1 for size in state.sizes[others])


def test_the_sd_at_zero_is_carried_there_exactly():
    """Of (x | g): var(b0 - m b1) = s0^2 - 2 m r s0 s1 + m^2 s1^2 is that at the mean m."""
    fit = rf.Model("y ~ x + (x | g)").fit(TABLE, progress=False)
    p = fit.posterior
    m = YEAR.mean()
    s0, s1 = p["1|g_sigma"].to_numpy(), p["x|g_sigma"].to_numpy()
    r = p["g_corr"].to_numpy()[..., 0, 1]
    at_mean = s0**2 + 2 * m * r * s0 * s1 + m**2 * s1**2
    held = np.asarray(fit.draws.sites["1|g_sigma/centred"]) ** 2
    np.testing.assert_allclose(at_mean, held, rtol=1e-4, atol=1e-7)


def test_a_prior_of_the_users_is_about_the_parameter_that_it_names():
    own = {"x": rf.Normal(0.5, 1e-6), "1|g_sigma": rf.HalfNormal(2.0)}
    fit = rf.Model("y ~ x + z + (x | g)", priors=own).fit(
        {**TABLE, "x": TABLE["z"] + 1.0, "z": TABLE["x"]}, progress=False
    )
    assert fit.fixef().loc["x", "mean"] == pytest.approx(0.5, abs=1e-4)
    assert fit.priors["1|g_sigma"] == rf.HalfNormal(2.0)
    assert fit.priors["x"] == rf.Normal(0.5, 1e-6)
