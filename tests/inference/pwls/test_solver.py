"""The solver against dense algebra: every path of elimination, singular roots included."""

import numpy as np
import pytest

from dense_model import Dense, example
from ranef.errors import DataError
from ranef.inference.pwls import solver as pwls
from ranef.inference.pwls.cross_products import GroupingFactor, RowBatch, cross_products
from ranef.inference.pwls.crossed_elimination import CrossedElimination
from ranef.inference.pwls.effect_draws import EffectSampler, SharedFactorization
from ranef.inference.pwls.nested_elimination import NestedElimination
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.solver import PWLS

FULL = np.array([[0.8, 0.0], [0.3, 0.5]])
SINGULAR = np.array([[0.8, 0.0], [0.3, 0.0]])
ZERO = np.zeros((2, 2))
SMALL, NONE = np.array([[0.6]]), np.array([[0.0]])
MEAN, PRECISION = np.array([0.0, 1.0, -1.0]), np.array([0.0, 0.3, 2.0])

# Factors, their roots, and whether what is crossed is held sparsely.
CASES = {
    "no factor": ((), (), False),
    "slopes": (("g",), (FULL,), False),
    "slopes, singular": (("g",), (SINGULAR,), False),
    "slopes, no variance": (("g",), (ZERO,), False),
    "crossed": (("h", "g"), (SMALL, FULL), False),
    "crossed slopes, one singular": (("h2", "g"), (SINGULAR, FULL), False),
    "nested thrice": (("t", "p", "g"), (SMALL, FULL, SINGULAR), False),
    "nested, outer without variance": (("p", "g1"), (ZERO, SMALL), False),
    "nested and crossed": (("p", "h", "g1"), (FULL, SMALL, SMALL), False),
    "sparse": (("p", "h", "g"), (FULL, NONE, SINGULAR), True),
    "sparse scalars": (("h", "g1"), (SMALL, SMALL), True),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    """The solver, the roots, and the same model by dense algebra."""
    names, roots, sparse = request.param
    data = example()
    rows = RowBatch(data["y"], data["x"], [data[name] for name in names], data["w"])
    solver = PWLS(cross_products(rows))
    if sparse:
        order = sorted(range(len(names)), key=lambda f: -solver.products.levels[f])
        solver.system = CrossedElimination.of(solver.products, order[0], order[1:])
    return solver, list(roots), Dense(rows, list(roots), MEAN, PRECISION)


def solve(solver, roots):
    return solver.solve(roots, solver.penalty(MEAN, PRECISION))


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ([0, 1, 2, 2, 0, 0], [0, 0, 1, 0, 0, 0]),
        ([0, 0, 1, 1, 2, 2, 0, 1, 2], [0, 1, 0, 0, 1, 1, 0, 0, 1]),
        ([0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 0, 0, 2, 2, 2, 2]),
        ([0, 0, 1, 1, 3, 3], [0, 0, 0, 0, 2, 2]),
    ],
    ids=["as many pairs as levels", "crossed", "an outer level without rows", "neither occurs"],
)
def test_levels_without_rows_make_no_factor_nested(inner, outer):
    n = len(inner)
    rng = np.random.default_rng(0)
    factors = [
        GroupingFactor(np.array(codes), np.ones((n, 1)), levels)
        for codes, levels in ((inner, 4), (outer, 3))
    ]
    rows = RowBatch(rng.normal(size=n), np.ones((n, 1)), factors)
    roots = [SMALL, np.array([[0.9]])]
    mean, precision = np.zeros(1), np.ones(1)
    solver = PWLS(cross_products(rows))
    solution = solver.solve(roots, solver.penalty(mean, precision))
    dense = Dense(rows, roots, mean, precision)
    assert solution.residual[0] == pytest.approx(dense.residual, rel=1e-10)
    whole = solution.log_det_random[0] + solution.log_det_common[0]
    assert whole == pytest.approx(dense.log_det, rel=1e-10, abs=1e-10)


def test_determinants_residual_and_solution(case):
    solver, roots, dense = case
    solution = solve(solver, roots)
    assert solution.log_det_random[0] == pytest.approx(dense.log_det_random, rel=1e-10, abs=1e-10)
    whole = solution.log_det_random[0] + solution.log_det_common[0]
    assert whole == pytest.approx(dense.log_det, rel=1e-10)
    assert solution.residual[0] == pytest.approx(dense.residual, rel=1e-10)
    effects = np.concatenate([np.zeros(0), *(e[0].ravel() for e in solution.effects)])
    np.testing.assert_allclose(effects, dense.coefficients[: dense.random], atol=1e-9)
    np.testing.assert_allclose(solution.common[0], dense.coefficients[dense.random :], rtol=1e-8)


def test_variance_of_every_coefficient(case):
    solver, roots, dense = case
    solution = solve(solver, roots)
    variances = np.concatenate([np.zeros(0), *(v[0].ravel() for v in solution.effect_variances)])
    np.testing.assert_allclose(variances, np.diag(dense.covariance)[: dense.random], atol=1e-9)
    own = dense.covariance[dense.random :, dense.random :]
    np.testing.assert_allclose(solution.common_covariance[0], own, atol=1e-8)


@pytest.mark.parametrize("common", [True, False])
def test_derivatives_are_those_of_finite_differences(case, common):
    solver, roots, _ = case
    found = solve(solver, roots).root_derivatives(common=common)

    def at(f, place, away):
        moved = [root.copy() for root in roots]
        moved[f][place] += away
        solution = solve(solver, moved)
        log_det = solution.log_det_random[0] + common * solution.log_det_common[0]
        return np.array([log_det, solution.residual[0]])

    for f, both in enumerate(found):
        for place in np.ndindex(*both[0].shape):
            step = (at(f, place, 1e-5) - at(f, place, -1e-5)) / 2e-5
            np.testing.assert_allclose([d[place] for d in both], step, rtol=1e-6, atol=1e-6)


def test_derivative_along_the_penalty(case):
    solver, roots, _ = case
    penalty = solver.penalty(MEAN, PRECISION)
    up, down = (solver.solve(roots, penalty * (1 + s)) for s in (1e-4, -1e-4))
    step = [(up.log_det_common[0] - down.log_det_common[0]) / 2e-4]
    step.append((up.residual[0] - down.residual[0]) / 2e-4)
    found = solver.solve(roots, penalty).penalty_derivatives(penalty)
    np.testing.assert_allclose(found, step, rtol=1e-5, atol=1e-6)


def test_several_hyperparameters_at_once_are_each_alone(case):
    solver, roots, _ = case
    if not isinstance(solver.system, NestedElimination):
        pytest.skip("what is held sparsely is solved one by one")
    penalty = solver.penalty(MEAN, PRECISION)
    factors = np.array([1.0, 0.5, 0.0])
    several = solver.solve(
        [factors[:, None, None] * root for root in roots],
        factors[:, None, None] * penalty + penalty,
    )
    for i, factor in enumerate(factors):
        alone = solver.solve([factor * root for root in roots], factor * penalty + penalty)
        np.testing.assert_allclose(several.residual[i], alone.residual[0], rtol=1e-12)
        np.testing.assert_allclose(several.log_det_common[i], alone.log_det_common[0], rtol=1e-12)
        np.testing.assert_allclose(several.common[i], alone.common[0], rtol=1e-9)
        for one, other in zip(several.effects, alone.effects, strict=True):
            np.testing.assert_allclose(one[i], other[0], atol=1e-10)
        for one, other in zip(several.effect_variances, alone.effect_variances, strict=True):
            np.testing.assert_allclose(one[i], other[0], atol=1e-10)


def test_draws_have_the_posterior_mean_and_covariance(case):
    solver, roots, dense = case
    solution, rng = solve(solver, roots), np.random.default_rng(1)
    sigma = np.full(20_000, 0.7)
    remainder = solution.remainder_draws(rng, sigma)
    products, cell = (
        solver.products,
        SharedFactorization(np.arange(20_000), solution.conditionals(sigma, remainder)),
    )
    sizes = tuple(products.levels), tuple(products.widths)
    made = EffectSampler(solver.system.bare(), (cell,), (), *sizes, 1, 0, solver.largest)
    effects = made.by_factor({f: np.arange(j) for f, j in enumerate(products.levels)})
    parts = [*(effects[f].reshape(len(sigma), -1) for f in effects), solution.common_of(remainder)]
    drawn = np.concatenate(parts, axis=1)
    expected = 0.49 * dense.covariance
    sd = np.sqrt(np.diag(expected))
    error = np.abs(drawn.mean(axis=0) - dense.coefficients)
    assert (error <= 5 * sd / np.sqrt(len(sigma)) + 1e-9).all()
    away = np.cov(drawn.T) - expected
    # The standard error of a covariance is at most sd sd' sqrt(2 / n).
    assert (np.abs(away) <= 6 * np.outer(sd, sd) * np.sqrt(2 / len(sigma)) + 1e-9).all()


def test_a_column_that_others_make_up_is_named_by_its_place():
    data = example()
    x = np.column_stack([data["x"], data["x"] @ [0.0, 1.0, -2.0]])
    solver = PWLS(cross_products(RowBatch(data["y"], x, [data["g"]])))
    with pytest.raises(DependentColumnError) as caught:
        solver.solve([FULL])
    assert caught.value.column == 3


def test_more_crossed_levels_than_a_dense_matrix_holds_are_refused(monkeypatch):
    monkeypatch.setattr(pwls, "MOST_REMAINING", 5)
    monkeypatch.setattr(pwls, "_DENSE", 0)
    monkeypatch.setattr(pwls, "_DENSE_AT_MOST", 0)
    data = example()
    rows = RowBatch(data["y"], data["x"], [data["g"], data["h"]])
    with pytest.raises(DataError, match="beside the largest have 7 together"):
        PWLS(cross_products(rows))


def test_two_predictors_with_weights_by_row():
    """Rows of weight W (2 x 2) are two rows each under a root of W."""
    rng = np.random.default_rng(3)
    n, levels = 60, 4
    a = rng.normal(size=(n, 2, 2))
    weights = a @ a.transpose(0, 2, 1)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    x[:, 0] = 1.0
    z, codes = rng.normal(size=(n, 2)), rng.integers(0, levels, n)
    predictor, own = np.array([0, 0, 1]), np.array([0, 1])
    rows = RowBatch(y, x, [GroupingFactor(codes, z, levels, own)], weights, predictor)
    solution = PWLS(cross_products(rows)).solve([FULL])
    root = np.linalg.cholesky(weights).transpose(0, 2, 1)
    flat = RowBatch(
        np.einsum("nkp,np->nk", root, y).ravel(),
        (root[:, :, predictor] * x[:, None]).reshape(2 * n, 3),
        [
            GroupingFactor(
                np.repeat(codes, 2), (root[:, :, own] * z[:, None]).reshape(2 * n, 2), levels
            )
        ],
    )
    dense = Dense(flat, [FULL], np.zeros(3), np.zeros(3))
    assert solution.residual[0] == pytest.approx(dense.residual, rel=1e-9)
    np.testing.assert_allclose(solution.common[0], dense.coefficients[-3:], rtol=1e-8)
    np.testing.assert_allclose(solution.effects[0].ravel(), dense.coefficients[:-3], atol=1e-9)
