"""What all figures share: style, panels, and labels that cannot break a picture."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

P = ParamSpec("P")
R = TypeVar("R")

INK, BLUE, RED = "#333333", "#2166ac", "#c0392b"
COLOURS = (BLUE, RED, "#2a8a57", "#8457a8", "#b8860b", "#4a4a4a")

# Names come from the user's table: a "$" in one must not start a formula.
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

# Artists whose points a page may name on hover have this gid.
POINTS = "points"


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a function that draws in the style of all figures."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return inside


def panels(
    count: int,
    columns: int = 1,
    *,
    width: float = 7.2,
    height: float = 3.0,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, row by row, `height` inches each row."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width, height * rows),
        layout="constrained",
        squeeze=False,
        sharex=sharex,
        sharey=sharey,
    )
    flat = list(axes.ravel())
    for empty in flat[count:]:
        empty.remove()
    return figure, flat[:count]


def label(text: Any, most: int = 28) -> str:
    """A name on one line as formulas write it, no longer than `most` characters."""
    # A variable of the posterior cannot have the "/" of its formula.
    text = str(text).replace(" _over_ ", " / ")
    shown = "".join(c if c.isprintable() else " " for c in str(text))
    shown = " ".join(shown.split()) or "(blank)"
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def window(values: NDArray[np.float64], share: float = 0.98) -> tuple[float, float]:
    """The central quantiles, a little apart where they are equal."""
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    if low == high:
        low, high = values.min(), values.max()
    margin = 0.5 * (abs(low) or 1.0) if low == high else 0.0
    return float(low - margin), float(high + margin)
