"""The likelihood of a generalized linear mixed model as lme4 defines it; priors play no part.

    -2 log int p(y | beta, b) p(b | theta) db

The integral is by Laplace's approximation at the mode of b, or by adaptive Gauss-Hermite
quadrature. Only the group effects b are integrated: the likelihood is maximised over the common
effects beta and the family parameters as well as over theta (Bates et al., 2015; `glmer` with its
default nAGQ=1).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ranef.errors import DataError, OptionError
from ranef.inference.glmm.arrays import Array, CommonEffects, FamilyValues
from ranef.inference.glmm.corrections import AdaptiveQuadrature
from ranef.inference.glmm.gaussian_approximation import GaussianPosterior
from ranef.inference.glmm.laplace_gradient import LaplaceGradient
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.lmm.deviance import RESTARTS, STARTS, ProfiledDeviance
from ranef.inference.lmm.model import LinearMixedModel, dependent
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.numerics.bfgs import minimise
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.shapes import Float
from ranef.program.problem import Problem

# Covariance parameters of the group effects.
Theta = Float[Array, "theta"]
# Coordinates of the family parameters.
FamilyCoordinates = Float[Array, "z"]
# Coordinates of a `_ScaledCriterion`.
Scaled = Float[Array, "v"]
Covariance = Float[Array, "p p"]

# Step of the central differences behind a gradient, in the units of `_ScaledCriterion`: standard
# errors for the common effects.
_STEP = 0.02
# Largest number of searches, each from where the one before ended and in new units.
_ROUNDS = 4
# Step of the central differences of gradients behind second derivatives, in the same units.
_WIDE_STEP = 0.05
# Unit of theta and of the family parameters' coordinates in `_ScaledCriterion`.
_UNIT = 0.1


class IntegratedLikelihood:
    """The criterion -2 log likelihood of one problem.

    theta holds the Cholesky factors of the groupings' covariances in lme4's order.

    Args:
        problem: linear in its predictors.
        nodes: number of quadrature nodes; 1 for Laplace's approximation.
    """

    def __init__(self, problem: Problem, nodes: int) -> None:
        self.density = GLMMHyperposterior.of(problem, "laplace", averaged=False)
        self.nodes = nodes
        self.layout = ProfiledDeviance(self.density.mixed)
        working = self.density.working.without_priors()
        # Thresholds take the place of an intercept. If columns are centred, thresholds hardly
        # change with the common effects, however far from zero the columns are.
        self._shifted = tuple(each.name for each in self.density.coordinates.ordered)
        self._middle = working.layout.columns.mean(axis=0) * bool(self._shifted)
        self._working = working.about(self._middle)
        self._quadrature = AdaptiveQuadrature(self._working, nodes)

    @property
    def mixed(self) -> LinearMixedModel:
        """The Gaussian model behind the density."""
        return self.density.mixed

    @property
    def columns(self) -> Float[Array, "n p"]:
        """Columns of the common effects, centred if the family has thresholds."""
        return self._working.layout.columns

    def number_values(self, z: FamilyCoordinates) -> FamilyValues:
        """The family parameters at their coordinates z, by name."""
        density = self.density
        x = density.start.copy()
        x[density.number_places] = z
        values = density.sites(x)
        return {name: values[name] for name in density.numbers}

    def criterion(
        self,
        theta: Theta,
        common: CommonEffects,
        numbers: FamilyValues,
        start: GaussianPosterior | None = None,
    ) -> float:
        """-2 log likelihood at given parameters; infinity where the arithmetic fails.

        Args:
            theta: covariance parameters of the group effects.
            common: common effects.
            numbers: values of the family parameters.
            start: warm start of the search for the mode of the group effects.
        """
        working = self._working.at_common_effects(common)
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
        self,
        theta: Theta,
        common: CommonEffects,
        numbers: FamilyValues,
        start: GaussianPosterior,
    ) -> tuple[float, LaplaceGradient] | None:
        """The criterion and the derivatives of Laplace's approximation of log p(y | theta).

        It applies where `has_gradient` is True.

        Returns:
            -2 log likelihood, and the derivatives of the log likelihood; None where the arithmetic
            fails.
        """
        working = self._working.at_common_effects(common)
        roots = self.layout.roots(theta)
        try:
            q = working.fit(roots, numbers, start)
            return -2.0 * q.value, LaplaceGradient.at(working, q, roots, numbers)
        except (ArithmeticError, np.linalg.LinAlgError):
            return None

    @property
    def has_gradient(self) -> bool:
        """Whether `gradient` applies: Laplace's approximation with a single predictor."""
        return self.nodes == 1 and len(self._working.layout.predictors) == 1

    def deviance(self, theta: object, reml: bool = False) -> float:
        """The criterion at theta, minimised over the common effects and family parameters.

        Args:
            theta: as many finite numbers as the Cholesky factors have.
            reml: refused if True.

        Raises:
            OptionError: for reml, or a theta of another length or with values that are not finite.
            DataError: if the likelihood has no maximum that can be found.
        """
        _refuse(reml)
        values = self.layout.checked(theta)
        with np.errstate(all="ignore"), threads_for(self.density.mixed.solver.largest):
            return self._least(values, free=False).value

    def maximum(self, reml: bool = False) -> dict[str, Any]:
        """Maximum-likelihood estimates of theta and everything else.

        Standard errors come from the second derivatives of the criterion in all estimated
        parameters, as in glmer; scales estimated as zero are held there.

        Args:
            reml: refused if True.

        Returns:
            theta (array), deviance, fixef (table: estimate, se), varcorr (table: estimate), sigma
            (1 here), and the family parameters by name.

        Raises:
            OptionError: for reml.
            DataError: if the likelihood has no maximum that can be found.
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

    def joint(self, theta: Theta, numbers: FamilyValues) -> GaussianPosterior:
        """The joint mode of common and group effects.

        Raises:
            DataError: if none is found.
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
        """The minimum over theta, from the best of several starts, restarted off the boundary."""
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

    def _at_joint(self, theta: Theta, z: FamilyCoordinates) -> float:
        """The criterion at the common effects of the joint mode of common and group effects."""
        numbers = self.number_values(z)
        q = self.joint(theta, numbers)
        return self.criterion(theta, q.solution.common[0], numbers, q)

    def _least(
        self,
        theta: Theta,
        *,
        free: bool,
        z: FamilyCoordinates | None = None,
        common: CommonEffects | None = None,
    ) -> "_SearchEnd":
        """A local minimum of the criterion; theta is held at its start if not `free`."""
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

    def _covariance(self, found: "_SearchEnd") -> Covariance:
        """Covariance of the common effects, with theta and family parameters uncertain.

        If the second derivatives are not positive definite, it is the covariance at known theta.
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
    """The end of a search.

    Attributes:
        value: of the criterion.
        place: theta, the coordinates of the family parameters, and the common effects.
        numbers: the family parameters there.
        round: the scaled criterion of the last search.
        x: where that search ended, in scaled coordinates.
    """

    value: float
    place: tuple[Theta, FamilyCoordinates, CommonEffects]
    numbers: FamilyValues
    round: "_ScaledCriterion"
    x: Scaled


@dataclass(frozen=True)
class _ScaledCriterion:
    """The criterion around a point, in coordinates v of about the same unit.

    Attributes:
        whole: the likelihood.
        start: warm start of every search for the mode of the group effects.
        theta, z, common: the point: theta, the coordinates of the family parameters, and the common
            effects.
        root: Cholesky factor of the common effects' covariance.
        free: number of elements of theta; 0 if theta is held.
    """

    whole: IntegratedLikelihood
    start: GaussianPosterior
    theta: Theta
    z: FamilyCoordinates
    common: CommonEffects
    root: Covariance
    free: int

    @property
    def size(self) -> int:
        return self.free + len(self.z) + len(self.common)

    def place(self, v: Scaled) -> tuple[Theta, FamilyCoordinates, CommonEffects]:
        """Theta, the coordinates of the family parameters, and the common effects at v."""
        free, m = self.free, self.free + len(self.z)
        theta = self.theta + _UNIT * v[:free] if free else self.theta
        return theta, self.z + _UNIT * v[free:m], self.common + self.root @ v[m:]

    def value(self, v: Scaled) -> float:
        theta, z, common = self.place(v)
        return self.whole.criterion(theta, common, self.whole.number_values(z), self.start)

    def objective(self, v: Scaled) -> tuple[float, Scaled]:
        """The criterion and its gradient in v."""
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
            ends = [slopes.by_family_values(self.whole.number_values(z + s)) for s in (step, -step)]
            by_z[i] = (ends[0] - ends[1]) / (2 * step[i])
        by_common = self.whole.columns.T @ slopes.by_eta
        whole = [_UNIT * by_theta, _UNIT * by_z, self.root.T @ by_common]
        return value, -2.0 * np.concatenate(whole)

    def _differences(self, v: Scaled) -> tuple[float, Scaled]:
        """The criterion and its gradient by central differences."""
        here, slope = self.value(v), np.zeros(len(v))
        for i in range(len(v) if np.isfinite(here) else 0):
            step = np.zeros(len(v))
            step[i] = _STEP
            slope[i] = (self.value(v + step) - self.value(v - step)) / (2 * _STEP)
        return here, slope

    def curvature(self, v: Scaled) -> Float[Array, "v v"]:
        """Second derivatives of the criterion, by central differences of the gradient."""
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
