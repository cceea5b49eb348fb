"""Gaussian guides over the unconstrained latents z = place(u), u ~ N(m, S S').

"meanfield" is fully factorised, S diagonal. "structured" gives a full covariance to the
common effects of each predictor, in coordinates whitened by their cross-products, and to
the coefficients of each level of a grouping; the rest is factorised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from ranef.inference.base import Latent, Problem
from ranef.terms.base import LinearBlock

_LOG_2PI = float(np.log(2 * np.pi))
# softplus^-1(0.1): a guide starts at a tenth of the natural unit.
_START_RHO = float(np.log(np.expm1(0.1)))


@dataclass(frozen=True)
class Joint:
    """Coefficients whose covariance is full: m vectors of k, each with its own.

    Attributes:
        index: (m, k) places in z.
        matrix: (k, k) upper triangular, z[index] = start[index] + unit[index] matrix u[index].
    """

    index: Array
    matrix: Array


@dataclass(frozen=True)
class Guide:
    """The form of q; its numbers are the variational parameters of `init`.

    Attributes:
        size: length of z and of u.
        start: (size,) z at u = 0.
        unit: (size,) step of z for a step of one in u.
        joints: the parts with a full covariance.
        split: a flat z to a dict by site.
        latents: the sites.
    """

    size: int
    start: Array
    unit: Array
    joints: tuple[Joint, ...]
    split: Any
    latents: Mapping[str, Latent]

    def init(self) -> dict[str, Any]:
        """Variational parameters, in units of the coordinates."""
        kind = self.start.dtype
        return {
            "loc": jnp.zeros(self.size, kind),
            "rho": jnp.full(self.size, _START_RHO, kind),
            "lower": [jnp.zeros((*j.index.shape, j.index.shape[1]), kind) for j in self.joints],
        }

    def sample(self, params: Mapping[str, Any], noise: Array) -> Array:
        """U from standard normal noise (size,): softplus scales, reparameterised."""
        scale = jax.nn.softplus(params["rho"])
        u = params["loc"] + scale * noise
        for joint, lower in zip(self.joints, params["lower"], strict=True):
            factor = _factor(lower, scale[joint.index])
            step = jnp.einsum("mij,mj->mi", factor, noise[joint.index])
            u = u.at[joint.index].set(params["loc"][joint.index] + step)
        return u

    def place(self, u: Array) -> Array:
        """Z at u."""
        z = self.start + self.unit * u
        for joint in self.joints:
            moved = self.unit[joint.index] * (u[joint.index] @ joint.matrix.T)
            z = z.at[joint.index].set(self.start[joint.index] + moved)
        return z

    def log_density(self, params: Mapping[str, Any], u: Array) -> Array:
        """Log q(z(u)), in nats per unit of z."""
        scale = jax.nn.softplus(params["rho"])
        away = u - params["loc"]
        noise = away / scale
        log_det = jnp.log(scale * self.unit)
        for joint, lower in zip(self.joints, params["lower"], strict=True):
            factor = _factor(lower, scale[joint.index])
            own = jax.scipy.linalg.solve_triangular(
                factor, away[joint.index][..., None], lower=True
            )
            noise = noise.at[joint.index].set(own[..., 0])
            log_det = log_det.at[joint.index].add(jnp.log(jnp.diag(joint.matrix)))
        return jnp.sum(-0.5 * noise**2 - 0.5 * _LOG_2PI - log_det)

    def constrain(self, z: Array) -> tuple[dict[str, Array], Array]:
        """The sites at z, and log |d site / d z|."""
        values, log_det = {}, jnp.zeros(())
        for name, u in self.split(z).items():
            transform = self.latents[name].transform
            values[name] = transform(u)
            log_det += jnp.sum(transform.log_abs_det_jacobian(u, values[name]))
        return values, log_det


def _factor(lower: Array, scale: Array) -> Array:
    """(m, k, k) lower triangular, the diagonal `scale` (m, k) and rows in proportion to it."""
    return (jnp.tril(lower, -1) + jnp.eye(scale.shape[-1])) * scale[..., None]


def build(kind: str, latents: Mapping[str, Latent], problem: Problem) -> Guide:
    """The guide of that kind: "meanfield" or "structured"."""
    start, split = ravel_pytree({name: latent.start for name, latent in latents.items()})
    unit, _ = ravel_pytree({name: latent.unit for name, latent in latents.items()})
    joints = _joints(latents, problem) if kind == "structured" else ()
    return Guide(start.size, start, unit, joints, split, latents)


def _joints(latents: Mapping[str, Latent], problem: Problem) -> tuple[Joint, ...]:
    """The linear blocks as joints. One that all rows share is whitened by s R^-1 with
    R'R = X'X / n: a step of one in u moves the predictor by the spread s of the response."""
    places = _places(latents)

    @jax.jit
    def blocks() -> dict[str, LinearBlock]:
        return problem.blocks({n: latent.transform(latent.start) for n, latent in latents.items()})

    out = []
    for block in blocks().values():
        held = [name in latents for name, _ in block.sites]
        index = [
            places[name].reshape(block.levels, -1) for name, _ in block.sites if name in latents
        ]
        if not index:
            continue
        index = np.concatenate(index, axis=1)
        width = index.shape[1]
        if block.codes is not None:
            if width > 1:
                out.append(Joint(jnp.asarray(index), jnp.eye(width)))
            continue
        used = np.repeat(held, [size for _, size in block.sites])
        unit = np.concatenate([np.ravel(latents[n].unit) for n, _ in block.sites if n in latents])
        matrix = _whitening(np.asarray(block.columns, dtype=np.float64)[:, used])
        out.append(Joint(jnp.asarray(index), jnp.asarray(problem.spread * matrix / unit[:, None])))
    return tuple(out)


def _places(latents: Mapping[str, Latent]) -> dict[str, NDArray[np.int64]]:
    """Where each site lies in the flat z: `ravel_pytree` goes through a dict by sorted key."""
    out, first = {}, 0
    for name in sorted(latents):
        size = int(np.size(latents[name].start))
        out[name] = np.arange(first, first + size)
        first += size
    return out


def _whitening(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """R^-1 of the QR of x / sqrt(n), a small ridge added for collinear columns."""
    n, k = x.shape
    size = np.linalg.norm(x, axis=0) / np.sqrt(n)
    size[size == 0] = 1.0
    r = np.linalg.qr(np.vstack([x / size / np.sqrt(n), 1e-4 * np.eye(k)]), mode="r")
    r *= np.sign(np.diag(r))[:, None]
    return np.linalg.inv(r) / size[:, None]
