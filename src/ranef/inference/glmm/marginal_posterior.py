"""The posterior density of the hyperparameters of a GLMM, coefficients integrated out.

    log p(theta | y) = T(theta) + correction(theta) + log p(theta) + constant

T is the lower bound of log p(y | theta) by a normal approximation of the coefficients
(``gaussian_approximation``), and the correction is what that approximation misses
(``corrections``).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.inference.glmm.arrays import Array, FamilyValues, Point, Roots, SiteValues, WorkingModel
from ranef.inference.glmm.corrections import Correction
from ranef.inference.glmm.extrapolation import WorkingModelExtrapolator
from ranef.inference.glmm.gaussian_approximation import (
    LEFT,
    NEXT_TO,
    GaussianApproximator,
    GaussianPosterior,
)
from ranef.inference.hyperparameters.coordinates import (
    Coordinates,
    OrderedCoordinates,
    ScaleCoordinate,
)
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior, scale_derivatives
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.solver import Solution
from ranef.numerics.shapes import Float, Int
from ranef.program.problem import Problem

# Step of forward differences, in posterior sds of each coordinate.
_STEP = 0.03
# A search for q ends with less than this many nats left to gain if differences of its solution are
# taken as derivatives: over a step they change by little more than the errors of other searches.
_LEFT_FOR_DIFFERENCES = 1e-11
# A search for q has not reached a maximum of T, and the density is rough, if this many nats or more
# are left to gain.
_ROUGH = 0.01
# Cost of a row in a solution, in numbers that the solver goes through.
_ROW = 10
# Exceptions of a search that has stepped too far.
_FAILURES = (ArithmeticError, DependentColumnError, np.linalg.LinAlgError)


@dataclass
class GLMMHyperposterior:
    """Log p(theta | y) up to a constant, in the coordinates x, for any family.

    theta holds the scales and correlations, and the family parameters that all rows share.

    Attributes:
        working: finds q, the normal approximation of the coefficients, for the rows.
        groups: the scales and correlations, and the Gaussian model with the working model at the
            starting eta.
        coordinates: of the hyperparameters that are not fixed.
        numbers: names of the family parameters that all rows share.
        known: values of the fixed hyperparameters, by site.
        start: where a search for the mode begins.
        refinement: the correction that is added to T, or None.
        left: nats that the next step of a search for q may still gain where the search ends; None
            for the default, which is small enough for derivatives by differences.
    """

    working: GaussianApproximator
    groups: LMMHyperposterior
    coordinates: Coordinates
    numbers: tuple[str, ...]
    known: SiteValues
    start: Point
    refinement: Correction | None = None
    left: float | None = None
    solves_many = False
    # The q from which every other search begins, and an extrapolator of the working models near it.
    # Only `settle` changes them, so that between two calls of it the density is a function of x.
    _anchor: list[GaussianPosterior] = field(default_factory=list)
    _extrapolator: WorkingModelExtrapolator = field(init=False)
    # Working models found since the last `settle`, which the next one takes over.
    _gathered: WorkingModelExtrapolator = field(init=False)
    _latest: list[GaussianPosterior] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._extrapolator, self._gathered = (
            WorkingModelExtrapolator(self.width),
            WorkingModelExtrapolator(self.width),
        )

    @classmethod
    def of(cls, problem: Problem, method: str, *, averaged: bool = True) -> "GLMMHyperposterior":
        """The posterior of a problem's hyperparameters.

        Args:
            problem: with rows, priors and family.
            method: the name of the method, for messages.
            averaged: as for `GaussianApproximator`.

        Raises:
            MethodError: for a model that is not linear and Gaussian in its predictors.
        """
        working = GaussianApproximator(problem, method, averaged=averaged)
        layout = working.layout
        free = [p for p in problem.family.free_parameters() if p.name not in layout.predictors]
        known: dict[str, Array] = {}
        begin: dict[str, Array] = {}
        scales: list[ScaleCoordinate] = []
        ordered: list[OrderedCoordinates] = []
        for parameter in free:
            name, prior = parameter.name, problem.priors[parameter.name]
            size = len(parameter.labels)
            value = problem.parameter_starts.get(name)
            value = getattr(prior, "start", None) or value
            default = 0.5 if parameter.support == "unit" else 1.0
            begin[name] = np.asarray(default if value is None else value, np.float64)
            if isinstance(prior, priors.Fixed):
                known[name] = begin[name] = np.asarray(prior.value, np.float64)
            elif size:
                begin[name] = np.broadcast_to(begin[name], (size,))
                ordered.append(OrderedCoordinates(name, size, prior))
            else:
                scales.append(ScaleCoordinate.of(name, prior, float(begin[name]), folds=False))
        mixed = LinearMixedModel(
            working.initial_system(begin),
            layout.groupings,
            layout.common,
            layout.shapes,
            layout.mean,
            layout.precision,
            "",
            problem.n,
            0.0,
            0.0,
            (0.0, 0.0),
            layout.derived,
            layout.mixtures,
        )
        groups = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
        coordinates = Coordinates(
            [*scales, *groups.coordinates.scales], groups.coordinates.correlations, ordered
        )
        first = [s.place(float(begin[s.name])) for s in scales]
        last = [o.inverse(begin[o.name]) for o in ordered]
        start = np.concatenate([first, groups.start, *last])
        names = tuple(p.name for p in free)
        return cls(working, groups, coordinates, names, {**groups.known, **known}, start)

    @property
    def mixed(self) -> LinearMixedModel:
        """The Gaussian model, with the cross-products of the working model at the starting eta."""
        return self.groups.mixed

    @property
    def cost(self) -> int:
        """Cost of one solution, which goes through the rows, in numbers."""
        return max(self.mixed.solver.cost, _ROW * self.mixed.n)

    @property
    def cells(self) -> int:
        """The number of working weights, which each step of a search for q recomputes."""
        return self.mixed.n * len(self.working.layout.predictors) ** 2

    @property
    def number_places(self) -> Int[NDArray[np.int64], "z"]:
        """Places of the coordinates of the family parameters."""
        own = [s.name for s in self.groups.coordinates.scales]
        first = sum(s.name not in own for s in self.coordinates.scales)
        last = first + self.groups.coordinates.size
        return np.r_[0:first, last : self.coordinates.size]

    @property
    def lengths(self) -> list[int]:
        """Places of the length scales, in which the density may have several modes."""
        own = [self.groups.coordinates.scales[i].name for i in self.groups.lengths]
        return [i for i, scale in enumerate(self.coordinates.scales) if scale.name in own]

    @property
    def width(self) -> Point:
        """Rough posterior sds of the coordinates, from the number of observations of each."""
        out = np.full(len(self.start), 1 / math.sqrt(2 * self.mixed.n))
        out[np.setdiff1d(np.arange(len(out)), self.number_places)] = self.groups.width
        for place in self.coordinates.ordered_slices:
            out[place] *= 4.0
        return np.minimum(out, 0.5)

    def sites(self, x: Float[Array, "*batch d"]) -> SiteValues:
        """Values of all hyperparameters at x, fixed ones included, by site."""
        values: dict[str, NDArray | float] = {**self.coordinates.values(x)}
        for name, value in self.known.items():
            values[name] = np.broadcast_to(value, (*x.shape[:-1], *np.shape(value)))
        return values

    def fit(self, x: Point, start: GaussianPosterior | None = None) -> GaussianPosterior:
        """The normal approximation q of the coefficients at x.

        Args:
            x: the hyperparameters.
            start: q at other hyperparameters, as a warm start.

        Raises:
            ArithmeticError: if T is not finite where the search begins.
        """
        model = self._extrapolator.at(x)
        left = self.left or LEFT
        return self._working_at(x).fit(*self._roots_and_numbers(x), start, model, left)

    def initial_posterior(self, x: Point) -> GaussianPosterior:
        """The q at x whose predictors are pinned at their starting values."""
        return self._working_at(x).initial_posterior(*self._roots_and_numbers(x))

    def _roots_and_numbers(self, x: Point) -> tuple[Roots, FamilyValues]:
        """Roots of the factors' covariances, and values of the family parameters."""
        values = self.sites(x)
        roots = self.mixed.roots(self.groups.absolute(values))
        return roots, {name: values[name] for name in self.numbers}

    def _working_at(self, x: Point) -> GaussianApproximator:
        """The approximator with the priors of the common effects at x."""
        return self.working.conditional(self.sites(x) if self.working.layout.mixtures else {})

    def _refinement_at(self, x: Point) -> Correction:
        """The correction with the priors of the common effects at x."""
        assert self.refinement is not None
        return self.refinement.of(self._working_at(x))

    def settle(self, x: Point) -> None:
        """Fix the starts of all searches: the q at x, and the working models found near it.

        Until the next call, the density at a point does not depend on earlier evaluations.
        """
        self._anchor[:] = [self.fit(x, *self._anchor)]
        self._extrapolator = self._gathered.copy()
        self.working.averages.settle(self._anchor[0].covariance)
        if self.refinement is not None:
            self.refinement = self._refinement_at(x).settled(
                self._anchor[0], *self._roots_and_numbers(x)
            )

    @property
    def has_normal(self) -> bool:
        """Whether the search for q reached a maximum of T where the density was last settled."""
        return self._anchor[0].left < _ROUGH

    def solve(self, x: Float[Array, "1 d"] | Point) -> tuple[Solution, Float[Array, "1"]]:
        """The coefficients' posterior at x, and the working model's sigma, one."""
        x = np.atleast_2d(x)[0]
        # A search may step too far on its way, and come back.
        with np.errstate(all="ignore"):
            found = self.fit(x, *self._anchor)
            if self.refinement is None:
                return found.solution, np.ones(1)
            return self._refinement_at(x).solution(found, *self._roots_and_numbers(x)), np.ones(1)

    def near(self, x: Point) -> GaussianPosterior | None:
        """The q at x, warm-started at the last q that this method found; None on failure."""
        found = self._found(x, (*self._latest, *self._anchor, None))
        if found is not None:
            self._latest[:] = [found]
        return found

    def _found(
        self, x: Point, starts: Iterable[GaussianPosterior | None]
    ) -> GaussianPosterior | None:
        """The q at x, from the first of these starts that leads to one."""
        with np.errstate(all="ignore"):
            for start in starts:
                try:
                    return self.fit(x, start)
                except _FAILURES:
                    continue
        return None

    def _at(self, x: Point) -> GaussianPosterior | None:
        """The q at x, independent of earlier evaluations."""
        return self._found(x, (*self._anchor, None))

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, "B"]:
        """Log density at x; minus infinity where the arithmetic fails."""
        with np.errstate(all="ignore"):
            out = np.array([self._value(each, self._at(each)) for each in x])
            out = out + self.coordinates.log_prior(x)[0]
        return np.where(np.isfinite(out), out, -np.inf)

    def value_and_gradient(self, x: Point) -> tuple[float, Point]:
        """Log density and gradient at x; minus infinity and zero on failure."""
        return self._with_gradient(x, self._refined)

    def bound_and_gradient(self, x: Point) -> tuple[float, Point]:
        """Like `value_and_gradient`, for T without its correction."""
        return self._with_gradient(x, self._bound)

    def _with_gradient(
        self, x: Point, density: Callable[[Point, GaussianPosterior], tuple[float, Point]]
    ) -> tuple[float, Point]:
        """Adds the prior to an approximation of log p(y | theta), with its gradient."""
        found = self._at(x)
        if found is not None and found.left < NEXT_TO:
            self._gathered.add(x, *self.working.next(found))
        with np.errstate(all="ignore"):
            prior, slope = self.coordinates.log_prior(x[None])
        if found is None or not np.isfinite(found.value + prior[0]):
            return -np.inf, np.zeros_like(x)
        try:
            with np.errstate(all="ignore"):
                value, gradient = density(x, found)
        except _FAILURES:
            return -np.inf, np.zeros_like(x)
        value, gradient = value + float(prior[0]), gradient + slope[0]
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return -np.inf, np.zeros_like(x)
        return value, gradient

    def _refined(self, x: Point, q: GaussianPosterior) -> tuple[float, Point]:
        """T with its correction, and the gradient, given q at x."""
        at = self._roots_and_numbers(x)
        direct = None
        if self.refinement is not None:
            direct = self._refinement_at(x).slopes(q, *at)
        if direct is not None:
            value, by_root, by_number = direct
            slope = -0.5 * self._slopes(x, q, self._log_det)
            return value, self._along(x, by_root, by_number) + slope
        value, gradient = self._bound(x, q)
        if self.refinement is None:
            return value, gradient
        value += self._refinement_at(x).correction(q, *at)
        return value, gradient + self._slopes(x, q, self._correction)

    def _bound(self, x: Point, q: GaussianPosterior) -> tuple[float, Point]:
        """T and its gradient, given q at x."""
        derivatives = q.solution.root_derivatives()
        by_root = {f: -0.5 * (a + b) for f, (a, b) in enumerate(derivatives)}
        numbers = self._roots_and_numbers(x)[1]
        by_number = self.working.averages.by_number(numbers, q.mean, q.covariance)
        layout = self._working_at(x).layout
        by_scale: dict[str, float] = {}
        if layout.mixtures:
            variance = np.diagonal(q.solution.common_covariance[0])
            by_scale = layout.mixture_slopes(q.solution.common[0], variance)
        return q.value, self._along(x, by_root, {**by_number, **by_scale})

    def _along(
        self, x: Point, by_root: Mapping[int, Float[Array, "_ _"]], by_number: FamilyValues
    ) -> Point:
        """Gradient in the coordinates at x, by the chain rule."""
        by_value = scale_derivatives(self.mixed.groupings, self.sites(x), by_root)
        return self.coordinates.gradient(x, {**by_value, **by_number})

    def _value(self, x: Point, q: GaussianPosterior | None) -> float:
        """T with its correction, given q at x; minus infinity without a q."""
        if q is None or self.refinement is None:
            return -np.inf if q is None else q.value
        return q.value + self._refinement_at(x).correction(q, *self._roots_and_numbers(x))

    def _correction(self, x: Point, model: WorkingModel | None, q: GaussianPosterior) -> float:
        """The correction at x, at the extrapolated working model if there is one."""
        at = self._roots_and_numbers(x)
        working = self._working_at(x)
        found = working.from_working_model(*at, *model) if model else self._exact(x, q)
        return self._refinement_at(x).correction(found, *at)

    def _log_det(self, x: Point, model: WorkingModel | None, q: GaussianPosterior) -> float:
        """Log |X' V^-1 X + P| at x, of the extrapolated working model if there is one."""
        if model:
            return self._working_at(x).log_det_common(self._roots_and_numbers(x)[0], *model)
        return float(self._exact(x, q).solution.log_det_common[0])

    def _exact(self, x: Point, q: GaussianPosterior) -> GaussianPosterior:
        """The q at x, searched closely enough for derivatives by differences."""
        return self._working_at(x).fit(*self._roots_and_numbers(x), q, left=_LEFT_FOR_DIFFERENCES)

    def _slopes(
        self,
        x: Point,
        q: GaussianPosterior,
        value: Callable[[Point, WorkingModel | None, GaussianPosterior], float],
    ) -> Point:
        """Gradient of a value at x by forward differences.

        The working models at the steps are extrapolated where possible, which takes no search for q
        and leaves no errors of a search in the differences. Far from the stored points an
        extrapolated model may have a system that is not positive definite; then q is searched for.

        Raises:
            ArithmeticError: if a q that has to be searched for is not found.
        """
        steps = _STEP * self.width
        places = [x, *(x + step for step in np.diag(steps))]

        def differences(models: Sequence[WorkingModel | None]) -> Point:
            each = zip(places, models, strict=True)
            here, *beside = (value(place, model, q) for place, model in each)
            return (np.array(beside) - here) / steps

        extrapolated = self._extrapolator.around(x, steps)
        if extrapolated is not None:
            with suppress(*_FAILURES):
                return differences(extrapolated)
        return differences([None] * len(places))
