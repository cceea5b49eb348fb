"""Figures that compare predictions with observed responses."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranef.numerics.shapes import Float
from ranef.plots.canvas import BLUE, COLOURS, INK, label, panels, styled, window
from ranef.plots.source import Source, Sources, each, group, stacked, tree_of

# Number of bins of a histogram.
_BINS = 60


@styled
def residuals(fits: Sources) -> Figure:
    """Draw histograms of response minus posterior mean on the validation rows, one for each fit.

    The axis spans the central 98%. Each title gives the mean absolute error over all rows.

    Args:
        fits: a fit, or fits by name, each with the group "validation".

    Returns:
        The figure.
    """
    found = {
        name: (rows["observed"] - rows["mean"]).to_numpy()
        for name, rows in ((name, group(fit, "validation")) for name, fit in each(fits).items())
    }
    low, high = window(np.concatenate(list(found.values())))
    figure, axes = panels(len(found), 2, height=2.2, sharex=True, sharey=True)
    for panel, (name, values), i in zip(axes, found.items(), range(len(found)), strict=True):
        panel.hist(
            values, np.linspace(low, high, _BINS + 1).tolist(), color=COLOURS[i % len(COLOURS)]
        )
        panel.axvline(0.0, color=INK, linewidth=0.8)
        panel.set_title(
            f"{label(name)}: MAE {np.abs(values).mean():.5g}"
            if name
            else f"MAE {np.abs(values).mean():.5g}"
        )
    for panel in axes[-2:]:
        panel.set_xlabel("observed - predicted")
    return figure


@styled
def calibration(fits: Sources) -> Figure:
    """Draw the share of validation responses inside their central interval, by its probability.

    The left panel has the share, and the right panel the share minus the probability. The band is
    the pointwise 90% interval of a calibrated fit.

    Args:
        fits: a fit, or fits by name, each with the group "validation".

    Returns:
        The figure.
    """
    figure, (whole, apart) = panels(2, 2, height=3.4)
    nominal = np.linspace(0.0, 1.0, 101)
    count = 0
    for i, (name, fit) in enumerate(each(fits).items()):
        pit = group(fit, "validation")["pit"].to_numpy()
        inside = np.searchsorted(np.sort(np.abs(2 * pit - 1)), nominal, side="right") / len(pit)
        colour = COLOURS[i % len(COLOURS)]
        whole.plot(nominal, inside, color=colour, label=label(name))
        apart.plot(nominal, inside - nominal, color=colour)
        count = max(count, len(pit))
    error = 1.645 * np.sqrt(nominal * (1 - nominal) / count)
    whole.plot(nominal, nominal, color=INK, linewidth=0.8)
    apart.fill_between(nominal, -error, error, color=INK, alpha=0.15, linewidth=0)
    apart.axhline(0.0, color=INK, linewidth=0.8)
    whole.set(xlabel="probability of the interval", ylabel="share of responses inside")
    apart.set(xlabel="probability of the interval", ylabel="share inside - probability")
    if list(each(fits)) != [""]:
        whole.legend(loc="upper left")
    return figure


@styled
def posterior_predictive(fit: Source) -> Figure:
    """Draw the histogram of the responses with those of responses drawn from the fit.

    The band is the central 90% of the draws in each bin. The axis spans the central 98% of the
    observed responses, and the title gives the shares beyond it.

    Args:
        fit: an object with `.idata`.

    Returns:
        The figure.
    """
    simulated = next(iter(group(fit, "posterior_predictive").data_vars.values()))
    observed = tree_of(fit)["observed_data"].to_dataset()[simulated.name]
    (dim,) = observed.dims
    if simulated.sizes[dim] < observed.sizes[dim]:
        observed = observed.sel({dim: simulated[dim]})
    y, drawn = observed.to_numpy().astype(float), stacked(simulated)
    low, high = window(y)
    edges = _edges(y, low, high)
    counts = np.array([np.histogram(d, edges)[0] for d in drawn]) / y.size
    middles, own = (edges[:-1] + edges[1:]) / 2, np.histogram(y, edges)[0] / y.size
    figure, (axes,) = panels(1)
    bottom, middle, top = np.quantile(counts, [0.05, 0.5, 0.95], axis=0)
    axes.fill_between(middles, bottom, top, color=BLUE, alpha=0.3, linewidth=0, step="mid")
    axes.step(middles, middle, color=BLUE, where="mid", label="drawn from the fit")
    axes.step(middles, own, color=INK, where="mid", label="observed")
    beyond = 1 - counts.sum(axis=1)
    axes.set_title(
        f"beyond the axis: {1 - own.sum():.1%} of the observed, "
        f"{np.quantile(beyond, 0.05):.1%} to {np.quantile(beyond, 0.95):.1%} of the drawn"
    )
    axes.set(xlabel=label(simulated.name), ylabel="share of responses")
    axes.legend(loc="upper right")
    return figure


def _edges(y: Float[NDArray, "n"], low: float, high: float) -> Float[NDArray, "edges"]:
    """Edges of bins of equal width, or of one bin for each integer if responses are integers."""
    if (y == np.round(y)).all() and high - low <= _BINS:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    return np.linspace(low, high, _BINS + 1)
