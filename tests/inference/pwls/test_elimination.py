"""Which factors are eliminated, and that both ways to eliminate one factor agree."""

import numpy as np
import pytest

from dense_model import example
from ranef.inference.pwls import solver
from ranef.inference.pwls.cross_products import RowBatch, cross_products
from ranef.inference.pwls.crossed_elimination import CrossedElimination
from ranef.inference.pwls.nested_elimination import NestedElimination
from ranef.inference.pwls.solver import batch_size, select_elimination

ROOTS = {1: np.array([[[0.6]]]), 2: np.array([[[0.8, 0.0], [0.3, 0.5]]])}


def products_of(*names):
    data = example()
    rows = RowBatch(data["y"], data["x"], [data[name] for name in names], data["w"])
    return cross_products(rows)


def factors_of(system):
    """The eliminated factors, and those that remain, each in their order."""
    own = [stage.factor for stage in system.stages]
    return own, [part.factor for part in system.remainder.slices]


def test_nested_factors_are_eliminated_as_a_chain_from_the_largest_on():
    products = products_of("t", "p", "g")
    system = select_elimination(products)
    assert isinstance(system, NestedElimination)
    assert factors_of(system) == ([2, 1, 0], [])


def test_a_small_crossed_factor_remains_beside_the_chain():
    products = products_of("p", "h", "g")
    system = select_elimination(products)
    assert isinstance(system, NestedElimination)
    assert factors_of(system) == ([2, 0], [1])


@pytest.fixture
def sparse(monkeypatch):
    """As if dense columns of any size were too large."""
    monkeypatch.setattr(solver, "_DENSE", 0)
    monkeypatch.setattr(solver, "_DENSE_AT_MOST", 0)


def test_large_crossed_factors_leave_the_largest_alone_to_a_sparse_elimination(sparse):
    system = select_elimination(products_of("p", "h", "g"))
    assert isinstance(system, CrossedElimination)
    assert system.factor == 2
    assert sorted(part.factor for part in system.remainder.slices) == [0, 1]


def test_nested_factors_are_a_chain_however_large(sparse):
    assert isinstance(select_elimination(products_of("t", "p", "g")), NestedElimination)


def test_too_many_sparse_cross_products_are_refused(sparse, monkeypatch):
    monkeypatch.setattr(solver, "_MET", 3)
    with pytest.raises(solver.TooManyEffectsError, match="at most 3 cross-products"):
        select_elimination(products_of("h", "g"))


def test_only_an_elimination_of_a_chain_takes_several_hyperparameters():
    products = products_of("h", "g")
    assert batch_size(NestedElimination.of(products, [1], [0])) > 1
    assert batch_size(CrossedElimination.of(products, 1, [0])) == 1


@pytest.mark.parametrize("names", [("h", "g"), ("h2", "g"), ("p", "h", "g1")])
def test_both_eliminations_of_one_factor_are_one_model(names):
    products = products_of(*names)
    first, rest = len(names) - 1, list(range(len(names) - 1))
    systems = (
        NestedElimination.of(products, [first], rest),
        CrossedElimination.of(products, first, rest),
    )
    roots = tuple(ROOTS[k] for k in products.widths)
    penalty = np.eye(len(products.common))[None]
    one, other = (system.factorize(roots, penalty) for system in systems)
    np.testing.assert_allclose(other.log_det_random, one.log_det_random, rtol=1e-10)
    np.testing.assert_allclose(other.remainder.residual, one.remainder.residual, rtol=1e-10)
    rng = np.random.default_rng(0)
    levels = np.array([0, 2, 3])
    last = rng.normal(size=(4, systems[0].remainder.size))
    noise = rng.normal(size=(products.widths[first], 4, 3))
    drawn = []
    for system, found in zip(systems, (one, other), strict=True):
        effects, remaining = found.effects()
        covariances = found.covariances(common=True)
        given = found.conditionals(roots, np.full(4, 0.7), last)
        assert list(system.family({first: levels[::-1], 0: levels})) == [first]
        np.testing.assert_array_equal(system.family({first: levels[::-1]})[first], levels)
        assert system.parents(first, levels) == {}
        drawn.append(
            [
                *(effects[f] for f in range(len(names))),
                remaining,
                *(covariances.variances()[0][f] for f in range(len(names))),
                covariances.last,
                *(each for f in range(len(names)) for each in covariances.derivatives()[f]),
                system.bare().drawn(first, levels, given, [], noise),
            ]
        )
    for mine, theirs in zip(*drawn, strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-8, atol=1e-9)
