"""`Draws` of a model whose coefficients are integrated out, for the methods that do so.

The hyperparameters theta have been drawn from their density. Draws and moments of the coefficients
come from their normal posterior given each theta (``coefficient_posterior``).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.inference.base import Draws
from ranef.inference.hyperparameters.coordinates import Coordinates
from ranef.inference.hyperparameters.sampler import HyperDraws
from ranef.inference.lmm.coefficient_posterior import CoefficientPosterior
from ranef.inference.lmm.conditional_posterior import ConditionalPosterior
from ranef.lazy import ArrayLike
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]


@runtime_checkable
class _Hyperposterior(ConditionalPosterior, Protocol):
    """The conditional posterior of the coefficients, and the coordinates of theta."""

    @property
    def coordinates(self) -> Coordinates: ...


def integrated_draws(
    target: _Hyperposterior,
    found: HyperDraws,
    x: Float[Array, "draws d"],
    points: Mapping[str, ArrayLike],
    seed: int,
    message: str,
) -> Draws:
    """The posterior of all sites, from draws of the hyperparameters.

    Args:
        target: the density of the hyperparameters, with the posterior of the coefficients.
        found: how the hyperparameters were drawn.
        x: their draws in all coordinates, those of point estimates included.
        points: point estimates by site, which are no draws.
        seed: seed of the draws of the coefficients.
        message: how the method ended.
    """
    # The hyperparameters of mixtures are coordinates of the search, and no sites of the program.
    hidden = {*points, *(mixture.name for mixture in target.mixed.mixtures)}
    values = target.coordinates.values(x)
    hyper = {name: np.asarray(value)[None] for name, value in values.items() if name not in hidden}
    coefficients = CoefficientPosterior(target, x, seed)
    drawn = Draws(
        dict,
        points,
        {},
        found.found and found.reliable,
        message,
        found.evaluations,
        k_hat=found.k_hat,
        evidence=found.evidence,
    )
    return with_coefficients(drawn, coefficients, lambda: coefficients.sites(hyper))


def with_coefficients(
    drawn: Draws,
    coefficients: CoefficientPosterior,
    draw: Callable[[], Mapping[str, Array]],
) -> Draws:
    """The result of a method with the coefficients of a model whose hyperparameters it has drawn.

    Args:
        drawn: the result for the hyperparameters.
        coefficients: their posterior given the hyperparameters.
        draw: makes the draws of all sites, as from `CoefficientPosterior.sites`.
    """
    return replace(
        drawn,
        draw=draw,
        analytic_moments=coefficients.moments,
        lazy_sites=tuple(coefficients.group_sites),
        effect_sampler=lambda: coefficients.effects,
    )
