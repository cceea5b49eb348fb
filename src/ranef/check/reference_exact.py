"""Computes a reference posterior for models whose coefficients integrate out in closed form.

Given the hyperparameters theta, all coefficients of a Gaussian model are jointly normal, so that
p(theta | y) is known exactly. Theta is drawn from it as the exact method does, and the moments of
the coefficients are averages of their exact conditional moments over these draws.

Two k-hat values are computed. One is that of q for theta and the common effects, with the group
effects integrated out. The other is that of single group effects: an effect, standardised by its
exact conditional mean and sd at each draw's theta, is N(0, 1) under the posterior.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.deadline import Deadline
from ranef.check.reference import (
    ByLevel,
    Draws,
    Matrix,
    NoReference,
    Reference,
    ScaleDraws,
    Vector,
    normal_k_hat,
    scale_coordinate,
)
from ranef.errors import RanefError
from ranef.inference.hyperparameters.sampler import sample
from ranef.inference.lmm.coefficient_posterior import CoefficientPosterior
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import effects_by_site
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.lazy import ArrayLike
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.psis import smoothed
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem
from ranef.terms.base import CENTRED

Array = NDArray[np.float64]

# Draws of theta for the reference.
_DRAWS = 10_000
# Draws of q at whose theta the conditional moments of single effects are computed.
_AT = 400
# Levels whose k-hat is computed, over all groupings.
_LEVELS = 100
# Why there is no reference for t priors: their mixing scales are hyperparameters that a fit does
# not keep.
HIDDEN = "t priors of common effects have scales that the draws do not hold"
# Draws of theta over which moments of the common effects are averaged, if evaluations are
# expensive.
_FEW = 64


def closed(posterior: Posterior, problem: Problem, deadline: Deadline) -> Reference | NoReference:
    """Compute the reference from draws of the exact density of theta.

    Args:
        posterior: the fit that is checked.
        problem: its model and rows.
        deadline: when to stop.

    Returns:
        The reference, or the reason why there is none: no closed form, t priors, evaluations that
        take too long, or draws that are not reliable.

    Raises:
        OutOfTimeError: if the deadline passes.
    """
    if problem.windows:
        return NoReference("rows are read in batches")
    problem = held(problem, posterior.draws.points)
    try:
        mixed = accumulate(problem, "check")
        if mixed.mixtures:
            return NoReference(HIDDEN)
        if not mixed.solver.is_affordable:
            return NoReference("the exact density of the scales takes too long to evaluate")
        with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
            marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
            return _compared(posterior, problem, marginal, deadline)
    except (RanefError, ArithmeticError, np.linalg.LinAlgError) as error:
        # The model has no closed form, or not at double precision.
        return NoReference(str(error))


def held(problem: Problem, points: Mapping[str, ArrayLike]) -> Problem:
    """The problem with scalar point estimates, effects excepted, fixed at the fit's values."""
    blocks = [block for block in problem.unit_blocks().values() if block is not None]
    effects = {name for block in blocks for name, _ in block.sites}
    scales = {name: value for name, value in points.items() if name not in effects}
    held_priors = {
        name: priors.Fixed(float(np.asarray(scales[name])))
        if isinstance(prior, priors.PointEstimate) and name in scales and not np.ndim(scales[name])
        else prior
        for name, prior in problem.priors.items()
    }
    return replace(problem, priors=held_priors)


@dataclass(frozen=True)
class _Target:
    """The exact density of theta, with the methods that `sample` needs."""

    marginal: LMMHyperposterior

    def log_density(self, x: Draws) -> Float[Array, "draws"]:
        return self.marginal.log_density(x)

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        return self.marginal.value_and_gradient(x)

    def canonical(self, x: Draws) -> Draws:
        return self.marginal.coordinates.canonical(x)

    def folds(self) -> list[tuple[int, Vector]]:
        coordinates = self.marginal.coordinates
        return [(i, coordinates.signs([i])) for i in coordinates.folded]


def _compared(
    posterior: Posterior, problem: Problem, marginal: LMMHyperposterior, deadline: Deadline
) -> Reference | NoReference:
    mixed, coordinates = marginal.mixed, marginal.coordinates
    found = sample(
        _Target(marginal),
        marginal.start,
        marginal.width,
        np.random.default_rng(0),
        _DRAWS,
        cheap=mixed.solver.is_cheap,
        tick=deadline.tick,
    )
    if not (found.found and found.reliable):
        return NoReference("draws from the exact density of the scales were not reliable")
    sites = posterior.draws.sites
    flat = {name: _flat(sites[name]) for name in sites}
    names = [scale.name for scale in coordinates.scales]
    names += [correlation.name for correlation, _ in coordinates.correlations]
    size = len(next(iter(flat.values())))
    x = coordinates.inverse({name: flat[name] for name in names}) if names else np.zeros((size, 0))
    beta = [flat[name].reshape(size, -1) for name, _ in mixed.common]
    beta = np.concatenate([np.zeros((size, 0)), *beta], axis=1)
    exact = found.x if mixed.solver.is_cheap else found.x[:_FEW]
    means, inner = _common(marginal, exact)
    # Moments of theta alone are over all draws, those with common effects over `exact`.
    away, own = means - means.mean(axis=0), theta_coordinates(marginal, exact, found.x)
    theta = theta_coordinates(marginal, found.x, found.x)
    covariance = np.block(
        [
            [_covariance(theta), (own - own.mean(axis=0)).T @ away / len(exact)],
            [away.T @ (own - own.mean(axis=0)) / len(exact), _covariance(means) + inner],
        ]
    )
    levels = _levels(marginal, found.x, flat)
    worst, seen = _level_k_hat(marginal, x, flat)
    return Reference(
        (*phi_labels(posterior, marginal), *_common_labels(posterior, marginal)),
        np.concatenate([theta_coordinates(marginal, x, found.x), beta], axis=1),
        np.concatenate([theta.mean(axis=0), means.mean(axis=0)]),
        covariance,
        float(_DRAWS),
        _k_hat(marginal, x, beta) if posterior.draws.is_gaussian_guide else None,
        reported_scales(posterior, marginal, x, found.x, np.full(len(found.x), 1 / _DRAWS)),
        levels,
        worst,
        seen,
        source=f"{_DRAWS:,} draws from the exact density of the scales",
    )


def _flat(values: Float[Array, "chains draws *site"]) -> Float[Array, "all *site"]:
    """The draws of all chains in one axis."""
    array = np.asarray(values, np.float64)
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _covariance(values: Draws) -> Matrix:
    away = values - values.mean(axis=0)
    return away.T @ away / len(values)


def theta_coordinates(marginal: LMMHyperposterior, x: Draws, about: Float[Array, "_ d"]) -> Draws:
    """Theta in the coordinates of a `Reference`.

    Args:
        marginal: the density of theta.
        x: draws in its coordinates.
        about: draws whose medians are the m in asinh(t / m).
    """
    out = x.copy()
    for i, scale in enumerate(marginal.coordinates.scales):
        middle = float(np.median(np.abs(scale.value(about[:, i]))))
        out[:, i] = scale_coordinate(np.abs(scale.value(x[:, i])), middle)
    return out


def reported_scales(
    posterior: Posterior,
    marginal: LMMHyperposterior,
    x: Draws,
    exact: Float[Array, "weighted d"],
    weights: Float[Array, "weighted"],
) -> dict[str, ScaleDraws]:
    """The positive parameters as `Reference.scales` has them.

    Args:
        posterior: the fit.
        marginal: the density of theta.
        x: draws of q.
        exact: draws of the reference.
        weights: weights of the draws of the reference.
    """
    return {
        posterior.site_labels(scale.name, 1)[0]: (
            np.abs(scale.value(x[:, i])),
            np.abs(scale.value(exact[:, i])),
            weights,
        )
        for i, scale in enumerate(marginal.coordinates.scales)
    }


def phi_labels(posterior: Posterior, marginal: LMMHyperposterior) -> list[str]:
    """Labels of the coordinates of theta."""
    coordinates = marginal.coordinates
    out = [posterior.site_labels(scale.name, 1)[0] for scale in coordinates.scales]
    for grouping in marginal.mixed.groupings:
        for correlation, _ in coordinates.correlations:
            if correlation.name == grouping.cholesky:
                name = grouping.correlation.removesuffix(CENTRED)
                out += [name] * len(correlation.places)
    return out


def _common_labels(posterior: Posterior, marginal: LMMHyperposterior) -> list[str]:
    out = []
    for name, count in marginal.mixed.common:
        out += posterior.site_labels(name, count)
    return out


def _common(
    marginal: LMMHyperposterior, x: Draws
) -> tuple[Float[Array, "draws p"], Float[Array, "p p"]]:
    """Conditional means of the common effects, and their mean conditional covariance."""
    p = marginal.mixed.solver.p
    means, covariance = np.empty((len(x), p)), np.zeros((p, p))
    for rows in marginal.mixed.solver.chunks(len(x)):
        solution, sigma = marginal.solve(x[rows])
        means[rows] = solution.common
        covariance += (solution.common_covariance * sigma[:, None, None] ** 2).sum(axis=0)
    return means, covariance / len(x)


def _k_hat(marginal: LMMHyperposterior, x: Draws, beta: Float[Array, "draws p"]) -> float | None:
    """k-hat of q for theta and the common effects beta; None if evaluations are expensive.

    The target is log p(theta | y) + log N(beta; E[beta | theta, y], var[beta | theta, y]).

    Args:
        marginal: the density of theta.
        x: draws of theta by q.
        beta: draws of the common effects by q.
    """
    if not marginal.mixed.solver.is_cheap:
        return None
    log_p = marginal.log_density(x)
    for rows in marginal.mixed.solver.chunks(len(x)):
        solution, sigma = marginal.solve(x[rows])
        covariance = solution.common_covariance * sigma[:, None, None] ** 2
        away = beta[rows] - solution.common
        if beta.shape[1]:
            inside = (away * np.linalg.solve(covariance, away[..., None])[..., 0]).sum(axis=1)
            log_p[rows] -= 0.5 * (inside + np.linalg.slogdet(covariance)[1])
    z = x.copy()
    for i, scale in enumerate(marginal.coordinates.scales):
        if scale.kind != "interval":
            # Guides are normal in the logarithm of scales, so that the target is the density of
            # the logarithm.
            value = scale.value(x[:, i])
            z[:, i] = np.log(value)
            log_p = log_p + np.log(value / scale.slope(x[:, i]))
    return normal_k_hat(np.concatenate([z, beta], axis=1), log_p)


def _levels(
    marginal: LMMHyperposterior, x: Draws, flat: Mapping[str, Float[Array, "_ ..."]]
) -> dict[str, tuple[ByLevel, ByLevel, ByLevel, ByLevel]]:
    """`Reference.levels`: means and sds of the group effects under q and the posterior."""
    coefficients = CoefficientPosterior(marginal, x, 0)
    known, out = coefficients.moments(), {}
    for name in coefficients.group_sites:
        if name in flat:
            mean, sd = known[name]
            own = flat[name]
            both = (own.mean(axis=0), own.std(axis=0, ddof=1), mean, sd)
            left, left_sd, right, right_sd = (np.ravel(part) for part in both)
            out[name] = (left, left_sd, right, right_sd)
    return out


def _level_k_hat(
    marginal: LMMHyperposterior, x: Draws, flat: Mapping[str, Float[Array, "draws ..."]]
) -> tuple[float | None, int]:
    """The largest k-hat of single group effects, and the number of levels it was computed for.

    Each effect is standardised by its conditional moments given theta, so that its target is
    N(0, 1). Its density under q is taken as normal with the moments of the standardised draws.
    None if evaluations are expensive or there are no groupings.
    """
    mixed = marginal.mixed
    worst, seen = -np.inf, 0
    if not mixed.solver.is_cheap or not mixed.groupings:
        return None, 0
    at = np.unique(np.linspace(0, len(x) - 1, _AT).astype(int))
    parts = [marginal.solve(x[at][rows]) for rows in mixed.solver.chunks(len(at))]
    cap = max(1, _LEVELS // len(mixed.groupings))
    for grouping in mixed.groupings:
        f = grouping.factor
        mean = np.concatenate([solution.effects[f] for solution, _ in parts])
        sd = np.concatenate(
            [np.sqrt(solution.effect_variances[f]) * s[:, None, None] for solution, s in parts]
        )
        means, sds = effects_by_site(grouping, mean), effects_by_site(grouping, sd)
        looked = np.unique(np.linspace(0, grouping.levels - 1, cap).astype(int))
        seen += len(looked)
        for name, _ in grouping.sites:
            if name not in flat or grouping.shared:
                continue
            noise = (flat[name][at] - means[name]) / sds[name]
            noise = noise[:, looked].reshape(len(at), -1)
            for e in noise.T:
                if not np.isfinite(e).all() or e.std() == 0:
                    continue
                log_q = -0.5 * ((e - e.mean()) / e.std()) ** 2
                worst = max(worst, smoothed(-0.5 * e**2 - log_q)[1])
    return (float(worst) if np.isfinite(worst) else None), seen
