"""The reference of short chains that start from the fit's own draws (TADDAA).

Chains of Hamiltonian Monte Carlo (Neal, 2011) on the program's joint density start from draws of
the approximation q. Where q is the posterior they stay distributed as it is; where it is not they
move towards the posterior, and their means and sds leave those of q (Wang, Kasprzak and Huggins,
2023). They need no integral, and so serve models with crossed groupings and with many effects.

The chains move in coordinates in which q is nearly a standard normal distribution,

    phi = m + L z,                 L L' the covariance of q's draws of phi,
    b_e = t_e (c_e + B_e z + s_e x_e),

phi being all parameters but the effects b of blocks that have a scale. c, B and s are the
regression of q's draws of b_e / t_e on z, and t_e is the scale of b_e where the rows say less of it
than its prior, else one: centred where rows are many, and non-centred where they are few.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import COMPILING, Deadline, OutOfTimeError
from ranef.check.reference import NoReference, Reference, kurtosis_of
from ranef.check.reference_importance import JointDensity, coordinates
from ranef.errors import RanefError
from ranef.lazy import Array, jax, jnp
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock

Numbers = NDArray[np.float64]

# Chains, each from a draw of its own: at most, at least, and rows that all of them go through in a
# step, between the two.
_MOST_CHAINS, _LEAST_CHAINS, _ROWS = 64, 16, 2_000_000
# Transitions in a row of which the sums are kept, and the most of such rows. The first third of
# them are on the way, and do not count.
_ROW, _MOST_ROWS = 15, 40
# Transitions in which the step size adapts.
_ADAPTING = 10
# Acceptance below and above which the step becomes smaller and larger.
_LOW, _HIGH = 0.65, 0.92
# Length of a trajectory, in sds of q: a quarter of the period of a normal distribution.
_LENGTH = 1.5
# Leapfrog steps of a trajectory at most.
_MOST_STEPS = 64
# Effective states of each chain below which the chains have not moved far enough to say anything,
# and from which on they have gone far enough.
_MOVED, _ENOUGH = 2.0, 4.0
# Parameters beside the group effects up to which their covariance is used, and not their sds alone.
_DENSE = 200
# Numbers of the regression of all effects on phi at most.
_MOST_SLOPES = 20_000_000
# Draws of all effects that are held at once: 0.8 GB.
_HELD = 100_000_000
# Rows and effects of all chains that are held at once: some 2 GB with what the program makes of
# them.
_LARGEST = 50_000_000


def short_chains(
    posterior: Posterior, problem: Problem, deadline: Deadline
) -> Reference | NoReference:
    """No reference where the chains hardly move, or memory does not hold them.

    Raises:
        OutOfTimeError: once the time is over.
    """
    if problem.windows:
        return NoReference("rows are read in batches")
    if problem.bilinear:
        return NoReference(
            "factors of mf() that are turned are the same model, so that chains drift in any case"
        )
    deadline.tick(COMPILING)
    try:
        with jax.enable_x64(True):
            target = _Target.of(posterior, problem)
            if isinstance(target, NoReference):
                return target
            return _compared(posterior, target, deadline)
    except (RanefError, FloatingPointError, np.linalg.LinAlgError) as error:
        return NoReference(str(error))


@dataclass(frozen=True)
class _Target:
    """The program's log joint density in the chains' coordinates.

    Attributes:
        joint: the density.
        structure: the blocks of the terms whose effects are b, at unit scales, by label. They are
            made outside of what is compiled, where networks have values.
        inner: the sites of these effects.
        outer: sites of phi.
        mean, root: (d,) and (d, d) or (d,) of phi under q.
        scaled: (m,) whether t_e is the scale of an effect.
        middle, slopes, width: c (m,), B (m, d) and s (m,).
        q: draws of the fit (S, ...) by site.
        x: (S, d + m) these in the chains' coordinates.
    """

    joint: JointDensity
    structure: Mapping[str, LinearBlock]
    inner: tuple[str, ...]
    outer: tuple[str, ...]
    mean: Numbers
    root: Numbers
    scaled: NDArray[np.bool_]
    middle: Numbers
    slopes: Numbers
    width: Numbers
    q: Mapping[str, Numbers]
    x: Numbers

    @classmethod
    def of(cls, posterior: Posterior, problem: Problem) -> "_Target | NoReference":
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
        none = np.zeros(0)
        bare = cls(joint, blocks, inner, outer, mean, root, none > 0, none, none, none, q, none)
        return bare._placed(phi)

    def _placed(self, phi: Numbers) -> "_Target":
        """The same with the coordinates of the effects, and the draws in all coordinates."""
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
        """How many chains there are."""
        return int(np.clip(_ROWS // self.joint.problem.n, _LEAST_CHAINS, _MOST_CHAINS))

    def _effects(self, sites: Mapping[str, Any]) -> Numbers:
        """Draws of all effects, (S, m)."""
        size = len(next(iter(sites.values())))
        parts = [np.asarray(sites[name], np.float64).reshape(size, -1) for name in self.inner]
        return np.concatenate([np.zeros((size, 0)), *parts], axis=1)

    def _z(self, phi: Numbers) -> Numbers:
        away = phi - self.mean
        if self.root.ndim == 1:
            return away / self.root
        return np.asarray(np.linalg.solve(self.root, away.T).T, np.float64)

    def _scales(self, values: Mapping[str, Array]) -> Array:
        """The prior sd of each effect, (m,)."""
        if not self.structure:
            return jnp.zeros(0)
        known = {**self.joint.given, **values}
        # The scales of a network's weights are always plain: its own block has none of them.
        plain = {
            label
            for label, block in self.structure.items()
            if block.spectrum is None
            and len(block.scales) == np.shape(block.columns)[1]
            and all(name in known for name in block.scales)
        }
        # The program's own blocks take a second to compile.
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

    def _sds(self, phi: Numbers) -> Numbers:
        """The prior sd of each effect at phi (S, d), (S, m)."""
        if not self.inner:
            return np.zeros((len(phi), 0))
        return np.asarray(self._compiled_sds(jnp.asarray(phi)))

    @cached_property
    def _compiled_sds(self) -> Any:
        return jax.jit(jax.vmap(lambda own: self._scales(self.joint.values(self.outer, own))))

    def read(self, x: Numbers) -> tuple[Numbers, Numbers]:
        """From x (chains, d + m), phi (chains, d) and the effects (chains, m)."""
        d = len(self.mean)
        z, noise = x[:, :d], x[:, d:]
        phi = self.mean + (z @ self.root.T if self.root.ndim == 2 else z * self.root)
        b = self.middle + z @ self.slopes.T + self.width * noise
        return phi, b * np.where(self.scaled, self._sds(phi), 1.0) if self.scaled.any() else b

    def values(self, x: Array) -> tuple[dict[str, Array], Array]:
        """At x (d + m,): values of the sites, and log |d sites / d x| up to a constant."""
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

    def log_density(self, x: Array, data: Any) -> Array:
        values, log_det = self.values(x)
        return self.joint.at(values, data) + log_det

    def start(self, rng: np.random.Generator) -> Numbers:
        """Some draws of the fit in these coordinates, (chains, d + m)."""
        size = len(self.x)
        return self.x[rng.permutation(max(size, self.chains))[: self.chains] % size]

    @cached_property
    def transition(self) -> Any:
        """One trajectory of every chain, compiled.

        From the states x (chains, d + m), the log density and its gradient there, a key, the step,
        how many steps, and the rows: the same three after it, and the acceptance (chains,). With a
        log density of minus infinity and a step of zero it evaluates the other two at x.
        """
        slope = jax.vmap(jax.value_and_grad(self.log_density), in_axes=(0, None))

        def run(state: tuple, key: Array, step: Array, steps: Array, data: Any) -> tuple:
            x, value, gradient = state
            noise, choice = jax.random.split(key)
            p = jax.random.normal(noise, x.shape)

            def leapfrog(_: Any, inside: tuple) -> tuple:
                place, momentum, _, g = inside
                momentum = momentum + 0.5 * step * g
                place = place + step * momentum
                after, g = slope(place, data)
                return place, momentum + 0.5 * step * g, after, g

            found = jax.lax.fori_loop(0, steps, leapfrog, (x, p, value, gradient))
            gain = found[2] - value + 0.5 * jnp.sum(p**2 - found[1] ** 2, axis=1)
            accept = jnp.exp(jnp.minimum(jnp.nan_to_num(gain, nan=-jnp.inf, posinf=1.0), 0.0))
            moved = jax.random.uniform(choice, accept.shape) < accept
            after = (
                jnp.where(moved[:, None], found[0], x),
                jnp.where(moved, found[2], value),
                jnp.where(moved[:, None], found[3], gradient),
            )
            return after, accept

        return jax.jit(run)


def _scaled_blocks(problem: Problem, joint: JointDensity) -> dict[str, LinearBlock]:
    """The blocks, by label, whose effects have scales."""
    return {
        label: block
        for label, block in problem.unit_blocks().items()
        if block is not None
        and (block.codes is not None or block.scales)
        and block.sites
        and all(name in joint.latents for name, _ in block.sites)
    }


def _root_of(phi: Numbers) -> Numbers:
    """Of the covariance of draws, or sds where there are many parameters for the draws."""
    size, d = phi.shape
    sd = phi.std(axis=0) + 1e-9
    if d > _DENSE or size < 10 * d:
        return sd
    correlation = np.cov((phi / sd).T).reshape(d, d) + 1e-9 * np.eye(d)
    return np.asarray(sd[:, None] * np.linalg.cholesky(correlation), np.float64)


@dataclass(frozen=True)
class _States:
    """What the chains went through.

    Attributes:
        phi: (states, chains, d).
        sums, squares: of the effects over the states, (chains, m).
    """

    phi: Numbers
    sums: Numbers
    squares: Numbers

    @classmethod
    def of(cls, rows: Sequence["_States"]) -> "_States":
        """Of rows of them, one after the other."""
        return cls(
            np.concatenate([row.phi for row in rows]),
            np.sum([row.sums for row in rows], axis=0),
            np.sum([row.squares for row in rows], axis=0),
        )

    @property
    def mean(self) -> Numbers:
        """(m,) of each effect."""
        return self.sums.mean(axis=0) / len(self.phi)

    @property
    def sd(self) -> Numbers:
        """(m,) of each effect."""
        square = self.squares.mean(axis=0) / len(self.phi)
        return np.sqrt(np.maximum(square - self.mean**2, 0.0))

    @property
    def effective(self) -> float:
        """The least effective number of states over all parameters.

        The variance of a mean over the chains is that between the chains' own means.
        """
        count, chains, d = self.phi.shape
        own = _effective(self.phi.mean(axis=0), self.phi.reshape(-1, d).var(axis=0))
        return min(own, _effective(self.sums / count, self.sd**2), float(count * chains))


def _effective(means: Numbers, variance: Numbers) -> float:
    """Of parameters with such means by chain (chains, m) and such a variance (m,)."""
    between = means.var(axis=0, ddof=1)
    vary = (between > 0) & (variance > 0)
    return float((variance[vary] / between[vary]).min(initial=np.inf)) * len(means)


def _run(target: _Target, deadline: Deadline) -> _States:
    """Chains until they have gone far enough, or there is no time for another row of states."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    x = jnp.asarray(target.start(rng), jnp.float64)
    data, chains = target.joint.problem.data, target.chains
    state = (x, jnp.full(chains, -jnp.inf, jnp.float64), jnp.zeros_like(x))
    deadline.tick(COMPILING)
    # Of one type in every call, so that one compiled program serves all.
    state, _ = target.transition(state, key, np.float64(0.0), np.int64(1), data)
    step = min(1.0, x.shape[1] ** -0.25)
    rows: list[_States] = []
    while len(rows) < _MOST_ROWS:
        began = deadline.left
        phi: list[Numbers] = []
        sums = squares = np.zeros((chains, len(target.middle)))
        for number in range(len(rows) * _ROW, (len(rows) + 1) * _ROW):
            deadline.tick()
            jittered = np.float64(step * rng.uniform(0.8, 1.2))
            steps = np.int64(np.clip(np.ceil(_LENGTH / jittered), 1, _MOST_STEPS))
            own = jax.random.fold_in(key, number)
            state, accept = target.transition(state, own, jittered, steps, data)
            rate = float(accept.mean())
            if number < _ADAPTING:
                step = 0.6 * step if rate < _LOW else min(1.3 * step, 1.5) if rate > _HIGH else step
            place, effects = target.read(np.asarray(state[0]))
            phi.append(place)
            sums, squares = sums + effects, squares + effects**2
        rows.append(_States(np.stack(phi), sums, squares))
        if len(rows) > 1 and _last(rows).effective >= _ENOUGH * chains:
            break
        if began - deadline.left > deadline.left:
            break
    return _last(rows)


def _last(rows: Sequence[_States]) -> _States:
    """What counts of them."""
    return _States.of(rows[-(-len(rows) // 3) :] or rows)


def _compared(posterior: Posterior, target: _Target, deadline: Deadline) -> Reference | NoReference:
    states = _run(target, deadline)
    effective = states.effective
    if not effective >= _MOVED * target.chains:
        if deadline.left < 1:
            raise OutOfTimeError
        return NoReference("short chains from the draws hardly moved")
    d = len(target.mean)
    flat = states.phi.reshape(-1, d)
    equal = np.full(len(flat), 1 / len(flat))
    own = {name: target.q[name] for name in target.outer}
    labels, q, inside, scales = coordinates(posterior, target.joint, own, flat, equal)
    size = len(next(iter(target.q.values())))
    levels, kurtosis, start = {}, {}, 0
    mean, sd = states.mean, states.sd
    for name in target.inner:
        effects = target.q[name].reshape(size, -1)
        place = slice(start, start + effects.shape[1])
        start = place.stop
        own_moments = effects.mean(axis=0), effects.std(axis=0, ddof=1)
        levels[name] = (*own_moments, mean[place], sd[place])
        kurtosis[name] = kurtosis_of(effects)
    return Reference(
        labels,
        q if d else np.zeros((size, 0)),
        inside.mean(axis=0),
        np.cov(inside.T).reshape(d, d),
        effective,
        None,
        scales,
        levels,
        kurtosis=kurtosis,
        source=f"{target.chains} short chains of all parameters from the fit's draws, "
        f"{effective:,.0f} effective states",
    )
