"""The marginal posterior density of each parameter."""

from __future__ import annotations

import warnings

import numpy as np
from matplotlib.figure import Figure

from ranef.errors import OptionError
from ranef.extras import require
from ranef.lazy import xr
from ranef.plots.canvas import label, released, styled
from ranef.plots.source import LEVELS, Source, group

# Largest number of panels of the figure.
_MOST = 24

# Stands in for "/", which a DataTree does not allow in names.
_SLASH = "\N{DIVISION SLASH}"

# Sd over largest absolute value up to which a number is constant: rounding, as on the diagonal of a
# correlation matrix.
_CONSTANT = 1e-12


@styled
def posterior(fit: Source) -> Figure:
    """Draw the marginal density of each parameter, with its mean and central interval.

    Effects of single levels and constants are left out. At most 24 parameters are shown.

    Args:
        fit: an object with `.idata`.

    Returns:
        The figure.

    Raises:
        OptionError: if every parameter is a constant.
        PackageError: if arviz-plots is not installed.
    """
    require("rf.plots.posterior()", "arviz_plots")
    # The import is here because it takes seconds, and no other figure needs it.
    import arviz_plots

    found = elements(group(fit, "posterior"))
    if not found:
        raise OptionError("no parameter has a posterior to show")
    shown = {name.replace("/", _SLASH): found[name] for name in list(found)[:_MOST]}
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    with warnings.catch_warnings():
        # The warning about the layout engine can be ignored: the layout is set below.
        warnings.filterwarnings("ignore", message=".*layout.*", category=UserWarning)
        collection = arviz_plots.plot_dist(
            xr.DataTree.from_dict({"posterior": xr.Dataset(shown)}),
            backend="matplotlib",
            col_wrap=columns,
            figure_kwargs={"figsize": (2.3 * columns, 1.9 * rows), "figsize_units": "inches"},
        )
    figure = released(collection.viz["figure"].item())
    for panel in figure.axes:
        panel.locator_params(axis="x", nbins=3)
        panel.title.set_text(panel.get_title().replace(_SLASH, "/"))
        panel.title.set_fontsize(8)
    figure.set_layout_engine("constrained")
    if len(found) > _MOST:
        figure.suptitle(f"the first {_MOST} of {len(found):,} parameters")
    return figure


def elements(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The scalar parameters of the posterior, (chain, draw), by their names in the summary.

    Effects of single levels, constants and the lower halves of symmetric matrices are left out.
    """
    out: dict[str, xr.DataArray] = {}
    for name, values in dataset.data_vars.items():
        own = [str(d) for d in values.dims if d not in ("chain", "draw")]
        if any(dim.endswith(LEVELS) for dim in own):
            continue
        for index in np.ndindex(*(values.sizes[d] for d in own)):
            if _is_mirrored(values, own, index):
                continue
            element = values.isel(dict(zip(own, index, strict=True)), drop=True)
            places = [
                str(values[d].to_numpy()[i]) if d in values.coords else str(i)
                for d, i in zip(own, index, strict=True)
            ]
            if float(element.std()) > _CONSTANT * float(abs(element).max()):
                inside = f"[{', '.join(places)}]" if places else ""
                out[label(f"{name}{inside}", 40)] = element
    return out


def _is_mirrored(values: xr.DataArray, own: list[str], index: tuple[int, ...]) -> bool:
    """Whether an element lies below the diagonal of a symmetric matrix.

    A matrix is taken as symmetric if its two dimensions have the same labels.
    """
    if len(own) != 2 or values.sizes[own[0]] != values.sizes[own[1]]:
        return False
    labels = [values[d].to_numpy() for d in own]
    return index[0] > index[1] and bool((labels[0] == labels[1]).all())
