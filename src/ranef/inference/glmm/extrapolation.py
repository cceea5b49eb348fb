"""The working model at new hyperparameters, foretold from those at hyperparameters near by.

Weights W(x) and right sides W(x) z(x) of a converged working model are smooth in x. A combination
sum_r c_r W(x_r), whose coefficients make constants, x and its squares come out right at x, is off
by third differences only, so that a search for the normal q begins next to where it ends.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Numbers that are kept of earlier working models.
_NUMBERS = 60_000_000
# Where coefficients are larger than this in all, what is foretold is far from what is known.
_FAR = 25.0
# And where they change by more than this in all within a posterior sd, its errors are what shows.
_STEEP = 6.0
# By how much a combination may miss constants, coordinates and squares at x.
_MISSED = 1e-6


@dataclass
class WorkingModelExtrapolator:
    """What is kept of earlier working models.

    Attributes:
        width: (d,) about one posterior sd of each coordinate.
    """

    width: Array
    _known: list[tuple[Array, Array, Array]] = field(default_factory=list)
    # Of what is kept: the bases at its places and their inverses, from which coefficients follow.
    _inverses: list[tuple[Array, Array]] = field(default_factory=list)
    _centre: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def _most(self) -> int:
        """As many as the places of the last search for a mode and its sides."""
        return 2 * len(self.width) + 4

    def add(self, x: Array, weights: Array, right: Array) -> None:
        """Keep the working model at x (d,), and forget the oldest."""
        if self._most * (weights.size + right.size) <= _NUMBERS:
            self._known = [*self._known[1 - self._most :], (x.copy(), weights, right)]
            self._inverses = []

    def copy(self) -> "WorkingModelExtrapolator":
        """What is kept now, to which nothing is added."""
        out = WorkingModelExtrapolator(self.width)
        out._known = list(self._known)
        return out

    def at(self, x: Array) -> tuple[Array, Array] | None:
        """Weights and right side at x (d,); None where too little is known about it."""
        c = self._coefficients(x)
        return None if c is None else self._combined(c)

    def around(self, x: Array, steps: Array) -> list[tuple[Array, Array]] | None:
        """The same at x (d,), then at a step along each coordinate, for differences of them.

        None where what is known lies so close together that they would be of its errors.
        """
        places = [x, *(x + step for step in np.diag(steps))]
        found = [c for place in places if (c := self._coefficients(place)) is not None]
        if len(found) < len(places):
            return None
        slopes = np.abs(np.array(found[1:]) - found[0]).sum(axis=1) * self.width / steps
        return None if (slopes > _STEEP).any() else [self._combined(c) for c in found]

    def _coefficients(self, x: Array) -> Array | None:
        """C_r of each working model that is kept."""
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

    def _basis(self, x: Array, squares: bool) -> Array:
        """(m, 1 + d) or (m, 1 + 2 d): one, the coordinates and their squares at places (m, d)."""
        z = (x - self._centre) / self.width
        return np.concatenate([np.ones((len(z), 1)), z, *([z**2] if squares else [])], axis=1)

    def _combined(self, c: Array) -> tuple[Array, Array]:
        parts = list(zip(c, self._known, strict=True))
        weights = sum(each * known[1] for each, known in parts)
        return np.asarray(weights), np.asarray(sum(each * known[2] for each, known in parts))
