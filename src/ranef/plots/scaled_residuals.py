"""Figure of scaled residuals, which are uniform between 0 and 1 if the model is right."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import beta, rankdata

from ranef.numerics.shapes import Float
from ranef.plots.canvas import BLUE, INK, RED, styled
from ranef.plots.source import Source, group

# A number for each row, and for each place along an axis.
Vector = Float[NDArray[np.float64], "rows"]
Places = Float[NDArray[np.float64], "places"]

# Quantiles that are drawn as lines, and the places along the axis where they are computed.
_QUANTILES = (0.25, 0.5, 0.75)
_PLACES = 60
# Sd of the normal weights of rows around a place, as a share of the axis.
_WIDTH = 0.08
# Standard errors on each side of a band that holds 95% of a normal distribution.
_ERRORS = 1.96
# Largest number of points; of more rows evenly spaced ones are drawn.
_POINTS = 4000


@styled
def residual_checks(fit: Source) -> Figure:
    """Draw scaled residuals: their quantiles, and each against the rank of the fitted mean.

    The left panel has the sorted residuals against uniform quantiles, with the pointwise 95% band
    of independent uniform numbers. The right panel has the residuals in the order of the fitted
    means, with their local quartiles. If the model is right, these lie at 1/4, 1/2 and 3/4; the
    bands hold 95% of the local quartiles of independent uniform numbers. The panels are those of
    R's package DHARMa (Hartig, 2024).

    Args:
        fit: an object with `.idata`.

    Returns:
        The figure.
    """
    found = group(fit, "scaled_residuals")
    scaled, fitted = found["scaled"].to_numpy(), found["fitted"].to_numpy()
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _quantile_plot(left, scaled)
    _along_means(right, scaled, fitted)
    shown = [f"{name} {float(p):.2g}" for name, p in found.attrs.items()]
    if shown:
        figure.suptitle(f"p values: {', '.join(shown)}", x=0.02, ha="left", fontsize=10)
    return figure


def _quantile_plot(axes: Axes, scaled: Vector) -> None:
    n = len(scaled)
    places = np.arange(1, n + 1)
    expected = (places - 0.5) / n
    low, high = beta.ppf([[0.025], [0.975]], places, n + 1 - places)
    axes.fill_between(expected, low, high, color=INK, alpha=0.15, linewidth=0)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    axes.plot(expected, np.sort(scaled), ".", color=BLUE, markersize=3)
    axes.set(xlabel="uniform quantile", ylabel="scaled residual", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("scaled residuals")


def _along_means(axes: Axes, scaled: Vector, fitted: Vector) -> None:
    n = len(scaled)
    ranks = (rankdata(fitted) - 0.5) / n
    some = np.unique(np.linspace(0, n - 1, min(n, _POINTS)).astype(int))
    axes.plot(
        ranks[some], scaled[some], ".", color=BLUE, markersize=3, alpha=0.35 if n > 1000 else 0.7
    )
    places = np.linspace(0, 1, _PLACES)
    lines, size = local_quantiles(ranks, scaled, places)
    for quantile, line in zip(_QUANTILES, lines, strict=True):
        error = _ERRORS * np.sqrt(quantile * (1 - quantile) / size)
        axes.fill_between(
            places, quantile - error, quantile + error, color=INK, alpha=0.15, linewidth=0
        )
        axes.axhline(quantile, color=INK, linewidth=0.8, linestyle="--")
        axes.plot(places, line, color=RED, linewidth=1.5)
    axes.set(xlabel="rank of the fitted mean", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("local quartiles along the fitted means")


def local_quantiles(
    ranks: Vector, scaled: Vector, places: Places
) -> tuple[Float[NDArray[np.float64], "quantiles places"], Places]:
    """Quartiles of the residuals of rows near each place, by normal weights.

    Args:
        ranks: place of each row on the axis.
        scaled: its residual.
        places: where the quartiles are computed.

    Returns:
        The quartiles, and the number of rows that as many equal weights would stand for.
    """
    order = np.argsort(scaled)
    values = scaled[order]
    lines = np.empty((len(_QUANTILES), len(places)))
    size = np.empty(len(places))
    for i, place in enumerate(places):
        weights = np.exp(-0.5 * ((ranks[order] - place) / _WIDTH) ** 2)
        total = weights.sum()
        reached = (np.cumsum(weights) - 0.5 * weights) / total
        lines[:, i] = np.interp(_QUANTILES, reached, values)
        size[i] = total**2 / (weights**2).sum()
    return lines, size
