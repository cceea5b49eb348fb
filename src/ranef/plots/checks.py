"""What the fit predicts for each level, held against what was observed there."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ranef.errors import ColumnError, OptionError, suggestion, whole_number
from ranef.plots.canvas import BLUE, INK, POINTS, RED, label, panels, styled
from ranef.plots.source import group

_KINDS = {"mean": "mean", "zeros": "share of zeros"}


def check_table(
    fit: Any, factor: str | None = None, statistic: str = "mean", most: int = 40
) -> pd.DataFrame:
    """What `group_check` draws: level, size, observed, and ends of 50% and 90% intervals.

    The attributes `levels`, `outside` and `factor` say how many levels there are, how many
    of all are outside of their 90% interval, and which grouping it is.
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
    # A level that every draw gives the same, as one all of whose rows are zero may, is no miss.
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
    fit: Any, factor: str | None = None, statistic: str = "mean", most: int = 40
) -> Figure:
    """Each level's observed mean beside those of responses drawn from the fit.

    Bars hold 50% and 90% of the draws; levels are ordered by what was observed, and those
    outside of their 90% are red: about one in ten by chance, fewer where the level's own rows
    have taught its effect. Of more levels than `most` as many are drawn, evenly over the order;
    the title counts all.

    Args:
        fit: what has `.idata`.
        factor: the grouping; by default the one of most levels.
        statistic: "mean", or "zeros" for the share of zeros where responses are counts.
        most: levels that are drawn.
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
