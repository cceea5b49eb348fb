"""Maximum likelihood estimates of a shift of the location's predictor in each level.

`Family.shifts` returns them. `climbed` finds them for any family by Newton steps. Where the
response is normal, they are the weighted means of the residuals (`weighted_means`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.lazy import Array, jax, jnp
from ranef.numerics.shapes import Float, Int

if TYPE_CHECKING:
    from ranef.families.base import Family

# The level of each row.
Codes = Int[NDArray[np.int32], "n"]
# A number for each level.
Levels = Float[NDArray[np.float64], "levels"]

# Largest number of iterations (Newton steps and step halvings) in `climbed`. Levels whose
# likelihood has no maximum use all of them.
_CLIMB = 100


def weighted_means(values: PerRow, weights: PerRow, codes: Codes, levels: int) -> Levels:
    """Weighted mean of the rows of each level.

    Args:
        values: the numbers.
        weights: their weights.
        codes: level of each row, 0 to `levels` - 1.
        levels: number of levels.

    Returns:
        the means; NaN for a level without rows.
    """
    total = np.bincount(codes, weights, levels)
    sums = np.bincount(codes, weights * values, levels)
    return np.divide(sums, total, out=np.full(levels, np.nan), where=total > 0)


def climbed(
    family: Family,
    response: ResponseDesign,
    codes: Codes,
    levels: int,
    predictors: Mapping[str, NDArray[np.float64]],
) -> Levels:
    """`Family.shifts` by Newton steps with working weights, for all levels at once.

    A step that lowers the log likelihood of its level is halved until it does not. A level has
    converged when its next step is below 1e-6 (1 + |shift|).
    """
    name = family.parameters[0].name
    eta = np.asarray(predictors[name], np.float64)
    with jax.enable_x64(True):
        known = {own: jnp.asarray(value, float) for own, value in predictors.items()}

    @jax.jit
    def slopes(shift: Array) -> tuple[Array, Array, Array]:
        here = {**known, name: eta + shift[codes]}
        slope, _ = family.derivatives(response, name, **here)
        weight = family.working_weights(response, name, **here)
        return family.log_density(response, **here), slope, weight

    def sums(values: Array) -> NDArray[np.float64]:
        return np.asarray(np.bincount(codes, np.asarray(values), levels), np.float64)

    shift, step = np.zeros(levels), np.zeros(levels)
    best, settled = np.full(levels, -np.inf), np.zeros(levels, bool)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        for _ in range(_CLIMB):
            density, slope, weight = (sums(each) for each in slopes(jnp.asarray(shift + step)))
            better = density >= best
            shift, best = np.where(better, shift + step, shift), np.where(better, density, best)
            step = np.where(better, slope / np.maximum(weight, 1e-300), step / 2)
            settled = np.abs(step) < 1e-6 * (1.0 + np.abs(shift))
            if settled.all():
                break
    return np.where((np.bincount(codes, minlength=levels) > 0) & settled, shift, np.nan)
