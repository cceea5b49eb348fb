"""Curves of conditional effects, and the figure that draws them."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import ranef as rf
from ranef import effects, plots


def test_curves_are_predictions_on_a_grid(linear, effects_table):
    curves = effects.conditional_effects(linear, "x", by="f", panels="b", at={"z": 2.0})
    assert curves["by"].to_numpy().tolist() == ["low", "mid", "high"]
    assert curves["panel"].to_numpy().tolist() == ["False", "True"]
    grid = effects.datagrid(linear, x=float(curves["x"][7]), f="high", b=True, z=2.0)
    found = effects.predictions(linear, newdata=grid)
    own = curves.isel(x=7, by=2, panel=1, group=0)
    for name in ("estimate", "lower", "upper"):
        assert float(own[name]) == pytest.approx(found[name][0])


def test_figures_have_a_line_for_each_value_in_declared_order(linear):
    figure = plots.conditional_effects(linear, "x", by="f", panels="b")
    assert plt.get_fignums() == []
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["b = False", "b = True"]
    assert [len(panel.lines) for panel in figure.axes] == [3, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["low", "mid", "high"]
    curves = effects.conditional_effects(linear, "f", by="x")
    points = plots.conditional_effects(curves)
    assert [tick.get_text() for tick in points.axes[0].get_xticklabels()] == ["low", "mid", "high"]
    heights = points.axes[0].containers[1].lines[0].get_ydata()
    np.testing.assert_allclose(heights, curves["estimate"].isel(by=1, group=0))


def test_categories_are_lines_or_panels(ordinal):
    figure = plots.conditional_effects(ordinal, "x")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["no", "some", "much"]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda fit: plots.conditional_effects(fit, "x", by="x"), "different predictors"),
        (lambda fit: plots.conditional_effects(fit, "x", panels="f"), "needs by"),
        (lambda fit: plots.conditional_effects(xr.Dataset()), "no estimate"),
        (lambda fit: plots.conditional_effects(fit, "x", at={"z": [1, 2]}), "at one value"),
        (
            lambda fit: plots.conditional_effects(fit, "x", by="z", at={"z": range(1, 20)}),
            "12 lines",
        ),
        (lambda fit: plots.conditional_effects(3, "x"), "take a fit"),
    ],
)
def test_refusals(linear, draw, said):
    with pytest.raises(rf.OptionError, match=said):
        draw(linear)
