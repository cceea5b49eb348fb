"""Style, panels and labels that all figures share.

Figures are made without pyplot, whose global state belongs to the user: a figure that a function
returns is shown once, by the notebook, and the user's own current figure stays the current one.
"""

import functools
import io
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

P = ParamSpec("P")
R = TypeVar("R")

INK = "#333333"
BLUE = "#2166ac"
RED = "#c0392b"
COLOURS = (BLUE, RED, "#2a8a57", "#8457a8", "#b8860b", "#4a4a4a")

# Math is not parsed: a "$" in a name of the user's table must not start a formula.
_STYLE = {
    "text.parse_math": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}

# The gid of artists whose points show a text on hover in a report.
POINTS = "points"


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator that runs a drawing function in the style of all figures."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inside


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that a notebook shows where nothing has imported pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def panels(
    count: int,
    columns: int = 1,
    *,
    width: float = 7.2,
    height: float = 3.0,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure and its `count` panels, row by row; on shared axes, labels stay at the edges.

    Args:
        count: number of panels.
        columns: panels in a row.
        width: of the figure, in inches.
        height: of each row, in inches.
        sharex: whether the panels have one x axis.
        sharey: whether the panels have one y axis.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    flat = list(axes.ravel())
    for empty in flat[count:]:
        empty.remove()
    return figure, flat[:count]


def released(figure: matplotlib.figure.Figure) -> matplotlib.figure.Figure:
    """A figure of arviz-plots, which makes its figures by pyplot, taken out of pyplot's state."""
    # Whoever made the figure has imported pyplot; no other figure needs it.
    from matplotlib import pyplot

    pyplot.close(figure)
    return figure


def label(text: object, most: int = 28) -> str:
    """A name as formulas write it, on one line and no longer than `most` characters."""
    # A DataTree allows no "/" in names, so that variables have "_over_" in its place.
    text = str(text).replace(" _over_ ", " / ")
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    shown = " ".join(shown.split()) or "(blank)"
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def window(values: Float[NDArray, "n"], share: float = 0.98) -> tuple[float, float]:
    """The limits of an axis: the central quantiles that hold `share` of the values.

    If they are equal the limits are the extremes, or lie around the only value.
    """
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    if low == high:
        low, high = values.min(), values.max()
    margin = 0.5 * (abs(low) or 1.0) if low == high else 0.0
    return float(low - margin), float(high + margin)
