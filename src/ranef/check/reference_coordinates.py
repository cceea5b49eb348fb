"""Coordinates in which draws of a fit and of a reference are compared, read off its program.

A positive parameter t is asinh(t / m), with m its posterior median; all others are unconstrained
as NumPyro transforms them (see ``reference``).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.check.joint_density import JointDensity
from ranef.check.reference import Draws, ScaleDraws, scale_coordinate
from ranef.lazy import jax, jnp
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Latent

# A site counts as bounded by zero if its value at the unconstrained coordinate -_FAR lies in
# [0, _NOTHING). The limit is not zero, because NumPyro's logistic function is clipped at the
# smallest positive number.
_FAR = 1e4
_NOTHING = 1e-300


def coordinates(
    posterior: Posterior,
    joint: JointDensity,
    sites: Mapping[str, Float[NDArray, "draws ..."]],
    phi: Float[NDArray, "weighted d"],
    weights: Float[NDArray, "weighted"],
) -> tuple[tuple[str, ...], Draws, Float[NDArray, "weighted d"], dict[str, ScaleDraws]]:
    """Draws of the fit and of the reference in the coordinates of a `Reference`.

    Args:
        posterior: the fit.
        joint: the density of its program.
        sites: draws of the fit by site. Its keys are the sites of phi, in the
            order of its coordinates.
        phi: draws of the reference, unconstrained, in that order.
        weights: their weights, which add up to one.

    Returns:
        Labels of the d coordinates; draws of the fit; draws of the reference; and the positive
        parameters, as `Reference.scales`.
    """
    names = tuple(sites)
    mine = jax.vmap(lambda z: joint.values(names, z))(jnp.asarray(phi))
    labels: list[str] = []
    ours, theirs, scales = [], [], {}
    start = 0
    for name in names:
        latent = joint.latents[name]
        size = int(np.size(latent.start))
        elements = posterior.site_labels(name, size)
        own, right = sites[name], np.asarray(mine[name])
        if _is_bounded_at_zero(latent):
            right, own = right.reshape(len(right), -1), own.reshape(len(own), -1)
            for i in range(size):
                order = np.argsort(right[:, i])
                cut = np.searchsorted(np.cumsum(weights[order]), 0.5)
                middle = float(right[order[min(cut, len(order) - 1)], i])
                scales[elements[i]] = (own[:, i], right[:, i], weights)
                ours.append(scale_coordinate(own[:, i], middle))
                theirs.append(scale_coordinate(right[:, i], middle))
        else:
            z = joint.flat((name,), {name: own})
            ours.extend(z.T)
            theirs.extend(phi[:, start : start + size].T)
        start += size
        labels += elements
    none = np.zeros((0, len(phi)))
    ours = np.array(ours) if ours else np.zeros((0, 1))
    theirs = np.array(theirs) if theirs else none
    return tuple(labels), ours.T, theirs.T, scales


def _is_bounded_at_zero(latent: Latent) -> bool:
    """Whether each element of a site is positive, with zero as its lower bound.

    The unconstrained coordinate of such an element, a logarithm or a logit, is a poor measure of
    accuracy. If the posterior of a scale reaches zero, most of the sd of its logarithm comes from
    values that are zero for all practical purposes.
    """
    transform = latent.transform
    if transform.domain.event_dim or transform.codomain.event_dim:
        return False
    lowest = np.asarray(transform(jnp.full_like(latent.start, -_FAR)))
    return bool(((lowest >= 0) & (lowest < _NOTHING)).all())
