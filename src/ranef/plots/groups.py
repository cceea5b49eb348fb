"""Figures of group effects: their shrinkage and their intervals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from ranef.errors import OptionError, whole_number
from ranef.plots.canvas import BLUE, INK, POINTS, label, panels, styled, window
from ranef.plots.source import Source, group, grouping, sizes, stacked

# Largest number of levels in the shrinkage figure. Of more levels so many are shown, evenly over
# the order of size.
_MOST = 5000
_ORDERS = ("mean", "given")


def shrinkage_table(fit: Source, factor: str | None = None) -> pd.DataFrame:
    """The table that `shrinkage` draws: level, size, unpooled and pooled location.

    Rows are ordered by size, the largest level first. The attributes `centre` and `levels` hold the
    mean over all rows and the number of all levels.
    """
    name = grouping(fit, factor)
    factor = name.partition("|")[2]
    effects = group(fit, "posterior")[name]
    alone = group(fit, "shrinkage")
    centre = alone.attrs[f"centre|{factor}"]
    table = pd.DataFrame(
        {
            "level": effects[effects.dims[-1]].to_numpy(),
            "size": sizes(fit, name, effects.shape[-1]),
            "unpooled": centre + alone[f"unpooled|{factor}"].to_numpy(),
            "pooled": centre + stacked(effects).mean(axis=0),
        }
    )
    table = table.sort_values("size", ascending=False, kind="stable", ignore_index=True)
    table.attrs["centre"], table.attrs["levels"] = centre, len(table)
    if len(table) > _MOST:
        table = table.iloc[np.linspace(0, len(table) - 1, _MOST).astype(int)]
    return table.reset_index(drop=True)


@styled
def shrinkage(fit: Source, factor: str | None = None) -> Figure:
    """Draw each level's estimate from its own rows alone, and the partially pooled one.

    Levels are ordered and coloured by their number of rows. A line joins the two estimates of a
    level, and the horizontal line is the mean over all rows. For a Gaussian response without other
    terms the estimate from the level's own rows is their mean. Of more than 5,000 levels so many
    are shown, evenly over the order.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; by default the first.

    Returns:
        The figure.

    Raises:
        ColumnError: for a grouping without intercepts in the posterior.
    """
    table = shrinkage_table(fit, factor)
    place = np.arange(len(table))
    alone, pooled, size = (table[name].to_numpy() for name in ("unpooled", "pooled", "size"))
    figure, (axes,) = panels(1, width=7.6, height=4.4)
    # The unpooled estimate is infinite for a level whose responses are, say, all zero.
    finite = np.isfinite(alone)
    low, high = window(alone[finite] if finite.any() else pooled, 0.99)
    margin = 0.06 * (high - low)
    low, high = min(low, float(pooled.min())) - margin, max(high, float(pooled.max())) + margin
    axes.vlines(place, alone, pooled, color=INK, alpha=0.2, linewidth=0.5)
    axes.scatter(place, alone, 14, marker="x", color=INK, alpha=0.5, linewidth=0.7)
    norm = LogNorm(max(float(size.min()), 1.0), max(float(size.max()), 2.0))
    dots = axes.scatter(place, pooled, 16, size, norm=norm, gid=POINTS)
    axes.axhline(table.attrs["centre"], color=INK, linewidth=1.0, linestyle="--")
    beyond = int((~finite | (alone < low) | (alone > high)).sum())
    some = f", {len(table):,} of {table.attrs['levels']:,} shown"
    axes.set_title(
        "crosses: each level alone; dots: partially pooled; dashed: mean over all rows"
        + (f"\nbeyond the axis: crosses of {beyond:,}" if beyond else "")
    )
    axes.set_ylim(low, high)
    axes.set_xlabel(
        "level, from most rows to fewest" + (some if len(table) < table.attrs["levels"] else "")
    )
    axes.set_ylabel(label(group(fit, "shrinkage").attrs["response"]))
    if size.min() < size.max():
        bar = figure.colorbar(dots, label="rows in the level", pad=0.01)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def effects_table(
    fit: Source,
    factor: str | None = None,
    largest: int = 30,
    term: str = "1",
    order: str = "mean",
) -> pd.DataFrame:
    """The table that `group_effects` draws: level, size, mean, and ends of 50% and 90% intervals.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; by default the first.
        largest: number of levels, those with the largest absolute mean.
        term: "1" for intercepts, or the column of a slope.
        order: "mean", or "given" for the order of the levels.

    Raises:
        OptionError: for another order.
    """
    if order not in _ORDERS:
        raise OptionError(f"order must be 'mean' or 'given', not {order!r}")
    largest = whole_number("largest", largest, least=1)
    name = grouping(fit, factor, term)
    effects = group(fit, "posterior")[name]
    draws = stacked(effects)
    means = draws.mean(axis=0)
    chosen = np.argsort(-np.abs(means), kind="stable")[:largest]
    chosen = np.sort(chosen)
    if order == "mean":
        chosen = chosen[np.argsort(-means[chosen], kind="stable")]
    ends = np.quantile(draws[:, chosen], [0.05, 0.25, 0.75, 0.95], axis=0)
    return pd.DataFrame(
        {
            "level": effects[effects.dims[-1]].to_numpy()[chosen],
            "size": sizes(fit, name, len(means))[chosen],
            "mean": means[chosen],
            **dict(zip(("lower_90", "lower_50", "upper_50", "upper_90"), ends, strict=True)),
        }
    )


@styled
def group_effects(
    fit: Source,
    factor: str | None = None,
    largest: int = 30,
    term: str = "1",
    order: str = "mean",
) -> Figure:
    """Draw mean, 50% and 90% interval of the effects with the largest absolute means.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; by default the first.
        largest: number of levels.
        term: "1" for intercepts, or the column of a slope.
        order: "mean" has the largest mean first, "given" the levels in the order that their column
            declares, or sorted.

    Returns:
        The figure.

    Raises:
        ColumnError: for effects that the posterior does not have.
        OptionError: for another order.
    """
    table = effects_table(fit, factor, largest, term, order)
    name = grouping(fit, factor, term)
    figure, (axes,) = panels(1, width=6.4, height=0.9 + 0.19 * len(table))
    place = np.arange(len(table))[::-1]
    _bars(axes, place, table, 90, 1.0)
    _bars(axes, place, table, 50, 2.6)
    axes.scatter(table["mean"], place, 16, color=BLUE, zorder=3, gid=POINTS)
    axes.axvline(0.0, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(place, [label(level) for level in table["level"]])
    axes.set_ylim(-0.7, len(table) - 0.3)
    axes.set_xlabel(label(name, 60))
    return figure


def _bars(axes: Axes, place: NDArray, table: pd.DataFrame, share: int, width: float) -> None:
    lower, upper = (table[f"{end}_{share}"].to_numpy() for end in ("lower", "upper"))
    axes.hlines(place, lower, upper, color=BLUE, linewidth=width, alpha=0.75)
