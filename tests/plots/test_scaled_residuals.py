"""The figure of scaled residuals by the data that it draws; no fit is needed."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from ranef import plots
from ranef.plots.scaled_residuals import local_quantiles

RNG = np.random.default_rng(6)
N = 400


@pytest.fixture
def tree():
    groups = xr.Dataset(
        {"scaled": ("row", RNG.uniform(size=N)), "fitted": ("row", RNG.normal(size=N))},
        {"row": np.arange(N)},
        {"uniformity": 0.25, "outliers": 1.0},
    )
    return xr.DataTree.from_dict({"scaled_residuals": groups})


def test_the_figure_draws_quantiles_and_ranks(tree):
    figure = plots.residual_checks(tree)
    assert not plt.get_fignums()
    left, right = figure.axes
    scaled = tree["scaled_residuals"]["scaled"].to_numpy()
    fitted = tree["scaled_residuals"]["fitted"].to_numpy()
    points = left.lines[-1]
    np.testing.assert_allclose(points.get_ydata(), np.sort(scaled))
    np.testing.assert_allclose(points.get_xdata(), (np.arange(N) + 0.5) / N)
    ranks = np.argsort(np.argsort(fitted))
    np.testing.assert_allclose(right.lines[0].get_xdata(), (ranks + 0.5) / N)
    np.testing.assert_allclose(right.lines[0].get_ydata(), scaled)
    assert "uniformity 0.25" in figure.get_suptitle()
    figure.canvas.draw()


def test_local_quantiles_are_those_of_the_rows_near_a_place():
    ranks = (np.arange(20_000) + 0.5) / 20_000
    scaled = np.where(ranks < 0.5, 0.4, 1.0) * RNG.uniform(size=20_000)
    lines, size = local_quantiles(ranks, scaled, np.array([0.1, 0.9]))
    np.testing.assert_allclose(lines[:, 0], [0.1, 0.2, 0.3], atol=0.02)
    np.testing.assert_allclose(lines[:, 1], [0.25, 0.5, 0.75], atol=0.05)
    assert 3000 < size[1] < 20_000
