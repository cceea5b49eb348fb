"""The trace of the search of variational inference."""

import numpy as np
from matplotlib.figure import Figure

from ranef.errors import OptionError
from ranef.plots.canvas import BLUE, INK, panels, styled
from ranef.plots.source import Source, group, tree_of

# Steps over which the smooth line averages, the same number as in the method's own criterion.
_WINDOW = 50
# Share of the steps at the start that the limits of the axis ignore: the ELBO rises so far in them
# that all later steps would look flat.
_CLIMB = 0.2


@styled
def elbo(fit: Source) -> Figure:
    """Draw the evidence lower bound by step, with its mean over windows of 50 steps.

    If networks are trained in turns with linear terms, it is log p(y, theta) at the mode of the
    hyperparameters theta after each round, coefficients integrated out. The axis leaves out most of
    the rise at the start.

    Args:
        fit: an object with `.idata`.

    Returns:
        The figure.

    Raises:
        OptionError: if the method left no trace.
    """
    if "optimization" not in tree_of(fit).children:
        raise OptionError("this fit has no ELBO trace: its method did not optimise one")
    record = group(fit, "optimization")["elbo"]
    trace = record.to_numpy()
    figure, (axes,) = panels(1)
    if "step" in record.coords:
        # Values between rounds have no Monte Carlo noise, so that no smooth line is needed.
        axes.plot(record["step"].to_numpy(), trace, color=INK, linewidth=1.4, label="each round")
        whole = 0
    else:
        steps = np.arange(1, len(trace) + 1)
        axes.plot(steps, trace, color=BLUE, alpha=0.35, linewidth=0.6, label="one step")
        whole = len(trace) // _WINDOW
    if whole:
        means = np.nanmean(trace[: whole * _WINDOW].reshape(whole, _WINDOW), axis=1)
        middles = (np.arange(whole) + 0.5) * _WINDOW
        axes.plot(middles, means, color=INK, linewidth=1.4, label=f"mean of {_WINDOW} steps")
    late = trace[int(len(trace) * _CLIMB) :]
    low, high = np.nanmin(late), np.nanmax(late)
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set(xlabel="step", ylabel="ELBO, nats")
    axes.legend(loc="lower right")
    return figure
