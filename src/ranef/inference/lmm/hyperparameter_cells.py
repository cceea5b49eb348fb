"""Groups draws of the hyperparameters theta into cells, whose draws share one factorization.

If a factorization is cheap, every draw of theta gets its own. Otherwise the draws are grouped
into some tens of cells of similar theta.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.lmm.conditional_posterior import ConditionalPosterior
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Total cost of the factorizations of all cells, in array elements: _CELLS divided by the cost of
# one factorization is the number of cells, within the bounds below.
_CELLS = 20_000_000
# Smallest number of cells.
_LEAST = 5
# Largest number of cells, unless a quadratic surface needs more.
_MOST = 30
# Largest number of cells for each hyperparameter, the stricter limit with one or two of them.
_MOST_EACH = 12
# Cells for each coefficient of a full quadratic surface. With many hyperparameters this raises the
# largest number of cells.
_FOR_EACH = 2
# Upper limit of the number of cells that is raised in this way.
_FOR_ALL = 200
# Cost of a solution times the number of draws up to which every draw gets its own factorization.
_EACH = 2_000_000


@dataclass(frozen=True)
class ThetaCell:
    """A cell: draws that are solved together.

    Attributes:
        members: indices of the draws.
        x: their hyperparameters, or the single value that represents all of them.
    """

    members: Int[Indices, "draws"]
    x: Float[Array, "#draws d"]


def cells_of(x: Float[Array, "draws d"], marginal: ConditionalPosterior) -> list[ThetaCell]:
    """The partition of the draws x into sets that are solved together."""
    solver, draws = marginal.mixed.solver, len(x)
    # Without hyperparameters, or with equal values of them, all draws share one factorization.
    if x.shape[1] == 0 or not np.ptp(x, axis=0).any():
        return [ThetaCell(np.arange(draws), x[:1])]
    if marginal.solves_many and solver.cost * draws <= _EACH:
        return [ThetaCell(np.arange(draws)[chunk], x[chunk]) for chunk in solver.chunks(draws)]
    d = x.shape[1]
    most = max(min(_MOST, _MOST_EACH * d), min(_FOR_EACH * quadratic_terms(d), _FOR_ALL))
    count = int(np.clip(_CELLS // marginal.cost, _LEAST, most))
    sd = x.std(axis=0)
    scaled = x / np.where(sd > 0, sd, 1.0)
    return [
        ThetaCell(members, x[members].mean(axis=0, keepdims=True))
        for members in _split(scaled, np.arange(draws), min(count, draws))
    ]


def _split(
    x: Float[Array, "draws d"], members: Int[Indices, "_m"], count: int
) -> Iterator[Int[Indices, "_m"]]:
    """Yield `count` sets of neighbouring draws by recursive bisection along the first principal
    component."""
    if count == 1 or len(members) < 2:
        yield members
        return
    own = x[members]
    direction = np.linalg.svd(own - own.mean(axis=0), full_matrices=False)[2][0]
    order = np.argsort(own @ direction, kind="stable")
    left = count // 2
    cut = max(1, len(members) * left // count)
    yield from _split(x, members[order[:cut]], left)
    yield from _split(x, members[order[cut:]], count - left)


def quadratic_terms(d: int) -> int:
    """Number of coefficients of a full quadratic in d coordinates, without its constant."""
    return d + d * (d + 1) // 2
