"""Figures that compare predictions with observed responses."""

from __future__ import annotations

import warnings

import matplotlib.figure
import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.extras import require
from ranef.lazy import xr
from ranef.numerics.shapes import Float
from ranef.plots.canvas import (
    BLUE,
    COLOURS,
    INK,
    Figure,
    label,
    panels,
    released,
    styled,
    window,
)
from ranef.plots.source import Source, Sources, each, group, stacked, tree_of

_Responses = Float[NDArray, "n"]
_Edges = Float[NDArray, "edges"]

# Number of bins of a histogram.
_BINS = 60
# Largest number of draws whose cumulative distributions are shown.
_CURVES = 50
# Largest number of bars.
_MOST_BARS = 40
_KINDS = ("auto", "histogram", "bars", "ecdf", "rootogram")


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
def posterior_predictive(fit: Source, kind: str = "auto") -> matplotlib.figure.Figure:
    """Draw the distribution of the responses with those of responses drawn from the fit.

    Args:
        fit: an object with `.idata`.
        kind: "histogram": shares of responses by bin, with the central 90% of the draws as a band.
            The axis spans the central 98% of the observed responses, and the title gives the
            shares beyond it. "bars": shares of each category or of few distinct values, with the
            central 90% of the draws, in the order of the categories. "ecdf": the cumulative
            distribution of the responses and of 50 draws. "rootogram": square roots of the
            frequencies of counts (Kleiber and Zeileis, 2016). "auto" takes "bars" for responses
            with categories and "histogram" for all others.

    Returns:
        The figure.

    Raises:
        OptionError: for an unknown kind, for "bars" of more than 40 distinct values, and for
            "rootogram" of responses that are not counts.
        PackageError: for "ecdf" and "rootogram", if arviz-plots is not installed.
    """
    if kind not in _KINDS:
        raise OptionError(f"kind must be one of {', '.join(map(repr, _KINDS))}, not {kind!r}")
    simulated = next(iter(group(fit, "posterior_predictive").data_vars.values()))
    observed = tree_of(fit)["observed_data"].to_dataset()[simulated.name]
    (dim,) = observed.dims
    if simulated.sizes[dim] < observed.sizes[dim]:
        observed = observed.sel({dim: simulated[dim]})
    if kind == "auto":
        kind = "bars" if observed.attrs.get("categories") else "histogram"
    if kind in ("ecdf", "rootogram"):
        return _by_arviz(observed, simulated, kind)
    return (_bars if kind == "bars" else _histogram)(observed, simulated)


def _histogram(observed: xr.DataArray, simulated: xr.DataArray) -> Figure:
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


def _bars(observed: xr.DataArray, simulated: xr.DataArray) -> Figure:
    """Shares of each value, as bars, with the mean and central 90% of the draws."""
    y, drawn = observed.to_numpy().astype(float), stacked(simulated).astype(float)
    names = list(observed.attrs.get("categories", ()))
    first = float(observed.attrs.get("first", 1))
    values = first + np.arange(len(names)) if names else np.unique(y)
    if len(values) > _MOST_BARS:
        raise OptionError(
            f"the response has {len(values):,} distinct values, too many for bars; take "
            "kind='histogram' or kind='ecdf'"
        )
    own = np.array([(y == value).mean() for value in values])
    shares = np.stack([(drawn == value).mean(axis=1) for value in values], axis=1)
    lower, upper = np.quantile(shares, [0.05, 0.95], axis=0)
    middle, place = shares.mean(axis=0), np.arange(len(values))
    figure, (axes,) = panels(1)
    axes.bar(place, own, color=INK, alpha=0.3, label="observed")
    axes.errorbar(
        place,
        middle,
        np.maximum([middle - lower, upper - middle], 0.0),
        fmt="o",
        color=BLUE,
        capsize=3,
        label="drawn from the fit, 90%",
    )
    labels = [label(name, 14) for name in names] or [f"{value:g}" for value in values]
    turned = 90 if len(values) > 8 or max(map(len, labels)) > 9 else 0
    axes.set_xticks(place, labels, rotation=turned)
    axes.set(xlabel=label(simulated.name), ylabel="share of responses")
    axes.legend(loc="best")
    return figure


def _by_arviz(
    observed: xr.DataArray, simulated: xr.DataArray, kind: str
) -> matplotlib.figure.Figure:
    """The ECDF or rootogram of arviz-plots."""
    y = observed.to_numpy()
    if kind == "rootogram" and not ((y == np.round(y)) & (y >= 0)).all():
        raise OptionError(
            f"a rootogram is of counts, and {observed.name} is not one; take kind='ecdf'"
        )
    require(f"rf.plots.posterior_predictive(kind={kind!r})", "arviz_plots")
    # The import is here because it takes seconds, and few figures need it.
    import arviz_plots

    number = np.int64 if kind == "rootogram" else np.float64
    tree = xr.DataTree.from_dict(
        {
            "posterior_predictive": simulated.astype(number).to_dataset(),
            "observed_data": observed.astype(number).to_dataset(),
        }
    )
    options = {"backend": "matplotlib", "figure_kwargs": {"figsize": (7.2, 3.0)}}
    if kind == "ecdf":
        count = min(_CURVES, simulated.sizes["chain"] * simulated.sizes["draw"])
        collection = arviz_plots.plot_ppc_dist(tree, kind="ecdf", num_samples=count, **options)
    else:
        with warnings.catch_warnings():
            # arviz-stats takes its table of values for draws, and warns of their shape.
            warnings.filterwarnings("ignore", message="Found chain dimension", category=UserWarning)
            collection = arviz_plots.plot_ppc_rootogram(tree, **options)
    figure = released(collection.viz["figure"].item())
    figure.set_layout_engine("constrained")
    figure.axes[0].set_title("black: observed; blue: drawn from the fit")
    figure.axes[0].set_xlabel(label(observed.name))
    return figure


def _edges(y: _Responses, low: float, high: float) -> _Edges:
    """Edges of bins of equal width, or of one bin for each integer if responses are integers."""
    if (y == np.round(y)).all() and high - low <= _BINS:
        return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    return np.linspace(low, high, _BINS + 1)
