"""Coordinates of short chains, in which draws of a fit are close to standard normal.

Let q be the approximation that a fit's draws come from, b the effects of all blocks that have a
scale, and phi all other parameters. The chains run in coordinates (z, x) in which q is close to a
standard normal distribution,

    phi = m + L z,
    b_e = t_e (c_e + B_e z + s_e x_e).

m and L L' are the mean and covariance of q's draws of phi. c, B and s are the intercepts, slopes
and residual sds of the regression of q's draws of b_e / t_e on z. t_e is the prior sd of b_e if the
variance of b_e under q is more than half of its prior variance, and one otherwise. So effects
about which the rows have little information are non-centred, and the others are centred.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef.check.joint_density import JointDensity
from ranef.check.reference import NoReference
from ranef.lazy import Array, jax, jnp
from ranef.numerics.shapes import Bool, Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem
from ranef.program.training import Rows
from ranef.terms.blocks import LinearBlock

Numbers = NDArray[np.float64]
Vector = Float[Numbers, "d"]
Effects = Float[Numbers, "m"]

# Largest and smallest number of chains.
_MOST_CHAINS = 64
_LEAST_CHAINS = 16
# Rows times chains in one evaluation, which sets the number of chains between these limits.
_ROWS = 2_000_000
# Largest dimension of phi with a full covariance matrix; beyond it L is diagonal.
_DENSE = 200
# Largest number of elements of the slopes B; beyond it B is zero.
_MOST_SLOPES = 20_000_000
# Largest number of elements of the fit's draws that are held at once: 0.8 GB.
_HELD = 100_000_000
# Largest number of rows and parameters over all chains: some 2 GB with the program's intermediate
# arrays.
_LARGEST = 50_000_000


@dataclass(frozen=True)
class ChainTarget:
    """The program's log joint density in the chains' coordinates.

    Attributes:
        joint: the density.
        structure: the blocks of the terms whose effects are b, at unit scales, by label. They are
            built outside of the compiled functions, where the weights of networks have values.
        inner: the sites of b.
        outer: the sites of phi.
        mean: m.
        root: L, or its diagonal.
        scaled: whether t_e is the prior sd of the effect, and not one.
        middle: c.
        slopes: B.
        width: s.
        q: draws of the fit by site.
        x: the same draws in the chains' coordinates, first the d of z, then the m of x.
    """

    joint: JointDensity
    structure: Mapping[str, LinearBlock]
    inner: tuple[str, ...]
    outer: tuple[str, ...]
    mean: Vector
    root: Float[Numbers, "d d"] | Vector
    scaled: Bool[NDArray, "m"]
    middle: Effects
    slopes: Float[Numbers, "m d"]
    width: Effects
    q: Mapping[str, Float[Numbers, "draws ..."]]
    x: Float[Numbers, "draws _"]

    @classmethod
    def of(cls, posterior: Posterior, problem: Problem) -> "ChainTarget | NoReference":
        """The target of a fit, or the reason why it has none."""
        joint = JointDensity.of(posterior, problem)
        size = sum(int(np.size(latent.start)) for latent in joint.latents.values())
        sites = posterior.draws.sites
        draws = max((np.prod(np.shape(sites[n])[:2]) for n in joint.outer), default=1.0)
        if size * draws > _HELD or (problem.n + size) * _LEAST_CHAINS > _LARGEST:
            return NoReference("the model is too large for short chains")
        if not size:
            return NoReference("the model has no parameters that are drawn")
        q = {name: np.asarray(sites[name], np.float64) for name in joint.latents}
        q = {name: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]) for name, v in q.items()}
        blocks = _scaled_blocks(problem, joint)
        inner = tuple(name for block in blocks.values() for name, _ in block.sites)
        outer = tuple(name for name in joint.latents if name not in inner)
        count = len(next(iter(q.values())))
        phi = joint.flat(outer, q) if outer else np.zeros((count, 0))
        if not np.isfinite(phi).all():
            return NoReference("draws of the fit lie on the edge of what parameters may be")
        mean, root = phi.mean(axis=0), _root_of(phi)
        m, d = sum(int(np.size(joint.latents[name].start)) for name in inner), len(mean)
        zero = np.zeros(m)
        bare = cls(
            joint,
            blocks,
            inner,
            outer,
            mean,
            root,
            scaled=zero > 0,
            middle=zero,
            slopes=np.zeros((m, d)),
            width=zero,
            q=q,
            x=np.zeros((count, 0)),
        )
        return bare._placed(phi)

    def _placed(self, phi: Numbers) -> "ChainTarget":
        """The same with c, B, s and t from q's draws, and the draws in the chains' coordinates."""
        b, t, z = self._effects(self.q), self._sds(phi), self._z(phi)
        scaled = b.var(axis=0) > 0.5 * (t**2).mean(axis=0)
        b = b / np.where(scaled, t, 1.0)
        middle = b.mean(axis=0)
        slopes = np.zeros((b.shape[1], z.shape[1]))
        if 0 < 10 * z.shape[1] <= len(z) and slopes.size <= _MOST_SLOPES:
            slopes = np.linalg.lstsq(z, b - middle, rcond=None)[0].T
        away = b - middle - z @ slopes.T
        width = away.std(axis=0) + 1e-9
        x = np.concatenate([z, away / width], axis=1)
        return replace(self, scaled=scaled, middle=middle, slopes=slopes, width=width, x=x)

    @property
    def chains(self) -> int:
        """The number of chains."""
        return int(np.clip(_ROWS // self.joint.problem.n, _LEAST_CHAINS, _MOST_CHAINS))

    def _effects(
        self, sites: Mapping[str, Float[Numbers, "draws ..."]]
    ) -> Float[Numbers, "draws m"]:
        """Draws of all effects, from draws by site."""
        size = len(next(iter(sites.values())))
        parts = [np.asarray(sites[name], np.float64).reshape(size, -1) for name in self.inner]
        return np.concatenate([np.zeros((size, 0)), *parts], axis=1)

    def _z(self, phi: Float[Numbers, "draws d"]) -> Float[Numbers, "draws d"]:
        """Z = L^-1 (phi - m)."""
        away = phi - self.mean
        if self.root.ndim == 1:
            return away / self.root
        return np.asarray(np.linalg.solve(self.root, away.T).T, np.float64)

    def _scales(self, values: Mapping[str, Array]) -> Float[Array, "m"]:
        """The prior sd of each effect, at values of the sites of phi."""
        if not self.structure:
            return jnp.zeros(0)
        known = {**self.joint.fixed, **values}
        # Blocks whose sds are sites themselves. Those of a network's weights always are.
        plain = {
            label
            for label, block in self.structure.items()
            if block.spectrum is None
            and len(block.scales) == np.shape(block.columns)[1]
            and all(name in known for name in block.scales)
        }
        # The program's blocks are built only where needed: they take a second to compile.
        blocks = {} if len(plain) == len(self.structure) else self.joint.problem.blocks(known)
        out = []
        for label, block in self.structure.items():
            if label in plain:
                sds = jnp.stack([known[name] for name in block.scales])
            else:
                block = blocks[label]
                factor = jnp.asarray(block.factor)
                sds = factor if factor.ndim == 1 else jnp.linalg.norm(factor, axis=1)
            start = 0
            for _, count in block.sites:
                out.append(jnp.tile(sds[start : start + count], block.levels))
                start += count
        return jnp.concatenate(out)

    def _sds(self, phi: Float[Numbers, "draws d"]) -> Float[Numbers, "draws m"]:
        """The prior sd of each effect at each phi."""
        if not self.inner:
            return np.zeros((len(phi), 0))
        return np.asarray(self._compiled_sds(jnp.asarray(phi)))

    @cached_property
    def _compiled_sds(self) -> Callable[[Array], Array]:
        return jax.jit(jax.vmap(lambda own: self._scales(self.joint.values(self.outer, own))))

    def read(
        self, x: Float[Numbers, "chains size"]
    ) -> tuple[Float[Numbers, "chains d"], Float[Numbers, "chains m"]]:
        """Phi and the effects at states x."""
        d = len(self.mean)
        z, noise = x[:, :d], x[:, d:]
        phi = self.mean + (z @ self.root.T if self.root.ndim == 2 else z * self.root)
        b = self.middle + z @ self.slopes.T + self.width * noise
        return phi, b * np.where(self.scaled, self._sds(phi), 1.0) if self.scaled.any() else b

    def values(self, x: Float[Array, "size"]) -> tuple[dict[str, Array], Float[Array, ""]]:
        """Values of all sites at x, and log |d sites / d x| up to a constant."""
        d = len(self.mean)
        z, noise = jnp.asarray(x[:d]), x[d:]
        phi = jnp.asarray(self.mean + (self.root @ z if self.root.ndim == 2 else self.root * z))
        values = self.joint.values(self.outer, phi)
        t = jnp.where(self.scaled, self._scales(values), 1.0)
        b = t * (self.middle + self.slopes @ z + self.width * noise)
        log_det = self.joint.log_jacobian(self.outer, phi) + jnp.sum(jnp.log(t))
        start = 0
        for name in self.inner:
            shape = np.shape(self.joint.latents[name].start)
            size = int(np.prod(shape))
            values[name] = b[start : start + size].reshape(shape)
            start += size
        return values, log_det

    def log_density(self, x: Float[Array, "size"], data: Rows) -> Float[Array, ""]:
        """Log density of the chains' coordinates x, up to a constant."""
        values, log_det = self.values(x)
        return self.joint.at(values, data) + log_det

    def start(self, rng: np.random.Generator) -> Float[Numbers, "chains size"]:
        """Randomly chosen draws of the fit in the chains' coordinates."""
        size = len(self.x)
        return self.x[rng.permutation(max(size, self.chains))[: self.chains] % size]


def _scaled_blocks(problem: Problem, joint: JointDensity) -> dict[str, LinearBlock]:
    """The blocks whose effects have scales and are drawn, by label."""
    return {
        label: block
        for label, block in problem.unit_blocks().items()
        if block is not None
        and (block.codes is not None or block.scales)
        and block.sites
        and all(name in joint.latents for name, _ in block.sites)
    }


def _root_of(phi: Float[Numbers, "draws d"]) -> Float[Numbers, "d d"] | Vector:
    """L of the draws' covariance L L', or sds with too few draws to estimate it."""
    size, d = phi.shape
    sd = phi.std(axis=0) + 1e-9
    if d > _DENSE or size < 10 * d:
        return sd
    correlation = np.cov((phi / sd).T).reshape(d, d) + 1e-9 * np.eye(d)
    return np.asarray(sd[:, None] * np.linalg.cholesky(correlation), np.float64)
