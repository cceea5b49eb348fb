"""The posterior of the coefficients given the hyperparameters, as `exact` and `laplace` have it."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.pwls.solver import Solution
from ranef.numerics.shapes import Float, Numbers

Array = NDArray[np.float64]


@runtime_checkable
class ConditionalPosterior(Protocol):
    """The normal posterior of all coefficients given the hyperparameters, as a function of them."""

    @property
    def mixed(self) -> LinearMixedModel: ...

    @property
    def solves_many(self) -> bool:
        """Whether `solve` takes several values of the hyperparameters at once."""
        ...

    @property
    def cost(self) -> int:
        """Cost of one solution: the number of array elements, each used some tens of times."""
        ...

    def sites(self, x: Float[Array, "*batch d"]) -> Mapping[str, Numbers]:
        """All hyperparameters by site at x."""
        ...

    def solve(self, x: Float[Array, "B d"]) -> tuple[Solution, Float[Array, "B"]]:
        """The solution at hyperparameters x, and the residual sd sigma."""
        ...
