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
from ranef.inference.glmm.corrections import AdaptiveQuadrature
from ranef.inference.glmm.gaussian_approximation import GaussianPosterior
from ranef.inference.glmm.laplace_gradient import LaplaceGradient
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.lmm.deviance import RESTARTS, STARTS, ProfiledDeviance
from ranef.inference.lmm.model import LinearMixedModel, dependent
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.numerics.bfgs import minimise
from ranef.numerics.blas_threads import threads_for
from ranef.program.problem import Problem

Array = NDArray[np.float64]

# Steps of the differences behind a gradient, in standard errors; rounds of the search, each
# from where the one before ended.
_STEP, _ROUNDS = 0.02, 4
# The same behind second derivatives.
_WIDE_STEP = 0.05
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
        self.density = GLMMHyperposterior.of(problem, "laplace", averaged=False)
        self.nodes = nodes
        self.layout = ProfiledDeviance(self.density.mixed)
        working = self.density.working.without_priors()
        # Thresholds stand in for an intercept. About the means of the columns they do not move with
        # the common effects, however far from zero the columns are.
        self._shifted = tuple(each.name for each in self.density.coordinates.ordered)
        self._middle = working.layout.columns.mean(axis=0) * bool(self._shifted)
        self._working = working.about(self._middle)
        self._quadrature = AdaptiveQuadrature(self._working, nodes)

    @property
    def mixed(self) -> LinearMixedModel:
        """The model."""
        return self.density.mixed

    @property
    def columns(self) -> Array:
        """(n, p) of the common effects, about their means where there are thresholds."""
        return self._working.layout.columns

    def number_values(self, z: Array) -> dict[str, Any]:
        """The family's numbers at their coordinates."""
        density = self.density
        x = density.start.copy()
        x[density.number_places] = z
        values = density.sites(x)
        return {name: values[name] for name in density.numbers}

    def criterion(
        self,
        theta: Array,
        common: Array,
        numbers: Mapping[str, Any],
        start: GaussianPosterior | None = None,
    ) -> float:
        """-2 log likelihood at theta, the common effects (p,) and the family's numbers.

        The search for the mode of the random effects begins at `start`, if there is one.
        """
        working = self._working.given(common)
        roots = self.layout.roots(theta)
        try:
            q = working.fit(roots, numbers, start)
            value = q.value
            if self.nodes > 1 and roots and roots[0].any():
                quadrature = replace(self._quadrature, working=working)
                value += quadrature.correction(q, roots, numbers)
        except (ArithmeticError, np.linalg.LinAlgError):
            return math.inf
        return -2.0 * value

    def gradient(
        self, theta: Array, common: Array, numbers: Mapping[str, Any], start: GaussianPosterior
    ) -> tuple[float, LaplaceGradient] | None:
        """The criterion, and what its derivatives come from; None where it is not finite.

        Only of Laplace's approximation with one predictor.
        """
        working = self._working.given(common)
        roots = self.layout.roots(theta)
        try:
            q = working.fit(roots, numbers, start)
            return -2.0 * q.value, LaplaceGradient.at(working, q, roots, numbers)
        except (ArithmeticError, np.linalg.LinAlgError):
            return None

    @property
    def has_gradient(self) -> bool:
        """Whether `gradient` serves."""
        return self.nodes == 1 and len(self._working.layout.predictors) == 1

    def deviance(self, theta: Any, reml: bool = False) -> float:
        """The criterion at theta, at its minimum over all else.

        Raises:
            OptionError: for reml, or a theta that is not as many finite numbers as there are.
        """
        _refuse(reml)
        values = self.layout.checked(theta)
        with np.errstate(all="ignore"), threads_for(self.density.mixed.solver.largest):
            return self._least(values, free=False).value

    def maximum(self, reml: bool = False) -> dict[str, Any]:
        """The theta that maximises the likelihood, and the estimates there.

        Standard errors are from the second derivatives of the criterion in all that is estimated,
        as glmer's are; a scale at zero is held there.

        Returns:
            theta (array), deviance, fixef (table: estimate, se), varcorr (table: estimate),
            sigma (of families that have it, else 1), and the family's other numbers by name.
        """
        _refuse(reml)
        with np.errstate(all="ignore"), threads_for(self.density.mixed.solver.largest):
            found = self._best()
            theta, _, common = found.place
            theta = self.layout.signed(theta)
            covariance = self._covariance(found)
        numbers = {n: np.asarray(v)[()] for n, v in found.numbers.items()}
        for name in self._shifted:
            numbers[name] = numbers[name] + self._middle @ common
        return {
            "theta": theta,
            "deviance": found.value,
            "fixef": self.layout.fixef(common, covariance),
            "varcorr": self.layout.varcorr(theta, 1.0),
            "sigma": 1.0,
            **numbers,
        }

    def joint(self, theta: Array, numbers: Mapping[str, Any]) -> GaussianPosterior:
        """Common and random effects at their joint mode.

        Raises:
            DataError: where there is none.
        """
        try:
            return self._working.fit(self.layout.roots(theta), numbers)
        except DependentColumnError as error:
            raise dependent(self.density.mixed, error) from None
        except (ArithmeticError, np.linalg.LinAlgError):
            raise DataError(
                "the likelihood has no maximum that can be found; a common effect may be without "
                "bound, as where a column tells all responses apart"
            ) from None

    def _best(self) -> "_SearchEnd":
        """The least criterion over all thetas, from several starts and off the boundary."""
        start = self.layout.start
        z = self.density.start[self.density.number_places]
        first = min((scale * start for scale in STARTS), key=lambda at: self._at_joint(at, z))
        found = self._least(first, free=True)
        for _ in range(RESTARTS):
            theta, z, common = found.place
            near = self.joint(theta, found.numbers)
            inside = self.layout.off_the_boundary(
                lambda at, f=found, q=near: self.criterion(at, f.place[2], f.numbers, q),
                theta,
                found.value,
            )
            if inside is None:
                break
            found = self._least(inside, free=True, z=z, common=common)
        return found

    def _at_joint(self, theta: Array, z: Array) -> float:
        """The criterion where the common effects are at their joint mode with the random ones."""
        numbers = self.number_values(z)
        q = self.joint(theta, numbers)
        return self.criterion(theta, q.solution.common[0], numbers, q)

    def _least(
        self,
        theta: Array,
        *,
        free: bool,
        z: Array | None = None,
        common: Array | None = None,
    ) -> "_SearchEnd":
        """The least criterion near a place, theta held there if it is not `free`."""
        z = self.density.start[self.density.number_places] if z is None else z
        trial = 0
        while True:
            trial += 1
            q = self.joint(theta, self.number_values(z))
            middle = q.solution.common[0] if common is None else common
            root = np.linalg.cholesky(q.solution.common_covariance[0])
            round_ = _ScaledCriterion(self, q, theta, z, middle, root, len(theta) if free else 0)
            found = minimise(round_.objective, np.zeros(round_.size), gain=1e-9)
            before = theta
            theta, z, common = round_.place(found.x)
            settled = not free or np.abs(theta - before).max(initial=0.0) < 1e-6
            if settled or trial == _ROUNDS:
                place = theta, z, common
                return _SearchEnd(found.value, place, self.number_values(z), round_, found.x)

    def _covariance(self, found: "_SearchEnd") -> Array:
        """(p, p) of the common effects, all else that is estimated being uncertain too.

        Where the second derivatives have no inverse it is that at theta known.
        """
        theta, _, _ = found.place
        held = self.layout.on_boundary(theta)
        free = np.setdiff1d(np.arange(found.round.size), held)
        curvature = found.round.curvature(found.x)[np.ix_(free, free)]
        p = len(found.round.root)
        values = np.linalg.eigvalsh(curvature) if np.isfinite(curvature).all() else np.zeros(1)
        if not values.min(initial=1.0) > 0:
            return self.joint(theta, found.numbers).solution.common_covariance[0]
        inverse = 2.0 * np.linalg.inv(curvature)[len(free) - p :, len(free) - p :]
        return found.round.root @ inverse @ found.round.root.T


@dataclass(frozen=True)
class _SearchEnd:
    """Where a search ended.

    Attributes:
        value: of the criterion.
        place: theta, the numbers' coordinates, the common effects.
        numbers: the family's numbers there.
        round: the last of the search, and x where that ended.
    """

    value: float
    place: tuple[Array, Array, Array]
    numbers: Mapping[str, Any]
    round: "_ScaledCriterion"
    x: Array


@dataclass(frozen=True)
class _ScaledCriterion:
    """The criterion around a place, all coordinates in about the same unit.

    Attributes:
        whole: the likelihood.
        start: where every search for the mode of the random effects begins.
        theta, z, common: the place: theta, the numbers' coordinates, the common effects.
        root: of the common effects' covariance.
        free: how many elements theta has, 0 where it is held.
    """

    whole: IntegratedLikelihood
    start: GaussianPosterior
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
        return self.whole.criterion(theta, common, self.whole.number_values(z), self.start)

    def objective(self, v: Array) -> tuple[float, Array]:
        """The criterion and its derivative."""
        if not self.whole.has_gradient:
            return self._differences(v)
        theta, z, common = self.place(v)
        numbers = self.whole.number_values(z)
        found = self.whole.gradient(theta, common, numbers, self.start)
        if found is None:
            return math.inf, np.zeros(len(v))
        value, slopes = found
        by_theta = self.whole.layout.by_theta(slopes.by_root) if self.free else np.zeros(0)
        by_z = np.zeros(len(z))
        for i in range(len(z)):
            step = np.zeros(len(z))
            step[i] = _STEP * _UNIT
            ends = [slopes.number_part(self.whole.number_values(z + s)) for s in (step, -step)]
            by_z[i] = (ends[0] - ends[1]) / (2 * step[i])
        by_common = self.whole.columns.T @ slopes.by_eta
        whole = [_UNIT * by_theta, _UNIT * by_z, self.root.T @ by_common]
        return value, -2.0 * np.concatenate(whole)

    def _differences(self, v: Array) -> tuple[float, Array]:
        """The criterion and its derivative by differences on both sides."""
        here, slope = self.value(v), np.zeros(len(v))
        for i in range(len(v) if np.isfinite(here) else 0):
            step = np.zeros(len(v))
            step[i] = _STEP
            slope[i] = (self.value(v + step) - self.value(v - step)) / (2 * _STEP)
        return here, slope

    def curvature(self, v: Array) -> Array:
        """The second derivatives of the criterion, by differences of the first on both sides."""
        out = np.zeros((len(v), len(v)))
        for i in range(len(v)):
            step = np.zeros(len(v))
            step[i] = _WIDE_STEP
            out[i] = (self.objective(v + step)[1] - self.objective(v - step)[1]) / (2 * _WIDE_STEP)
        return (out + out.T) / 2


def _refuse(reml: bool) -> None:
    if reml:
        raise OptionError(
            "reml is for gaussian responses, whose common effects integrate out in closed form; "
            "leave it out"
        )
