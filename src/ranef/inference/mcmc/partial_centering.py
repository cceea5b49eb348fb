"""Partial centering of group effects (Papaspiliopoulos, Roberts and Skoeld, 2007).

Chains sample coordinates eta_j in place of the group effects b_j ~ N(0, Sigma), Sigma = L L', of
level j. Let Z_j, X_j and y_j be the rows of level j, and s the residual scale. Then

    b_j = V_j Z_j' (y_j - X_j beta) / s^2 + M_j eta_j,   M_j M_j' = V_j,
    V_j = (Sigma^-1 + Z_j' Z_j / s^2)^-1,

so that for a normal response and one grouping the posterior of eta_j is standard normal and
independent of the other parameters. If the response is not normal, X_j beta_0 replaces y_j, where
beta_0 are the starting values of the common effects (fixed effects).

If the rows of a level carry little information, this is the non-centred form b_j = L eta_j, which
has no funnel. If they carry much, it is the centred form. Between the two it depends on the scales,
level by level.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, jnp
from ranef.numerics.jax_cholesky import cholesky, solve_columns
from ranef.numerics.shapes import Float
from ranef.program.problem import Latent, Problem
from ranef.terms.blocks import LinearBlock


@dataclass(frozen=True)
class PartialCentering:
    """The map from coordinates eta to the group effects of one term.

    Attributes:
        label: label of the term.
        own: Z_j' Z_j.
        cross: Z_j' X_j, where X_j are the columns of the inferred common effects.
        response: Z_j' (y_j - X_j beta_0); zero unless the term is in the mean of a normal
            response.
        common: beta_0 by site of the common effects.
        residual_scale: s, or the site that holds it.
    """

    label: str
    own: Float[NDArray, "J k k"]
    cross: Float[NDArray, "J k p"]
    response: Float[NDArray, "J k"]
    common: Mapping[str, Array]
    residual_scale: float | str

    def effects(
        self,
        eta: Float[Array, "J k"],
        factor: Float[Array, "k k"],
        values: Mapping[str, Array],
    ) -> tuple[Float[Array, "J k"], Float[Array, ""]]:
        """The group effects and the log Jacobian of the map.

        Args:
            eta: coordinates.
            factor: L.
            values: the residual scale and the common effects, by site.

        Returns:
            The effects b, and log |d b / d eta|.
        """
        s = (
            values[self.residual_scale]
            if isinstance(self.residual_scale, str)
            else self.residual_scale
        )
        inside = jnp.einsum("ca,jcd,db->jab", factor, self.own, factor) / s**2
        root = cholesky(inside + jnp.eye(len(factor)))
        lower = jnp.broadcast_to(factor.T, root.shape)
        m = solve_columns(root, lower).swapaxes(1, 2)
        away = [jnp.ravel(values[name] - start) for name, start in self.common.items()]
        beta = jnp.concatenate([jnp.zeros(0), *away])
        pull = (self.response - jnp.einsum("jkp,p->jk", self.cross, beta)) / s**2
        effects = jnp.einsum("jab,jb->ja", m, eta + jnp.einsum("jcb,jc->jb", m, pull))
        log_root = jnp.log(jnp.diagonal(root, axis1=1, axis2=2)).sum()
        return effects, len(eta) * jnp.log(jnp.diagonal(factor)).sum() - log_root


def centrings(problem: Problem, latents: Mapping[str, Latent]) -> list[PartialCentering]:
    """The partial centering of every term with group effects.

    Args:
        problem: the model and its rows.
        latents: the sites of the chains.
    """
    blocks = {label: b for label, b in problem.unit_blocks().items() if b is not None}
    normal = problem.normal()
    out = []
    for label, block in blocks.items():
        if block.codes is None and not block.scales:
            continue
        parameter = problem.predicts[label]
        beside = [
            b
            for other, b in blocks.items()
            if b.codes is None and not b.scales and problem.predicts[other] == parameter
        ]
        columns, common = _common(beside, latents, len(block.columns))
        residual: float | str = problem.residual_scales.get(parameter, 1.0)
        if parameter == problem.location and normal is not None and normal.sigma in latents:
            residual = normal.sigma
        z = np.asarray(block.columns, dtype=np.float64)
        response = np.zeros((len(z), 1))
        if parameter == problem.location and normal is not None:
            beta = np.concatenate([np.zeros(0), *(np.ravel(start) for start in common.values())])
            response[:, 0] = normal.value - columns @ beta
            if normal.weights is not None:
                z = z * normal.weights[:, None]
        own = _by_level(block, z, np.asarray(block.columns))
        cross, pull = _by_level(block, z, columns), _by_level(block, z, response)[..., 0]
        out.append(PartialCentering(label, own, cross, pull, common, residual))
    return out


def _common(
    blocks: list[LinearBlock], latents: Mapping[str, Latent], n: int
) -> tuple[Float[NDArray, "{n} p"], dict[str, Array]]:
    """Columns of the inferred common effects, and their starting values by site."""
    columns, starts = [np.zeros((n, 0))], {}
    for block in blocks:
        place = 0
        for name, count in block.sites:
            if name in latents:
                columns.append(np.asarray(block.columns)[:, place : place + count])
                starts[name] = latents[name].transform(latents[name].start)
            place += count
    return np.concatenate(columns, axis=1), starts


def _by_level(
    block: LinearBlock, left: Float[NDArray, "n k"], right: Float[NDArray, "n p"]
) -> Float[NDArray, "J k p"]:
    """Cross-products of two sets of columns over the rows of each level."""
    if block.codes is None:
        return np.asarray(left.T @ right, dtype=np.float64)[None]
    out = np.zeros((block.levels, left.shape[1], right.shape[1]))
    for a in range(left.shape[1]):
        for b in range(right.shape[1]):
            products = left[:, a] * right[:, b]
            out[:, a, b] = np.bincount(block.codes, products, block.levels)
    return out
