"""Figures of the location parameter as a function of the predictors."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.lazy import xr
from ranef.plots.canvas import BLUE, INK, RED, Figure, label, panels, styled, window
from ranef.plots.source import Source, group

# Largest number of rows shown as points.
_ROWS = 1500


@styled
def data_fit(fit: Source, under: str = "posterior") -> Figure:
    """Draw the location over the first two numeric predictors, a surface for each draw.

    Group effects are at zero, and other predictors at their mean or most common level. With one
    numeric predictor the surfaces are lines. At most 1,500 rows are shown as points.

    Args:
        fit: an object with `.idata`.
        under: "posterior" or "prior" draws.

    Returns:
        The figure.

    Raises:
        OptionError: for a model without a numeric predictor, or prior draws of flat priors.
    """
    if under not in ("posterior", "prior"):
        raise OptionError(f"under must be 'posterior' or 'prior', not {under!r}")
    surface = group(fit, "surface")
    if under not in surface:
        raise OptionError("a flat prior has no draws to show; give each parameter a proper one")
    names = list(surface.attrs["predictors"])
    draws = surface[under].to_numpy()
    rows = surface.isel(row=np.linspace(0, surface.sizes["row"] - 1, _ROWS).astype(int))
    draw = _lines if len(names) == 1 else _planes
    return draw(draws, surface, rows, names, RED if under == "posterior" else BLUE)


def _lines(
    draws: NDArray[np.float64], surface: xr.Dataset, rows: xr.Dataset, names: list[str], colour: str
) -> Figure:
    figure, (axes,) = panels(1, height=4.0)
    axes.plot(rows["row_first"], rows["row_response"], ".", color=INK, alpha=0.3, markersize=3)
    axes.plot(surface["first"], draws.T, color=colour, alpha=0.4, linewidth=0.9)
    axes.set_xlim(float(surface["first"][0]), float(surface["first"][-1]))
    axes.set_ylim(_span(draws, rows))
    axes.set(xlabel=label(names[0]), ylabel=label(surface.attrs["response"]))
    return figure


def _planes(
    draws: NDArray[np.float64], surface: xr.Dataset, rows: xr.Dataset, names: list[str], colour: str
) -> Figure:
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    # matplotlib's own types of its 3d axes refuse arrays and fractions.
    axes: Any = figure.add_subplot(projection="3d")
    first, second = np.meshgrid(surface["first"], surface["second"], indexing="ij")
    for plane in draws:
        axes.plot_surface(first, second, plane, color=colour, alpha=0.03, linewidth=0)
    low, high = _span(draws, rows)
    inside = (
        (rows["row_response"] >= low)
        & (rows["row_response"] <= high)
        & (rows["row_first"] >= first.min())
        & (rows["row_first"] <= first.max())
        & (rows["row_second"] >= second.min())
        & (rows["row_second"] <= second.max())
    ).to_numpy()
    points = [rows[f"row_{a}"].to_numpy()[inside] for a in ("first", "second", "response")]
    axes.scatter(*points, color=INK, s=3, alpha=0.35, linewidth=0)
    axes.set_zlim(low, high)
    axes.set(xlabel=label(names[0]), ylabel=label(names[1]))
    axes.set_zlabel(label(surface.attrs["response"]))
    axes.set_box_aspect(None, zoom=1.15)
    axes.view_init(elev=18, azim=-58)
    return figure


def _span(draws: NDArray[np.float64], rows: xr.Dataset) -> tuple[float, float]:
    """Limits of the response's axis: all draws and the central 98% of the rows."""
    low, high = window(rows["row_response"].to_numpy())
    return min(low, float(draws.min())), max(high, float(draws.max()))


@styled
def partial_effects(fit: Source) -> Figure:
    """Draw the location along each predictor, its median and 90% band.

    The other predictors are at their mean or most common level, and group effects are zero. Curves
    of networks are included.

    Args:
        fit: an object with `.idata`.

    Returns:
        The figure.
    """
    effects = group(fit, "partial_effects")
    names = [str(name) for name in effects.data_vars]
    figure, axes = panels(len(names), 2, height=2.5, sharey=True)
    for i, (name, panel) in enumerate(zip(names, axes, strict=True)):
        _effect(panel, effects[name])
        panel.set_xlabel(label(name))
        if i % 2 == 0:
            panel.set_ylabel(label(effects.attrs["response"]))
    return figure


def _effect(panel: Axes, values: xr.DataArray) -> None:
    """A curve with a band for a numeric predictor of many values, else points with error bars."""
    low, middle, high = np.quantile(values.to_numpy(), [0.05, 0.5, 0.95], axis=0)
    points = values[values.dims[1]].to_numpy()
    if points.dtype.kind in "fM" and len(points) > 10:
        panel.fill_between(points, low, high, color=BLUE, alpha=0.25, linewidth=0)
        panel.plot(points, middle, color=BLUE)
        if points.dtype.kind == "M":
            panel.tick_params(axis="x", rotation=30)
        return
    numeric = points.dtype.kind == "f"
    places = np.arange(len(points))
    panel.errorbar(places, middle, [middle - low, high - middle], fmt="o", color=BLUE, capsize=2)
    names = [f"{p:.3g}" if numeric else label(p, 14) for p in points]
    panel.set_xticks(places, names, rotation=0 if len(points) <= 6 else 90)
