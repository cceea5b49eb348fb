"""The marginal posterior of the hyperparameters of a Gaussian linear mixed model.

The coefficients are integrated out in closed form. With relative roots Lambda and the penalized
residual sum of squares r^2 of ``pwls.solver``, and the prior precision P of the common effects,

    log p(y | theta) = -1/2 [(n - p0) log(2 pi sigma^2) - log|W| + log|M| - log|sigma^2 P|+
                             + r^2 / sigma^2]

    log|M| = log|Lambda' Z'WZ Lambda + I| + log|X' V^-1 X + sigma^2 P|

Here p0 is the number of common effects with a flat prior, and |.|+ is the determinant over those
with a normal prior. An evaluation needs only the cross-products. A common effect with a t prior
is normal given a scale, and one with a uniform prior nearly so given a mean; these are additional
hyperparameters (`NormalMixture`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.inference.hyperparameters.coordinates import (
    Coordinates,
    CorrelationCoordinates,
    ScaleCoordinate,
)
from ranef.inference.lmm.model import (
    BoundedEffect,
    HeavyTail,
    LinearMixedModel,
    NormalMixture,
    RandomEffectsTerm,
)
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.inference.pwls.solver import Solution
from ranef.numerics.blas_threads import side_by_side
from ranef.numerics.shapes import Float, Numbers
from ranef.priors import Prior

Array = NDArray[np.float64]

# Approximate number of coefficients of one level that determine the scale and each length scale
# of a spectrum: few columns of its basis have most of the variance.
_INFORMATIVE = 3


@dataclass(frozen=True)
class LMMHyperposterior:
    """The log density log p(theta | y) up to a constant, in unconstrained coordinates x.

    Attributes:
        mixed: the model and its cross-products.
        coordinates: the map from x to the unknown hyperparameters.
        known: values of the fixed hyperparameters by site.
        start: start of the search for the mode.
        sds: approximate posterior sds of the coordinates of bounded common effects, by name.
    """

    mixed: LinearMixedModel
    coordinates: Coordinates
    known: Mapping[str, float]
    start: Float[Array, "d"]
    sds: Mapping[str, float] = field(default_factory=dict)
    # `solve` takes several values of the hyperparameters at once.
    solves_many = True

    @property
    def cost(self) -> int:
        """Cost of one solution in array elements; it does not depend on the number of rows."""
        return self.mixed.solver.cost

    @classmethod
    def of(
        cls, mixed: LinearMixedModel, by_name: Mapping[str, Prior], response_scale: float
    ) -> "LMMHyperposterior":
        """The density under these priors, with a start from the cross-products.

        Args:
            mixed: the model and its cross-products.
            by_name: priors by name.
            response_scale: scale of the response. The residual sd starts at no less than 1e-6 of
                it, and scales of columns of zeros at twice its value.
        """
        known: dict[str, float] = {}
        scales: list[ScaleCoordinate] = []
        start: list[float] = []
        residual = _residual(mixed) if mixed.sigma else 1.0
        if mixed.sigma:
            prior = by_name[mixed.sigma]
            if isinstance(prior, priors.Fixed):
                known[mixed.sigma] = residual = prior.value
            else:
                residual = max(residual, 1e-6 * response_scale)
                scales.append(ScaleCoordinate.of(mixed.sigma, prior, residual, folds=False))
                start.append(scales[-1].place(getattr(prior, "start", None) or residual))
        correlations = []
        for grouping in mixed.groupings:
            for each in scale_starts(mixed, grouping, residual, response_scale):
                prior = by_name[each.name]
                if isinstance(prior, priors.Fixed):
                    known[each.name] = prior.value
                if each.name in known or each.name in {scale.name for scale in scales}:
                    continue
                scales.append(ScaleCoordinate.of(each.name, prior, each.unit, folds=each.folds))
                start.append(scales[-1].place(getattr(prior, "start", None) or each.start))
            if grouping.cholesky:
                eta = float(getattr(by_name[grouping.correlation], "eta", 1.0))
                correlations.append(
                    (
                        CorrelationCoordinates(grouping.cholesky, grouping.width, eta),
                        grouping.scales,
                    )
                )
        sds: dict[str, float] = {}
        bounded = [m for m in mixed.mixtures if isinstance(m, BoundedEffect)]
        means, widths = cls._as_normal(mixed, by_name, response_scale) if bounded else ([], [])
        for mixture in mixed.mixtures:
            scales.append(mixture.coordinate())
            if isinstance(mixture, HeavyTail):
                start.append(scales[-1].place(mixture.scale))
            elif isinstance(mixture, BoundedEffect):
                sd = float(widths[mixture.column])
                value = mixture.within(float(means[mixture.column]), sd)
                start.append(float(scales[-1].inverse(value)))
                sds[mixture.name] = sd / float(scales[-1].slope(start[-1]))
        coordinates = Coordinates(scales, correlations)
        places = np.zeros(coordinates.size)
        places[: len(start)] = start
        return cls(mixed, coordinates, known, places, sds)

    @classmethod
    def _as_normal(
        cls, mixed: LinearMixedModel, by_name: Mapping[str, Prior], response_scale: float
    ) -> tuple[Float[Array, "p"], Float[Array, "p"]]:
        """Means and sds of the common effects at the starting scales, all priors being normal."""
        normal = cls.of(replace(mixed, mixtures=()), by_name, response_scale)
        solution, sigma = normal.solve(normal.start)
        variances = np.diagonal(solution.common_covariance[0])
        return solution.common[0], sigma[0] * np.sqrt(variances)

    @property
    def width(self) -> Float[Array, "d"]:
        """Approximate posterior sd of each coordinate, from its number of observations.

        The log of an sd that is estimated from m normal values has an sd of about 1 / sqrt(2 m),
        a correlation (on the scale of its Fisher transform) one of about 1 / sqrt(m).
        """
        out = np.empty(self.coordinates.size)
        levels = {
            name: g.levels * max(1, g.scales.count(name)) * (_INFORMATIVE if g.spectrum else 1)
            for g in self.mixed.groupings
            for name in (*g.scales, g.cholesky)
        }
        # The hyperparameter of a mixture has one observation, its coefficient.
        levels.update({mixture.name: 1 for mixture in self.mixed.mixtures})
        for i, scale in enumerate(self.coordinates.scales):
            out[i] = 1 / math.sqrt(2 * levels.get(scale.name, self.mixed.n))
            out[i] = min(out[i], self.sds.get(scale.name, np.inf))
        for (correlation, _), place in zip(
            self.coordinates.correlations, self.coordinates.slices, strict=True
        ):
            out[place] = 1 / math.sqrt(levels[correlation.name])
        return np.minimum(out, 0.5)

    @property
    def lengths(self) -> list[int]:
        """Indices of the coordinates of length scales, in which there may be several modes."""
        names = {name for g in self.mixed.groupings if g.spectrum for name in g.spectrum.starts}
        return [i for i, scale in enumerate(self.coordinates.scales) if scale.name in names]

    @cached_property
    def _fixed_prior(self) -> tuple[Float[Array, "q q"], float, int]:
        """The priors of the common effects that do not depend on hyperparameters.

        Returns:
            The penalty divided by sigma^2 of normal priors, their log|P|+, and the number of flat
            priors.
        """
        precision = self.mixed.precision.copy()
        flat = int((precision == 0).sum())
        precision[[mixture.column for mixture in self.mixed.mixtures]] = 0.0
        penalty = self.mixed.solver.penalty(self.mixed.mean, precision)
        return penalty, float(np.log(precision[precision > 0]).sum()), flat

    @cached_property
    def _penalties(self) -> dict[str, tuple[Float[Array, "q q"], ...]]:
        """By name, the penalty of each mixture at a precision of one, as a polynomial.

        The penalty at a prior mean of m is the sum of the three matrices times 1, t and t^2, where
        t is m less the mean of the prior.
        """
        solver, mean = self.mixed.solver, self.mixed.mean
        out = {}
        for mixture in self.mixed.mixtures:
            unit = np.eye(solver.p)[mixture.column]
            at, above, below = (solver.penalty(mean + t * unit, unit) for t in (0.0, 1.0, -1.0))
            out[mixture.name] = at, (above - below) / 2, (above + below) / 2 - at
        return out

    def _mixture_penalty(
        self, mixture: NormalMixture, value: Numbers
    ) -> tuple[Float[Array, "... q q"], Numbers]:
        """The penalty of a mixture divided by sigma^2, and its precision."""
        mean = float(self.mixed.mean[mixture.column])
        middle, precision = mixture.normal(value, mean)
        t = np.asarray(middle - mean)[..., None, None]
        at, linear, square = self._penalties[mixture.name]
        scale = np.asarray(precision)
        return scale[..., None, None] * (at + t * linear + t**2 * square), scale

    def _prior(self, values: Mapping[str, Numbers]) -> tuple[Float[Array, "... q q"], Numbers, int]:
        """The penalty divided by sigma^2, log|P|+ and the number of flat priors."""
        penalty, log_precision, flat = self._fixed_prior
        log_det: Numbers = log_precision
        for mixture in self.mixed.mixtures:
            own, precision = self._mixture_penalty(mixture, values[mixture.name])
            penalty = penalty + own
            log_det = log_det + np.log(precision)
        return penalty, log_det, flat

    def sites(self, x: Float[Array, "*batch d"]) -> dict[str, Numbers]:
        """All hyperparameters by site at x, including fixed ones."""
        values = self.coordinates.values(x)
        for name, value in self.known.items():
            values[name] = np.full(x.shape[:-1], value)
        return values

    def absolute(self, values: Mapping[str, Numbers]) -> list[Float[Array, "*_batch _k _k"]]:
        """By term, the Cholesky factor of the effects' covariance (not relative)."""
        out = []
        for grouping in self.mixed.groupings:
            sd = grouping.sds(values)
            if grouping.cholesky:
                out.append(sd[..., None] * values[grouping.cholesky])
            else:
                out.append(sd[..., None] * np.eye(grouping.width))
        return out

    def _sigma(self, values: Mapping[str, Numbers], shape: tuple[int, ...]) -> Array:
        return np.asarray(values[self.mixed.sigma]) if self.mixed.sigma else np.ones(shape)

    def solve(
        self, x: Float[Array, "B d"] | Float[Array, "d"]
    ) -> tuple[Solution, Float[Array, "B"]]:
        """The posterior of the coefficients at x, and the residual sd sigma."""
        x = np.atleast_2d(x)
        values = self.sites(x)
        sigma = self._sigma(values, x.shape[:-1])
        roots = [root / sigma[:, None, None] for root in self.absolute(values)]
        penalty = sigma[:, None, None] ** 2 * self._prior(values)[0]
        return self.mixed.solver.solve(self.mixed.roots(roots), penalty), sigma

    def _likelihood(
        self, x: Float[Array, "B d"] | Float[Array, "d"]
    ) -> tuple[Float[Array, "B"], Solution, Float[Array, "B"]]:
        """Log p(y | theta) at x, the posterior of the coefficients, and sigma."""
        solution, sigma = self.solve(x)
        values = self.sites(np.atleast_2d(x)) if self.mixed.mixtures else {}
        _, log_precision, flat = self._prior(values)
        log_det = solution.log_det_random + solution.log_det_common
        normal = self.mixed.solver.p - flat
        value = -0.5 * (
            (self.mixed.n - flat) * np.log(2 * np.pi * sigma**2)
            - self.mixed.log_weights
            + log_det
            - log_precision
            - 2 * normal * np.log(sigma)
            + solution.residual / sigma**2
        )
        return value, solution, sigma

    def log_likelihood(self, x: Float[Array, "d"]) -> float:
        """The log marginal likelihood log p(y | theta) at x, without the prior of theta."""
        return float(self._likelihood(x)[0][0])

    def log_density(self, x: Float[Array, "B d"]) -> Float[Array, "B"]:
        """The log density at x; minus infinity where the factorization fails."""
        solver = self.mixed.solver

        def of_chunk(chunk: slice) -> Array:
            with np.errstate(all="ignore"):
                try:
                    return self._likelihood(x[chunk])[0]
                except DependentColumnError:
                    return np.full(len(x[chunk]), -np.inf)

        found = np.concatenate(side_by_side(of_chunk, solver.chunks(len(x)), solver.largest))
        with np.errstate(all="ignore"):
            out = found + self.coordinates.log_prior(x)[0]
        return np.where(np.isfinite(out), out, -np.inf)

    def value_and_gradient(self, x: Float[Array, "d"]) -> tuple[float, Float[Array, "d"]]:
        """The log density and its gradient at x.

        They are minus infinity and zeros where the factorization fails.
        """
        with np.errstate(all="ignore"):
            try:
                found, solution, sigma_ = self._likelihood(x)
            except DependentColumnError:
                return -np.inf, np.zeros_like(x)
            value = float(found[0])
            prior, slope = self.coordinates.log_prior(x[None])
            if not np.isfinite(value + prior[0]):
                return -np.inf, np.zeros_like(x)
        sigma = float(sigma_[0])
        values = {name: np.asarray(v)[0] for name, v in self.sites(x[None]).items()}
        derivatives = solution.root_derivatives()
        by_root = {
            f: -0.5 * (log_det + residual / sigma**2) / sigma
            for f, (log_det, residual) in enumerate(derivatives)
        }
        by_value = scale_derivatives(self.mixed.groupings, values, by_root)
        turning = 0.0
        for grouping, root in zip(self.mixed.groupings, self.absolute(values), strict=True):
            own = by_root[grouping.factor][grouping.columns, grouping.columns]
            turning -= float((own * root).sum())
        if self.mixed.sigma:
            penalty, _, flat = self._prior(values)
            by_penalty = solution.penalty_derivatives(penalty * sigma**2)
            normal = self.mixed.solver.p - flat
            turning -= self.mixed.n - flat - normal
            turning -= by_penalty[0] + by_penalty[1] / sigma**2
            turning += float(solution.residual[0]) / sigma**2
            by_value[self.mixed.sigma] = np.asarray(turning / sigma)
        for mixture in self.mixed.mixtures:
            given = values[mixture.name]
            own, precision = self._mixture_penalty(mixture, given)
            middle = mixture.normal(given, float(self.mixed.mean[mixture.column]))[0]
            variance, square = solution.penalty_derivatives(own / precision)
            by_value[mixture.name] = mixture.slope(
                float(precision),
                float(solution.common[0, mixture.column] - middle),
                sigma**2 * variance + square,
            )
        gradient = self.coordinates.gradient(x, by_value) + slope[0]
        return value + float(prior[0]), gradient


def scale_derivatives(
    groupings: Sequence[RandomEffectsTerm],
    values: Mapping[str, Numbers],
    by_root: Mapping[int, Float[Array, "_k _k"]],
) -> dict[str, Numbers]:
    """Chain rule from the Cholesky factors of the covariances to scales and correlations.

    Args:
        groupings: the terms with group effects.
        values: scales and Cholesky factors of the correlations, by site.
        by_root: by factor, derivative in the Cholesky factor of its covariance.

    Returns:
        Derivatives by site.
    """
    out: dict[str, Numbers] = {}
    for grouping in groupings:
        own = by_root[grouping.factor][grouping.columns, grouping.columns]
        shape = values[grouping.cholesky] if grouping.cholesky else np.eye(grouping.width)
        by_sd = np.einsum("cd,cd->c", own, shape)
        for name, slope in grouping.by_scale(values, by_sd).items():
            out[name] = out.get(name, 0.0) + slope
        if grouping.cholesky:
            out[grouping.cholesky] = own * grouping.sds(values)[:, None]
    return out


@dataclass(frozen=True)
class ScaleStart:
    """Start value and unit of one scale.

    Attributes:
        name: site of the scale.
        unit: approximate size at which the data can just distinguish the scale from zero.
        start: start of the search for the mode.
        folds: whether zero is a possible value, as for an sd but not for a length scale.
    """

    name: str
    unit: float
    start: float
    folds: bool = True


def scale_starts(
    mixed: LinearMixedModel, grouping: RandomEffectsTerm, residual: float, response_scale: float
) -> list[ScaleStart]:
    """Start values and units of all scales of a term.

    Args:
        mixed: the model and its cross-products.
        grouping: the term.
        residual: residual sd.
        response_scale: scale of the response, which is used for columns of zeros.
    """
    own = mixed.solver.products.own[grouping.factor]
    place = range(grouping.columns.start, grouping.columns.stop)
    if not grouping.is_tied:
        information = [float(own[column, column].mean()) for column in place]
        units = [residual / math.sqrt(i) if i > 0 else response_scale for i in information]
        return [
            ScaleStart(name, unit, 2 * unit)
            for name, unit in zip(grouping.scales, units, strict=True)
        ]
    per_row = float(np.mean([own[column, column].sum() for column in place])) / mixed.n
    row = residual / math.sqrt(per_row) if per_row > 0 else response_scale
    # All columns inform one scale, so that a smaller one than for a single row can be detected.
    unit = row * min(1.0, math.sqrt(_INFORMATIVE * grouping.levels / mixed.n))
    lengths = grouping.spectrum.starts if grouping.spectrum else {}
    return [
        ScaleStart(name, 1.0, lengths[name], folds=False)
        if name in lengths
        else ScaleStart(name, unit, 0.5 * row)
        for name in dict.fromkeys(grouping.scales)
    ]


def _residual(mixed: LinearMixedModel) -> float:
    """The residual sd of a least-squares fit of the common effects alone."""
    return math.sqrt(mixed.least_residual / max(1, mixed.n - mixed.solver.p))
