"""Posterior predictive check by level of a grouping: observed statistics and their replicates."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ranef.errors import ColumnError, OptionError, suggestion, whole_number
from ranef.plots.canvas import BLUE, INK, POINTS, RED, label, panels, styled
from ranef.plots.source import Source, group

# How axis labels call each statistic.
_KINDS = {"mean": "mean", "zeros": "share of zeros"}


def check_table(
    fit: Source, factor: str | None = None, statistic: str = "mean", most: int = 40
) -> pd.DataFrame:
    """The table that `group_check` draws.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; by default the one with most levels.
        statistic: "mean", or "zeros" for the share of zeros of counts.
        most: largest number of rows of the table.

    Returns:
        One row for each level, ordered by the observed statistic: level, size, observed, the ends
        and middle of the 50% and 90% intervals, and whether the observed statistic is outside of
        the 90% interval. Of more than `most` levels so many are kept, evenly over the order. The
        attributes `levels`, `outside` and `factor` hold the number of all levels, the number of
        those outside, and the grouping.

    Raises:
        ColumnError: for a grouping that the model does not have.
        OptionError: for a statistic that these responses do not have.
    """
    most = whole_number("most", most, least=2)
    found = group(fit, "predictive_by_group")
    factors = [str(n).partition("|")[2] for n in found.data_vars if str(n).startswith("size|")]
    if factor is None:
        factor = max(factors, key=lambda f: int((found[f"size|{f}"] > 0).sum()))
    if factor not in factors:
        raise ColumnError(f"the model has no grouping {factor!r}; {suggestion(factor, factors)}")
    if f"observed_{statistic}|{factor}" not in found:
        known = [kind for kind in _KINDS if f"observed_{kind}|{factor}" in found]
        raise OptionError(
            f"there is no statistic {statistic!r} of these responses; "
            f"{suggestion(str(statistic), known)}"
        )
    observed, drawn = (found[f"{side}_{statistic}|{factor}"] for side in ("observed", "drawn"))
    size = found[f"size|{factor}"].to_numpy()
    has = size > 0
    # The comparisons with the ends of the interval are strict: a level for which all draws and the
    # observed statistic are equal, such as one with zeros alone, is not outside.
    ends = np.quantile(drawn.to_numpy()[:, has], [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    names = ("lower_90", "lower_50", "middle", "upper_50", "upper_90")
    table = pd.DataFrame(
        {
            "level": observed[observed.dims[0]].to_numpy()[has],
            "size": size[has],
            "observed": observed.to_numpy()[has],
            **dict(zip(names, ends, strict=True)),
        }
    )
    outside = (table["observed"] < table["lower_90"]) | (table["observed"] > table["upper_90"])
    table = table.assign(outside=outside).sort_values("observed", kind="stable", ignore_index=True)
    attributes = {
        "levels": len(table),
        "outside": int(np.sum(outside.to_numpy())),
        "factor": factor,
    }
    if len(table) > most:
        table = table.iloc[np.linspace(0, len(table) - 1, most).astype(int)]
    table = table.reset_index(drop=True)
    table.attrs.update(attributes)
    return table


@styled
def group_check(
    fit: Source, factor: str | None = None, statistic: str = "mean", most: int = 40
) -> Figure:
    """Draw each level's observed mean with those of responses drawn from the fit.

    Bars are the central 50% and 90% of the draws, and levels are ordered by the observed mean.
    Levels outside of their 90% interval are red. About one in ten is so by chance, and fewer if
    each level's effect was estimated from the same rows. Of more than `most` levels so many are
    shown, evenly over the order, while the title counts all of them.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; by default the one with most levels.
        statistic: "mean", or "zeros" for the share of zeros of counts.
        most: largest number of levels that are shown.

    Returns:
        The figure.

    Raises:
        ColumnError: for a grouping that the model does not have.
        OptionError: for a statistic that these responses do not have.
    """
    table = check_table(fit, factor, statistic, most)
    levels, outside, factor = (table.attrs[name] for name in ("levels", "outside", "factor"))
    figure, (axes,) = panels(1, width=7.6, height=3.6)
    place = np.arange(len(table))
    axes.vlines(place, table["lower_90"], table["upper_90"], color=BLUE, linewidth=1.2, alpha=0.6)
    axes.vlines(place, table["lower_50"], table["upper_50"], color=BLUE, linewidth=3.2, alpha=0.6)
    colours = np.where(table["outside"], RED, INK)
    axes.scatter(place, table["observed"], 20, color=colours.tolist(), zorder=3, gid=POINTS)
    axes.set_title(
        "dots: observed; bars: 50% and 90% of what the fit draws\n"
        f"{outside:,} of {levels:,} levels are outside of their 90%"
    )
    some = f", {len(table):,} of {levels:,} shown" if len(table) < levels else ""
    short = len(table) <= 25 and all(len(str(level)) <= 12 for level in table["level"])
    if short:
        turned = 45 if max(len(str(level)) for level in table["level"]) > 3 else 0
        axes.set_xticks(place, [label(level) for level in table["level"]], rotation=turned)
    else:
        axes.set_xticks([])
    axes.set_xlabel(f"{label(factor, 60)}, by what was observed{some}")
    response = label(group(fit, "predictive_by_group").attrs["response"])
    axes.set_ylabel(f"{_KINDS.get(statistic, statistic)} of {response}")
    return figure
