"""Where figures take their numbers from: the groups of a DataTree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import ColumnError, OptionError, suggestion
from ranef.lazy import xr

# How ArviZ-minded libraries end the name of a dimension that runs over levels.
LEVELS = "__factor_dim"


def tree_of(fit: Any) -> xr.DataTree:
    """The DataTree of a fit, or the tree itself.

    Raises:
        OptionError: for what has none.
    """
    tree = fit if isinstance(fit, xr.DataTree) else getattr(fit, "idata", None)
    if not isinstance(tree, xr.DataTree):
        raise OptionError(
            f"a figure needs a fit, or what has an ArviZ DataTree as .idata, not {fit!r:.60}"
        )
    return tree


def group(fit: Any, name: str) -> xr.Dataset:
    """A group of the tree, added by the fit itself where it is missing.

    Raises:
        OptionError: where it is missing and nothing can add it.
    """
    tree = tree_of(fit)
    if name not in tree.children:
        if name == "validation":
            raise OptionError(
                "this figure needs rows the fit has not seen; add them first with "
                "fit.extend('validation', data=table)"
            )
        if not hasattr(fit, "extend"):
            raise OptionError(
                f"this figure needs the group {name!r}, which the DataTree does not have; it has "
                f"{', '.join(tree.children) or 'none'}"
            )
        fit.extend(name)
    return tree[name].to_dataset()


def each(fits: Any) -> dict[str, Any]:
    """Fits by name; one alone has the name "" ."""
    if isinstance(fits, Mapping) and not isinstance(fits, (xr.DataTree, xr.Dataset)):
        return {str(name): fit for name, fit in fits.items()}
    return {"": fits}


def grouping(fit: Any, factor: str | None, term: str = "1") -> str:
    """The variable ``term|factor`` of the posterior; of the first grouping for None.

    Raises:
        ColumnError: for one the posterior does not have.
    """
    # A variable of the posterior cannot have the "/" of its formula.
    term = term.replace("/", "_over_")
    factor = factor.replace("/", "_over_") if factor is not None else None
    names = {
        str(name).partition("|")[2]: str(name)
        for name, values in group(fit, "posterior").data_vars.items()
        if str(name).startswith(f"{term}|") and str(values.dims[-1]).endswith(LEVELS)
    }
    if not names:
        raise ColumnError(f"the posterior has no effects {term}|g to show")
    if factor is None:
        return next(iter(names.values()))
    if factor not in names:
        raise ColumnError(
            f"the posterior has no effects {term}|{factor}; {suggestion(factor, names)}"
        )
    return names[factor]


def sizes(fit: Any, name: str, levels: int) -> NDArray[np.float64]:
    """Rows of each level of the grouping of ``name``, NaN where the tree does not know."""
    tree, factor = tree_of(fit), name.partition("|")[2]
    known = tree["constant_data"] if "constant_data" in tree.children else {}
    variable = f"size|{factor}"
    if variable not in known:
        return np.full(levels, np.nan)
    return np.asarray(known[variable].to_numpy(), np.float64)


def stacked(values: xr.DataArray) -> NDArray[np.float64]:
    """Draws as (chains times draws, ...)."""
    array = values.transpose("chain", "draw", ...).to_numpy()
    return array.reshape(-1, *array.shape[2:])
