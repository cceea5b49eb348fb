"""Computes a reference posterior by short chains that start from the fit's own draws (TADDAA).

Chains of Hamiltonian Monte Carlo (Neal, 2011) on the program's joint density start from draws of
the approximation q. If q is the posterior, the states of the chains keep its distribution. If not,
they move towards the posterior, and their means and sds depart from those of q (Wang, Kasprzak and
Huggins, 2023). No integral is needed, so that crossed groupings and many effects are possible.

Let b be the effects of all blocks that have a scale, and phi all other parameters. The chains run
in coordinates (z, x) in which q is close to a standard normal distribution,

    phi = m + L z,
    b_e = t_e (c_e + B_e z + s_e x_e).

m and L L' are the mean and covariance of q's draws of phi. c, B and s are the intercepts, slopes
and residual sds of the regression of q's draws of b_e / t_e on z. t_e is the prior sd of b_e if the
variance of b_e under q is more than half of its prior variance, and one otherwise. So effects
about which the rows have little information are non-centred, and the others are centred.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import COMPILING, Deadline, OutOfTimeError
from ranef.check.reference import NoReference, Reference, kurtosis_of
from ranef.check.reference_importance import JointDensity, coordinates
from ranef.errors import RanefError
from ranef.lazy import Array, ArrayLike, jax, jnp
from ranef.numerics.shapes import Bool, Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem
from ranef.program.training import Rows
from ranef.terms.blocks import LinearBlock

Numbers = NDArray[np.float64]
Vector = Float[Numbers, "d"]
Effects = Float[Numbers, "m"]
# States of the chains: coordinates, log densities and gradients.
State = tuple[Array, Array, Array]
# A transition of all chains; see `_Target.transition`.
Transition = Callable[[State, Array, ArrayLike, ArrayLike, Rows], tuple[State, Array]]

# Largest and smallest number of chains.
_MOST_CHAINS = 64
_LEAST_CHAINS = 16
# Rows times chains in one evaluation, which sets the number of chains between these limits.
_ROWS = 2_000_000
# Transitions in a block of states. Within a block only sums of the effects are kept.
_ROW = 15
# Blocks at most. The first third of all blocks is warm-up and is discarded.
_MOST_ROWS = 40
# Transitions at the start during which the step size adapts.
_ADAPTING = 10
# The step size shrinks if the mean acceptance probability is below the first, and grows if it is
# above the second.
_LOW = 0.65
_HIGH = 0.92
# Length of a trajectory in sds of q: about pi / 2, a quarter of the period of the Hamiltonian flow
# of a standard normal distribution.
_LENGTH = 1.5
# Leapfrog steps of a trajectory, at most.
_MOST_STEPS = 64
# Effective states per chain below which the chains have moved too little to be a reference.
_MOVED = 2.0
# Effective states per chain at which the chains stop.
_ENOUGH = 4.0
# Largest dimension of phi with a full covariance matrix; beyond it L is diagonal.
_DENSE = 200
# Largest number of elements of the slopes B; beyond it B is zero.
_MOST_SLOPES = 20_000_000
# Largest number of elements of the fit's draws that are held at once: 0.8 GB.
_HELD = 100_000_000
# Largest number of rows and parameters over all chains: some 2 GB with the program's intermediate
# arrays.
_LARGEST = 50_000_000


def short_chains(
    posterior: Posterior, problem: Problem, deadline: Deadline
) -> Reference | NoReference:
    """Compute the reference by short chains from the fit's draws.

    Args:
        posterior: the fit that is checked.
        problem: its model and rows.
        deadline: when to stop.

    Returns:
        The reference, or the reason why there is none: rows that are read in batches, matrix
        factorizations, a model too large for memory, or chains that hardly moved.

    Raises:
        OutOfTimeError: if the deadline passes.
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
    def of(cls, posterior: Posterior, problem: Problem) -> "_Target | NoReference":
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

    def _placed(self, phi: Numbers) -> "_Target":
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

    @cached_property
    def transition(self) -> Transition:
        """The compiled Hamiltonian transition of all chains.

        It takes the state (x (chains, d + m), log densities (chains,), gradients (chains, d + m)),
        a random key, the step size, the number of leapfrog steps and the rows. It returns the state
        after the transition and the acceptance probabilities (chains,). Called with log densities
        of minus infinity and a step size of zero, it evaluates log density and gradient at x.
        """
        slope = jax.vmap(jax.value_and_grad(self.log_density), in_axes=(0, None))

        def run(
            state: State, key: Array, step: Array, steps: Array, data: Rows
        ) -> tuple[State, Array]:
            x, value, gradient = state
            noise, choice = jax.random.split(key)
            p = jax.random.normal(noise, x.shape)

            def leapfrog(_: ArrayLike, inside: tuple) -> tuple:
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


@dataclass(frozen=True)
class _States:
    """States of the chains.

    Attributes:
        phi: the parameters phi.
        sums: sums of the effects over the states.
        squares: sums of their squares.
    """

    phi: Float[Numbers, "states chains d"]
    sums: Float[Numbers, "chains m"]
    squares: Float[Numbers, "chains m"]

    @classmethod
    def of(cls, rows: Sequence["_States"]) -> "_States":
        """Several blocks of states, concatenated."""
        return cls(
            np.concatenate([row.phi for row in rows]),
            np.sum([row.sums for row in rows], axis=0),
            np.sum([row.squares for row in rows], axis=0),
        )

    @property
    def mean(self) -> Effects:
        """Mean of each effect."""
        return self.sums.mean(axis=0) / len(self.phi)

    @property
    def sd(self) -> Effects:
        """Sd of each effect."""
        square = self.squares.mean(axis=0) / len(self.phi)
        return np.sqrt(np.maximum(square - self.mean**2, 0.0))

    @property
    def effective(self) -> float:
        """The smallest effective number of states over all parameters.

        The variance of the overall mean is estimated by that between the means of the chains.
        """
        count, chains, d = self.phi.shape
        own = _effective(self.phi.mean(axis=0), self.phi.reshape(-1, d).var(axis=0))
        return min(own, _effective(self.sums / count, self.sd**2), float(count * chains))


def _effective(means: Float[Numbers, "chains m"], variance: Effects) -> float:
    """Smallest effective number of states, from means by chain and variances."""
    between = means.var(axis=0, ddof=1)
    vary = (between > 0) & (variance > 0)
    return float((variance[vary] / between[vary]).min(initial=np.inf)) * len(means)


def _run(target: _Target, deadline: Deadline) -> _States:
    """Run the chains until they have moved far enough or there is no time for another block."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    x = jnp.asarray(target.start(rng), jnp.float64)
    data, chains = target.joint.problem.data, target.chains
    state = (x, jnp.full(chains, -jnp.inf, jnp.float64), jnp.zeros_like(x))
    deadline.tick(COMPILING)
    # The arguments have the same types in every call, so that the function is compiled once.
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
    """The states after warm-up: all blocks but the first third."""
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
