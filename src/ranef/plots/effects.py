"""Figure of the response's mean over one, two or three predictors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib import dates as date_axes
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ranef.errors import OptionError
from ranef.lazy import xr
from ranef.plots import canvas
from ranef.plots.canvas import COLOURS, Figure, label, styled

# Largest number of panels and of lines in one.
_MOST_PANELS = 24
_MOST_LINES = 12
# Width of the space that the points of one level take, of the distance between levels.
_SPREAD = 0.5


@styled
def conditional_effects(
    fit: object, x: str = "", by: str | None = None, panels: str | None = None, **options: Any
) -> Figure:
    """Draw the response's mean over a predictor, with a line for each value of a second one.

    A numeric predictor has a line with a band, a factor points with error bars, each the
    posterior median with the central interval. Other predictors are typical: numbers at their
    means, factors at their most common level, without group effects. Factors are in the order
    that their columns declare. Responses with categories have a line for each category, or a
    panel if `by` is given.

    Args:
        fit: a fit, or a Dataset of `rf.effects.conditional_effects`, which is drawn as it is.
        x: the predictor along the horizontal axis.
        by: a predictor with a line for each value; of a numeric column, for its mean and one sd
            to both sides.
        panels: a predictor with a panel for each value.
        **options: further arguments of `rf.effects.conditional_effects`, such as `groups`, `at`,
            `type` and `interval`.

    Returns:
        The figure. It is not one of pyplot's, so that it is shown once and changes no other.

    Raises:
        ColumnError, DataError, OptionError: as `rf.effects.conditional_effects`, and for more
            lines or panels than a figure can show.
    """
    if isinstance(fit, xr.Dataset):
        curves = fit
    else:
        # Figures know no model: what computes the curves is found by its name.
        compute = import_module("ranef.effects").conditional_effects
        curves = compute(fit, x, by, panels, **options)
    missing = {"estimate", "lower", "upper"} - set(curves.data_vars)
    if missing or "names" not in curves.attrs:
        raise OptionError(
            "conditional_effects draws a fit or a Dataset of rf.effects.conditional_effects, and "
            "this one has no estimate, lower and upper"
        )
    return _figure(curves)


def _figure(curves: xr.Dataset) -> Figure:
    names = [label(name) for name in curves.attrs["names"]]
    lines, across = _layout(curves)
    count = curves.sizes[across] if across else 1
    most = curves.sizes[lines] if lines else 1
    if count > _MOST_PANELS or most > _MOST_LINES:
        raise OptionError(
            f"a figure shows {_MOST_PANELS} panels of {_MOST_LINES} lines at most, not {count:,} "
            f"of {most:,}; give fewer values by at="
        )
    columns = min(count, 3)
    height = 3.6 if count <= columns else 2.8
    figure, axes = canvas.panels(count, columns, height=height, sharex=True, sharey=True)
    for place, panel in enumerate(axes):
        own = curves.isel({across: place}) if across else curves
        own = own.squeeze("group") if "group" in own.dims and lines != "group" else own
        _panel(panel, own, lines)
        if across:
            panel.set_title(_named(curves, across, curves[across].to_numpy()[place]))
        if place + columns >= count:
            panel.set_xlabel(names[0])
            panel.tick_params(labelbottom=True)
        if place % columns == 0:
            panel.set_ylabel(label(curves.attrs["predicted"], 40))
    if lines:
        handles, texts = axes[0].get_legend_handles_labels()
        title = "" if lines == "group" else names[1]
        figure.legend(handles, texts, title=title, loc="outside right upper")
    return figure


def _layout(curves: xr.Dataset) -> tuple[str, str]:
    """The dimensions of lines and of panels, "" for none."""
    dims = [dim for dim in ("by", "panel") if dim in curves.dims]
    if curves.sizes["group"] > 1:
        if len(dims) == 2:
            raise OptionError(
                "with categories of the response a figure shows two predictors at most; leave "
                "out panels="
            )
        return ("by", "group") if dims else ("group", "")
    return (dims[0] if dims else "", dims[1] if len(dims) > 1 else "")


def _panel(panel: Axes, curves: xr.Dataset, lines: str) -> None:
    """The lines with bands, or points with error bars, of one panel."""
    points = curves["x"].to_numpy()
    values = curves[lines].to_numpy() if lines else np.array([""])
    colours = _colours(curves, lines, len(values))
    numeric, dates = points.dtype.kind in "fM", points.dtype.kind == "M"
    for i, value in enumerate(values):
        own = curves.isel({lines: i}) if lines else curves
        low, middle, high = (own[name].to_numpy() for name in ("lower", "estimate", "upper"))
        said = _text(value) if lines else None
        if numeric and len(points) > 1:
            panel.fill_between(points, low, high, color=colours[i], alpha=0.2, linewidth=0)
            panel.plot(points, middle, color=colours[i], label=said)
            continue
        shift = _SPREAD * ((i + 0.5) / len(values) - 0.5) if len(values) > 1 else 0.0
        panel.errorbar(
            *(np.arange(len(points)) + shift, middle, [middle - low, high - middle]),
            fmt="o",
            color=colours[i],
            markersize=4,
            capsize=2,
            label=said,
        )
    if numeric and len(points) > 1:
        panel.set_xlim(points[0], points[-1])
        places = date_axes.AutoDateLocator(maxticks=6) if dates else MaxNLocator(6)
        panel.xaxis.set_major_locator(places)
        if isinstance(places, date_axes.AutoDateLocator):
            panel.xaxis.set_major_formatter(date_axes.ConciseDateFormatter(places))
        return
    texts = [_text(point) for point in points]
    upright = sum(map(len, texts)) <= 40
    panel.set_xticks(np.arange(len(points)), texts, rotation=0 if upright else 90)
    panel.set_xlim(-0.5, len(points) - 0.5)


def _colours(curves: xr.Dataset, lines: str, count: int) -> list[Any]:
    """Colours of the lines: in steps for values of a numeric predictor, else distinct ones."""
    if lines == "by" and curves["by"].dtype.kind == "f":
        return [colormaps["viridis"](share) for share in np.linspace(0.05, 0.8, count)]
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [colormaps["tab20"](i % 20) for i in range(count)]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, (float, np.floating)) else label(value, 16)


def _named(curves: xr.Dataset, dim: str, value: object) -> str:
    """The title of a panel: the value, with the predictor's name."""
    if dim == "group":
        return _text(value)
    return f"{label(curves.attrs['names'][2], 16)} = {_text(value)}"
