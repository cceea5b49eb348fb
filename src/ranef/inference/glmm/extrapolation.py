"""Extrapolation of a GLMM's working model to new hyperparameters, from those at nearby ones.

The weights W(x) and right sides W(x) z(x) of a converged working model are smooth functions of the
hyperparameters x. A stored working model r, at x_r, has an interpolation weight c_r such that
constants, coordinates and their squares at x are reproduced exactly (only constants and coordinates
if there are too few points). The combination sum_r c_r W(x_r) then has errors of third order along
each coordinate, and of second order in products of coordinates. A search for the normal
approximation q that starts there is almost at its end.
"""

from dataclasses import dataclass, field

import numpy as np

from ranef.inference.glmm.arrays import Array, Blocks, Point, Predictors, WorkingModel
from ranef.numerics.shapes import Float

# Limit of the numbers that stored working models may have in all.
_NUMBERS = 60_000_000
# Reject the extrapolation when the interpolation weights are large: sum_r |c_r| > 25 means that x
# lies outside the region spanned by the stored points.
_FAR = 25.0
# Reject differences when the interpolation weights change by more than this in all per posterior
# sd: they would mostly measure the errors of the stored working models.
_STEEP = 6.0
# Relative error by which a combination may miss constants, coordinates and squares at x.
_MISSED = 1e-6


@dataclass
class WorkingModelExtrapolator:
    """Stored working models, and their extrapolation.

    Attributes:
        width: about one posterior sd of each coordinate.
    """

    width: Point
    _known: list[tuple[Point, Blocks, Predictors]] = field(default_factory=list)
    # For the stored points: the bases and their pseudoinverses, which give interpolation weights.
    _inverses: list[tuple[Array, Array]] = field(default_factory=list)
    _centre: Point = field(default_factory=lambda: np.zeros(0))

    @property
    def _most(self) -> int:
        """Number of stored models: those of the last mode and the points beside it."""
        return 2 * len(self.width) + 4

    def add(self, x: Point, weights: Blocks, right: Predictors) -> None:
        """Stores the working model at x, and drops the oldest if there are too many."""
        if self._most * (weights.size + right.size) <= _NUMBERS:
            self._known = [*self._known[1 - self._most :], (x.copy(), weights, right)]
            self._inverses = []

    def copy(self) -> "WorkingModelExtrapolator":
        """A copy with the models stored now."""
        out = WorkingModelExtrapolator(self.width)
        out._known = list(self._known)
        return out

    def at(self, x: Point) -> WorkingModel | None:
        """Extrapolated weights and right side at x; None if x is too far away."""
        c = self._coefficients(x)
        return None if c is None else self._combined(c)

    def around(self, x: Point, steps: Point) -> list[WorkingModel] | None:
        """Extrapolated models at x, and at a step along each coordinate from it.

        Returns None if a point is too far from the stored ones, or if these lie so close together
        that differences would measure their errors.
        """
        places = [x, *(x + step for step in np.diag(steps))]
        found = [c for place in places if (c := self._coefficients(place)) is not None]
        if len(found) < len(places):
            return None
        slopes = np.abs(np.array(found[1:]) - found[0]).sum(axis=1) * self.width / steps
        return None if (slopes > _STEEP).any() else [self._combined(c) for c in found]

    def _coefficients(self, x: Point) -> Float[Array, "m"] | None:
        """The interpolation weight c_r of each stored model, or None if they cannot be trusted."""
        if not self._known:
            return None
        if not self._inverses:
            self._centre = self._known[-1][0]
            places = np.array([known[0] for known in self._known])
            for squares in (True, False):
                basis = self._basis(places, squares)
                inverse = np.asarray(np.linalg.pinv(basis).T, np.float64)
                self._inverses.append((basis, inverse))
        for (basis, inverse), squares in zip(self._inverses, (True, False), strict=True):
            wanted = self._basis(x[None], squares)[0]
            c = inverse @ wanted
            missed = np.abs(c @ basis - wanted).max() / max(1.0, float(np.abs(wanted).max()))
            if missed < _MISSED and np.abs(c).sum() < _FAR:
                return np.asarray(c, np.float64)
        return None

    def _basis(self, x: Float[Array, "m d"], squares: bool) -> Float[Array, "m basis"]:
        """The constant, coordinates and squares at points (m, d): (m, 1 + d) or (m, 1 + 2 d)."""
        z = (x - self._centre) / self.width
        return np.concatenate([np.ones((len(z), 1)), z, *([z**2] if squares else [])], axis=1)

    def _combined(self, c: Float[Array, "m"]) -> WorkingModel:
        """The combination of the stored models with weights c."""
        models = list(zip(c, self._known, strict=True))
        weights = sum(each * known[1] for each, known in models)
        return np.asarray(weights), np.asarray(sum(each * known[2] for each, known in models))
