"""Access to the groups of a DataTree, from which figures take their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.errors import ColumnError, OptionError, suggestion
from ranef.lazy import xr
from ranef.numerics.shapes import Float

# Suffix of the names of dimensions that run over levels, a convention shared with other libraries.
LEVELS = "__factor_dim"


class HasTree(Protocol):
    """A fit of this library, or of any other with a DataTree."""

    @property
    def idata(self) -> xr.DataTree:
        """The DataTree of the fit."""
        ...


# What figures are drawn of.
Source: TypeAlias = "HasTree | xr.DataTree"
# One of these, or several by name.
Sources: TypeAlias = "Source | Mapping[str, Source]"


def tree_of(fit: object) -> xr.DataTree:
    """The DataTree of a fit, or the argument itself if it is one.

    Raises:
        OptionError: for an object without a DataTree.
    """
    tree = fit if isinstance(fit, xr.DataTree) else getattr(fit, "idata", None)
    if not isinstance(tree, xr.DataTree):
        raise OptionError(
            f"a figure needs a fit, or what has an ArviZ DataTree as .idata, not {fit!r:.60}"
        )
    return tree


def group(fit: Source, name: str) -> xr.Dataset:
    """A group of the tree; if it is missing, the fit is asked to add it.

    Raises:
        OptionError: if it is missing and cannot be added.
    """
    tree = tree_of(fit)
    if name not in tree.children:
        if name == "validation":
            raise OptionError(
                "this figure needs rows the fit has not seen; add them first with "
                "fit.extend('validation', data=table)"
            )
        extend = getattr(fit, "extend", None)
        if extend is None:
            raise OptionError(
                f"this figure needs the group {name!r}, which the DataTree does not have; it has "
                f"{', '.join(tree.children) or 'none'}"
            )
        extend(name)
    return tree[name].to_dataset()


def each(fits: Sources) -> dict[str, Source]:
    """Fits by name; a single fit has the empty name."""
    if isinstance(fits, Mapping) and not isinstance(fits, (xr.DataTree, xr.Dataset)):
        return {str(name): fit for name, fit in fits.items()}
    return {"": fits}


def grouping(fit: Source, factor: str | None, term: str = "1") -> str:
    """The name of the variable ``term|factor`` of the posterior.

    Args:
        fit: an object with `.idata`.
        factor: the grouping; None for the first.
        term: "1" for intercepts, or the column of a slope.

    Raises:
        ColumnError: for effects that the posterior does not have.
    """
    # A DataTree allows no "/" in names, so that variables have "_over_" in its place.
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


def sizes(fit: Source, name: str, levels: int) -> NDArray[np.float64]:
    """Number of rows of each level of the grouping in ``name``; NaN if the tree has none."""
    tree, factor = tree_of(fit), name.partition("|")[2]
    known = tree["constant_data"] if "constant_data" in tree.children else {}
    variable = f"size|{factor}"
    if variable not in known:
        return np.full(levels, np.nan)
    return np.asarray(known[variable].to_numpy(), np.float64)


def stacked(values: xr.DataArray) -> Float[NDArray, "draws ..."]:
    """Draws of all chains in one dimension."""
    array = values.transpose("chain", "draw", ...).to_numpy()
    return array.reshape(-1, *array.shape[2:])
