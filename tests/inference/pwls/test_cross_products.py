"""Cross-products are sums over rows, and lose no digits to columns far from zero."""

import numpy as np

from dense_model import example, indicator
from ranef.inference.pwls.cross_products import Centre, GroupingFactor, RowBatch, cross_products
from ranef.inference.pwls.solver import PWLS


def part(rows: RowBatch, where: slice) -> RowBatch:
    factors = [GroupingFactor(f.codes[where], f.columns[where], f.levels) for f in rows.factors]
    weights = None if rows.weights is None else rows.weights[where]
    return RowBatch(rows.response[where], rows.common[where], factors, weights)


def test_batches_add_up_to_the_whole():
    data = example()
    rows = RowBatch(data["y"], data["x"], [data["g"], data["h"]], data["w"])
    whole = cross_products(rows)
    places = [slice(0, 31), slice(31, 32), slice(32, 240)]
    first, *others = (cross_products(part(rows, where), whole.centre) for where in places)
    total = first
    for other in others:
        total = total + other
    assert total.rows == whole.rows
    np.testing.assert_allclose(total.log_weights, whole.log_weights)
    np.testing.assert_allclose(total.common, whole.common, atol=1e-10)
    for a, b in zip((*total.own, *total.cross), (*whole.own, *whole.cross), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    for key, pairs in whole.pairs.items():
        np.testing.assert_array_equal(pairs.left, total.pairs[key].left)
        np.testing.assert_array_equal(pairs.right, total.pairs[key].right)
        np.testing.assert_allclose(pairs.values, total.pairs[key].values, atol=1e-10)


def test_blocks_are_those_of_the_dense_matrices():
    data = example()
    rows = RowBatch(data["y"], data["x"], [data["g"], data["h2"]], data["w"])
    products = cross_products(rows)
    x = np.column_stack([data["x"] - products.centre.common, data["y"] - products.centre.response])
    g, h, w = indicator(data["g"]), indicator(data["h2"]), data["w"][:, None]
    own = (g.T @ (w * g)).reshape(12, 2, 12, 2)
    np.testing.assert_allclose(
        products.own[0], own[np.arange(12), :, np.arange(12)].transpose(1, 2, 0), atol=1e-10
    )
    cross = (g.T @ (w * x)).reshape(12, 2, -1).transpose(1, 2, 0)
    np.testing.assert_allclose(products.cross[0], cross, atol=1e-10)
    pairs = products.pairs[0, 1]
    whole = (g.T @ (w * h)).reshape(12, 2, 7, 2)
    np.testing.assert_allclose(
        pairs.values.transpose(2, 0, 1), whole[pairs.left, :, pairs.right], atol=1e-10
    )


def test_columns_at_a_thousand_million_keep_their_digits():
    """Moving a column and the response moves the intercept alone."""
    data = example()
    near = PWLS(cross_products(RowBatch(data["y"], data["x"], [data["g1"]])))
    away = data["x"] + np.array([0.0, 1e9, -1e9])
    moved = PWLS(cross_products(RowBatch(data["y"] + 1e9, away, [data["g1"]])))
    a, b = (solver.solve([np.array([[0.5]])]) for solver in (near, moved))
    np.testing.assert_allclose(b.residual, a.residual, rtol=1e-6)
    np.testing.assert_allclose(b.common[0, 1:], a.common[0, 1:], rtol=1e-5)
    np.testing.assert_allclose(b.log_det_common, a.log_det_common, rtol=1e-6)


def test_without_a_constant_column_nothing_is_taken_off():
    data = example()
    centre = Centre.of(RowBatch(data["y"], data["x"][:, 1:]))
    assert not centre.common.any()
    assert not centre.response.any()
