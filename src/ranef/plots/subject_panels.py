"""Figure of single levels: their rows, their own line, and the lines of two kinds of pooling."""

import numpy as np

from ranef.errors import ColumnError, suggestion, whole_number
from ranef.plots.canvas import BLUE, INK, RED, Figure, label, panels, styled
from ranef.plots.source import Source, group


@styled
def subjects(fit: Source, factor: str | None = None, most: int = 12) -> Figure:
    """Draw a panel for each level, with its rows and the response's mean along a predictor.

    The blue line has the effects of the level (partial pooling), with its 90% band, and the dashed
    grey line has no group effects (complete pooling, the same in all panels). The dotted red line
    is fitted by least squares to the rows of the level alone; it is left out where the mean has a
    link. Other predictors are at their mean or most common level. The predictor is one whose slope
    varies by the grouping, or else the first that varies within levels.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; by default the first.
        most: largest number of levels, at most 24. Of more so many are shown, evenly over the
            order that the column declares.

    Returns:
        The figure.

    Raises:
        ColumnError: for a grouping without such curves.
        OptionError: for a model without any.
    """
    most = whole_number("most", most, least=1)
    found = group(fit, "subjects")
    known = [str(name).removeprefix("x|") for name in found.data_vars if str(name)[:2] == "x|"]
    factor = known[0] if factor is None else factor.replace("/", "_over_")
    if factor not in known:
        raise ColumnError(
            f"there are no curves of the levels of {factor!r}; {suggestion(factor, known)}"
        )
    level, grid = f"{factor}_level", found[f"x|{factor}"].to_numpy()
    count = found.sizes[level]
    places = np.arange(count)
    if count > most:
        places = np.linspace(0, count - 1, most).astype(int)
    columns = min(4, len(places))
    figure, axes = panels(len(places), columns, height=1.9, sharex=True, sharey=True)
    pooled = found[f"pooled|{factor}"].mean("draw").to_numpy()
    partial = found[f"partial|{factor}"].to_numpy()
    own = found[f"own|{factor}"].to_numpy()
    rows = {n: found[f"row_{n}|{factor}"].to_numpy() for n in ("x", "y", "level")}
    for panel, place in zip(axes, places, strict=True):
        name = found[level].to_numpy()[place]
        lower, upper = np.quantile(partial[:, place], [0.05, 0.95], axis=0)
        mine = rows["level"] == name
        panel.plot(rows["x"][mine], rows["y"][mine], ".", color=INK, alpha=0.6, markersize=4)
        panel.fill_between(grid, lower, upper, color=BLUE, alpha=0.2, linewidth=0)
        panel.plot(grid, pooled, color=INK, alpha=0.7, linestyle="--", linewidth=1.0)
        panel.plot(grid, own[place], color=RED, linestyle=":", linewidth=1.4)
        panel.plot(grid, partial[:, place].mean(axis=0), color=BLUE, linewidth=1.4)
        panel.set_title(label(name, 18), fontsize=8)
    figure.supxlabel(label(found.attrs[f"predictor|{factor}"]), fontsize=9)
    figure.supylabel(label(found.attrs["response"]), fontsize=9)
    alone = "; dotted: the level alone" if np.isfinite(own).any() else ""
    figure.suptitle(
        f"blue: partial pooling; dashed: complete pooling{alone}", fontsize=9, x=0.01, ha="left"
    )
    return figure
