"""Coordinates in which the coefficients of levels are nearly independent of all else.

With Z_j and X_j the rows of level j, L L' = Sigma and s the spread of a row about its
predictor,

    b_j = V_j Z_j' (y_j - X_j beta) / s^2 + M_j eta_j,   M_j M_j' = V_j,
    V_j = (Sigma^-1 + Z_j' Z_j / s^2)^-1,

X_j beta_0 standing for y_j where the response is not normal about the predictor.
Where a level's rows say little this is the non-centred form b_j = L eta_j, which has no
funnel; where they say much it is the centred one (Papaspiliopoulos, Roberts and Skoeld, 2007,
whose partial centring this is, level by level); between them it follows the scales.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, jnp
from ranef.numerics.jax_cholesky import cholesky, solve_columns
from ranef.program.problem import Latent, Problem
from ranef.terms.blocks import LinearBlock


@dataclass(frozen=True)
class PartialCentering:
    """Of one term that varies by level.

    Attributes:
        label: of the term.
        own: Z_j' Z_j, (J, k, k).
        cross: Z_j' X_j, (J, k, p), of the common columns whose effects have a posterior.
        response: Z_j' (y_j - X_j beta_0), (J, k).
        common: sites of these effects, with beta_0.
        spread: s, or the name of the parameter that it is.
    """

    label: str
    own: NDArray[np.float64]
    cross: NDArray[np.float64]
    response: NDArray[np.float64]
    common: Mapping[str, Array]
    residual_scale: float | str

    def effects(
        self, eta: Array, factor: Array, values: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """Coefficients (J, k) at eta (J, k), and log |d b / d eta|.

        Args:
            eta: coordinates.
            factor: L (k, k).
            values: of the scales and of the common effects.
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
    """Of every term that varies by level."""
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
        spread: float | str = problem.residual_scales.get(parameter, 1.0)
        if parameter == problem.location and normal is not None and normal.sigma in latents:
            spread = normal.sigma
        z = np.asarray(block.columns, dtype=np.float64)
        response = np.zeros((len(z), 1))
        if parameter == problem.location and normal is not None:
            beta = np.concatenate([np.zeros(0), *(np.ravel(start) for start in common.values())])
            response[:, 0] = normal.value - columns @ beta
            if normal.weights is not None:
                z = z * normal.weights[:, None]
        own = _by_level(block, z, np.asarray(block.columns))
        cross, pull = _by_level(block, z, columns), _by_level(block, z, response)[..., 0]
        out.append(PartialCentering(label, own, cross, pull, common, spread))
    return out


def _common(
    blocks: list[LinearBlock], latents: Mapping[str, Latent], n: int
) -> tuple[NDArray[np.float64], dict[str, Array]]:
    """Columns whose effects have a posterior, (n, p), and where their search begins by site."""
    columns, starts = [np.zeros((n, 0))], {}
    for block in blocks:
        place = 0
        for name, count in block.sites:
            if name in latents:
                columns.append(np.asarray(block.columns)[:, place : place + count])
                starts[name] = latents[name].transform(latents[name].start)
            place += count
    return np.concatenate(columns, axis=1), starts


def _by_level(block: LinearBlock, left: Any, right: Any) -> NDArray[np.float64]:
    """Sums of products over the rows of each level, (J, k, p)."""
    if block.codes is None:
        return np.asarray(left.T @ right, dtype=np.float64)[None]
    out = np.zeros((block.levels, left.shape[1], right.shape[1]))
    for a in range(left.shape[1]):
        for b in range(right.shape[1]):
            products = left[:, a] * right[:, b]
            out[:, a, b] = np.bincount(block.codes, products, block.levels)
    return out
