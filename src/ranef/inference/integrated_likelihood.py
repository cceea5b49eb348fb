"""The likelihood of a generalized linear mixed model as lme4 defines it; no priors.

    -2 log int p(y | beta, b) p(b | theta) db

by Laplace's approximation at the mode of b, or by adaptive Gauss-Hermite quadrature. Only the
random effects are integrated: beta, and the family's numbers, are maximised over beside theta
(Bates et al., 2015; `glmer` with its default nAGQ=1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError
from ranef.inference.approximate import Approximate
from ranef.inference.base import Problem
from ranef.inference.likelihood import Likelihood
from ranef.inference.mixed import Mixed, dependent
from ranef.inference.pwls import Solution
from ranef.inference.refinement import Quadrature
from ranef.inference.remainder import DependentColumnError
from ranef.inference.search import minimise
from ranef.inference.threads import threads_for
from ranef.inference.variational import Normal

Array = NDArray[np.float64]

# Steps of the differences behind a gradient, in standard errors; rounds of the search, each
# from where the one before ended.
_STEP, _ROUNDS = 0.02, 4
# The unit of theta and of the numbers' coordinates.
_UNIT = 0.1


class IntegratedLikelihood:
    """The criterion of one problem as a function of theta.

    theta holds the Cholesky factors of the groupings' covariances in lme4's order.

    Args:
        problem: linear in its predictors.
        nodes: of quadrature; 1 is Laplace's approximation.
    """

    def __init__(self, problem: Problem, nodes: int) -> None:
        self.density = Approximate.of(problem, "laplace", averaged=False)
        self.nodes = nodes
        self.layout = Likelihood(self.density.mixed)
        self._working = self.density.working.without_priors()
        self._quadrature = Quadrature(self._working, nodes)
        self._latest: list[Normal] = []

    @property
    def mixed(self) -> Mixed:
        """The model."""
        return self.density.mixed

    def number_values(self, z: Array) -> dict[str, Any]:
        """The family's numbers at their coordinates."""
        density = self.density
        x = density.start.copy()
        x[density.number_places] = z
        values = density.sites(x)
        return {name: values[name] for name in density.numbers}

    def criterion(self, theta: Array, common: Array, numbers: Mapping[str, Any]) -> float:
        """-2 log likelihood at theta, the common effects (p,) and the family's numbers."""
        working = self._working.given(common)
        roots = self.layout.roots(theta)
        try:
            start = self._latest[0] if self._latest else None
            q = working.fit(roots, numbers, start)
            self._latest[:] = [q]
            value = q.value
            if self.nodes > 1 and roots and roots[0].any():
                quadrature = replace(self._quadrature, working=working)
                value += quadrature.correction(q, roots, numbers)
        except (ArithmeticError, np.linalg.LinAlgError):
            return math.inf
        return -2.0 * value

    def deviance(self, theta: Any, reml: bool = False) -> float:
        """The criterion at theta, at its minimum over all else.

        Raises:
            OptionError: for reml, or a theta that is not as many finite numbers as there are.
        """
        _refuse(reml)
        values = self.layout.checked(theta)
        with threads_for(self.density.mixed.solver.largest):
            return self._least(values, None)[0]

    def maximum(self, reml: bool = False) -> dict[str, Any]:
        """The theta that maximises the likelihood, and the estimates there.

        Standard errors are those at theta known, as `glmer` gives them.

        Returns:
            theta (array), deviance, fixef (table: estimate, se), varcorr (table: estimate),
            sigma (of families that have it, else 1).
        """
        _refuse(reml)
        with threads_for(self.density.mixed.solver.largest):
            deviance, theta, common, numbers = self._least(None, self.layout.start)
            theta = self.layout.signed(theta)
            solution = self._joint(theta, numbers)
        return {
            "theta": theta,
            "deviance": deviance,
            "fixef": self.layout.fixef(common, solution, 1.0),
            "varcorr": self.layout.varcorr(theta, 1.0),
            "sigma": float(numbers.get("sigma", 1.0)),
        }

    def _joint(self, theta: Array, numbers: Mapping[str, Any]) -> Solution:
        """Common and random effects at their joint mode."""
        try:
            return self._working.fit(self.layout.roots(theta), numbers).solution
        except DependentColumnError as error:
            raise dependent(self.density.mixed, error) from None
        except (ArithmeticError, np.linalg.LinAlgError):
            raise DataError(
                "the likelihood has no maximum that can be found; a common effect may be without "
                "bound, as where a column tells all responses apart"
            ) from None

    def _least(
        self, known: Array | None, start: Array | None
    ) -> tuple[float, Array, Array, dict[str, Any]]:
        """The least criterion, theta held where it is known; and theta, beta, numbers there."""
        theta = known if known is not None else start
        assert theta is not None
        free = 0 if known is not None else len(theta)
        z = self.density.start[self.density.number_places]
        common: Array | None = None
        value = math.inf
        with np.errstate(all="ignore"):
            for _ in range(_ROUNDS):
                solution = self._joint(theta, self.number_values(z))
                middle = solution.common[0] if common is None else common
                root = np.linalg.cholesky(solution.common_covariance[0])
                round_ = _Round(self, theta, z, middle, root, free)
                found = minimise(round_.objective, np.zeros(round_.size), gain=1e-9)
                before, value = theta, found.value
                theta, z, common = round_.place(found.x)
                if not free or np.abs(theta - before).max() < 1e-6:
                    break
        assert common is not None
        return value, theta, common, self.number_values(z)


@dataclass(frozen=True)
class _Round:
    """The criterion around a place, all coordinates in about the same unit.

    Attributes:
        whole: the likelihood.
        theta, z, common: the place: theta, the numbers' coordinates, the common effects.
        root: of the common effects' covariance.
        free: how many elements theta has, 0 where it is held.
    """

    whole: IntegratedLikelihood
    theta: Array
    z: Array
    common: Array
    root: Array
    free: int

    @property
    def size(self) -> int:
        return self.free + len(self.z) + len(self.common)

    def place(self, v: Array) -> tuple[Array, Array, Array]:
        """Theta, the numbers' coordinates and the common effects at v."""
        free, m = self.free, self.free + len(self.z)
        theta = self.theta + _UNIT * v[:free] if free else self.theta
        return theta, self.z + _UNIT * v[free:m], self.common + self.root @ v[m:]

    def value(self, v: Array) -> float:
        theta, z, common = self.place(v)
        return self.whole.criterion(theta, common, self.whole.number_values(z))

    def objective(self, v: Array) -> tuple[float, Array]:
        """The criterion and its derivative by differences on both sides."""
        here, slope = self.value(v), np.zeros(len(v))
        for i in range(len(v) if np.isfinite(here) else 0):
            step = np.zeros(len(v))
            step[i] = _STEP
            slope[i] = (self.value(v + step) - self.value(v - step)) / (2 * _STEP)
        return here, slope


def _refuse(reml: bool) -> None:
    if reml:
        raise OptionError(
            "reml is for gaussian responses, whose common effects integrate out in closed form; "
            "leave it out"
        )
