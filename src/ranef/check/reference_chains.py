"""Computes a reference posterior by short chains that start from the fit's own draws (TADDAA).

Chains of Hamiltonian Monte Carlo (Neal, 2011) on the program's joint density start from draws of
the approximation q. If q is the posterior, the states of the chains keep its distribution. If not,
they move towards the posterior, and their means and sds depart from those of q (Wang, Kasprzak and
Huggins, 2023). No integral is needed, so that crossed groupings and many effects are possible. The
chains run in coordinates in which q is close to standard normal (``chain_coordinates``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.check.chain_coordinates import ChainTarget
from ranef.check.deadline import COMPILING, Deadline, OutOfTimeError
from ranef.check.reference import NoReference, Reference, kurtosis_of
from ranef.check.reference_coordinates import coordinates
from ranef.errors import RanefError
from ranef.lazy import Array, ArrayLike, jax, jnp
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Problem
from ranef.program.training import Rows

Numbers = NDArray[np.float64]
Effects = Float[Numbers, "m"]
# States of the chains: coordinates, log densities and gradients.
State = tuple[Array, Array, Array]
# A transition of all chains; see `_transition`.
Transition = Callable[[State, Array, ArrayLike, ArrayLike, Rows], tuple[State, Array]]

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
            target = ChainTarget.of(posterior, problem)
            if isinstance(target, NoReference):
                return target
            return _compared(posterior, target, deadline)
    except (RanefError, FloatingPointError, np.linalg.LinAlgError) as error:
        return NoReference(str(error))


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


def _transition(target: ChainTarget) -> Transition:
    """The compiled Hamiltonian transition of all chains of a target.

    It takes the state (x (chains, d + m), log densities (chains,), gradients (chains, d + m)),
    a random key, the step size, the number of leapfrog steps and the rows. It returns the state
    after the transition and the acceptance probabilities (chains,). Called with log densities
    of minus infinity and a step size of zero, it evaluates log density and gradient at x.
    """
    slope = jax.vmap(jax.value_and_grad(target.log_density), in_axes=(0, None))

    def run(state: State, key: Array, step: Array, steps: Array, data: Rows) -> tuple[State, Array]:
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


def _run(target: ChainTarget, deadline: Deadline) -> _States:
    """Run the chains until they have moved far enough or there is no time for another block."""
    rng, key = np.random.default_rng(0), jax.random.key(0)
    transition = _transition(target)
    x = jnp.asarray(target.start(rng), jnp.float64)
    data, chains = target.joint.problem.data, target.chains
    state = (x, jnp.full(chains, -jnp.inf, jnp.float64), jnp.zeros_like(x))
    deadline.tick(COMPILING)
    # The arguments have the same types in every call, so that the function is compiled once.
    state, _ = transition(state, key, np.float64(0.0), np.int64(1), data)
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
            state, accept = transition(state, own, jittered, steps, data)
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


def _compared(
    posterior: Posterior, target: ChainTarget, deadline: Deadline
) -> Reference | NoReference:
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
