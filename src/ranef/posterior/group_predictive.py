"""Posterior predictive checks by level: observed responses against responses drawn from the fit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.lazy import jax, xr
from ranef.numerics.shapes import Float, Int
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.program import posterior_variables
from ranef.program.training import evenly

Array = NDArray[np.float64]
# A number for each row, the level of each row, and a number for each level.
Rows = Float[Array, "rows"]
Codes = Int[NDArray[np.int64], "rows"]
Vector = Float[Array, "levels"]


def by_group(posterior: Posterior, predictive: Predictive) -> xr.Dataset:
    """Mean response, and share of zeros, of each level: observed, and drawn from the fit.

    For numbers of successes the mean is that of the trials of the level: all its successes divided
    by all its trials. The training rows are used, or evenly spaced ones of them if there are many.

    Returns:
        For every grouping g: ``observed_mean|g`` (level), ``drawn_mean|g`` (draw, level) and
        ``size|g`` (level), the number of rows. For counts of which some are zero also
        ``observed_zeros|g`` and ``drawn_zeros|g``. NaN for a level without rows.

    Raises:
        OptionError: for a model without groupings.
    """
    training = posterior.training
    rows = evenly(training.held)
    some = jax.tree.map(lambda a: a[rows], training.in_memory)
    designs, response = some.designs, some.response
    codes = posterior_variables.codes(posterior.program, designs, training.state)
    factors = {
        v.factor: (name, v.dims[0], v.coords[0])
        for name, v in posterior.variables.items()
        if v.role == "group"
    }
    if not factors:
        raise OptionError(
            f"{posterior.program.formula.text!r} has no groups to compare responses by"
        )
    drawn = predictive.responses(designs, response, len(rows)).astype(np.float64)
    observed = np.asarray(response.value, np.float64)
    trials = np.ones(len(observed))
    if response.form == "trials":
        trials = np.asarray(response.companion, np.float64)
    counts = (
        posterior.program.family.discrete
        and len(np.unique(observed)) > 2
        and bool((observed == 0).any())
    )
    variables, coords = {}, {}
    for factor, (name, dim, names) in factors.items():
        own = np.asarray(codes[name], np.int64)
        size = np.bincount(own, minlength=len(names)).astype(np.float64)
        coords[dim] = list(names)
        variables[f"size|{factor}"] = (dim, size)
        of_trials = np.bincount(own, trials, minlength=len(names)).astype(np.float64)
        kinds = {"mean": (lambda y: y, of_trials)}
        if counts:
            kinds["zeros"] = (lambda y: (y == 0).astype(np.float64), size)
        for kind, (of, total) in kinds.items():
            variables[f"observed_{kind}|{factor}"] = (dim, _means(of(observed), own, total))
            each = np.stack([_means(of(d), own, total) for d in drawn])
            variables[f"drawn_{kind}|{factor}"] = (("draw", dim), each)
    return xr.Dataset(variables, coords)


def _means(values: Rows, codes: Codes, number: Vector) -> Vector:
    """Sum of the values of each level divided by their number; NaN for a level without rows."""
    total = np.bincount(codes, values, len(number))
    return np.divide(total, number, out=np.full(len(number), np.nan), where=number > 0)
