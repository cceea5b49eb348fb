"""Chains of the No-U-Turn sampler (Hoffman and Gelman, 2014), in parallel threads.

The kernel is NumPyro's. It is compiled once, and each chain runs in a thread of its own. Compiled
code does not hold Python's global lock, so that the chains use all cores. The number of JAX's
devices and other settings of the process stay as they are.
"""

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.lazy import Array, constraints, dist, jax, jnp, numpyro
from ranef.numerics.shapes import Float, Shaped
from ranef.progress import progress_bar

Point = Float[Array, "d"]

# Steps in one call of the compiled loop, between two updates of the progress bar.
_WINDOW = 50
# Maximal dimension for a dense mass matrix; above, it is diagonal.
_DENSE = 60
# Sds of the normal jitter added to the start of a chain, tried in order until the density and its
# gradient are finite. The last, zero, is for densities that are finite at the start only.
_JITTER = (0.5, 0.1, 0.01, 0.0)


@runtime_checkable
class ChainTarget(Protocol):
    """A density that chains can sample.

    Attributes:
        start: a point where the density is finite.
        data: arrays that the density depends on, a pytree.
    """

    @property
    def start(self) -> Point: ...

    @property
    def data(self) -> Any: ...

    def log_density(self, z: Point, data: Any) -> Float[Array, ""]:
        """The log density at z, up to a constant, in nats."""
        ...


@runtime_checkable
class _State(Protocol):
    """What is read of the state of NumPyro's kernel."""

    @property
    def z(self) -> Mapping[str, Array]: ...

    @property
    def z_grad(self) -> Mapping[str, Array]: ...

    @property
    def potential_energy(self) -> Array: ...

    @property
    def diverging(self) -> Array: ...

    @property
    def energy(self) -> Array: ...

    @property
    def accept_prob(self) -> Array: ...

    @property
    def num_steps(self) -> Array: ...


@dataclass(frozen=True)
class Chains:
    """Draws after tuning, with statistics of the sampler.

    Attributes:
        z: the draws.
        statistics: numbers of each draw, by ArviZ's names: diverging, energy,
            acceptance_rate, n_steps.
    """

    z: Float[NDArray, "chains draws d"]
    statistics: dict[str, Shaped[NDArray, "chains draws"]]


def sample(
    density: ChainTarget,
    *,
    key: Array,
    chains: int,
    tune: int,
    draws: int,
    target_accept: float,
    progress: bool,
) -> Chains:
    """Samples a density by NUTS.

    Args:
        density: the density; chains start around its start.
        key: key of the random numbers; the same key gives the same draws.
        chains: number of chains.
        tune: number of steps in which the step size and the mass matrix adapt.
        draws: number of draws of each chain, after tuning.
        target_accept: mean acceptance probability to which the step size is tuned.
        progress: whether to show a bar on standard error.

    Returns:
        Draws and statistics of all chains.

    Raises:
        DataError: if the density is not finite at its start.
    """
    start, data = density.start, density.data

    def model(data: Any) -> None:
        z = numpyro.sample("z", dist.ImproperUniform(constraints.real, (), event_shape=start.shape))
        # If the density runs a NumPyro program, hide the sites of that program.
        with numpyro.handlers.block():
            value = density.log_density(jnp.asarray(z), data)
        numpyro.factor("density", value)

    dense = start.size <= _DENSE
    kernel = numpyro.infer.NUTS(model, dense_mass=dense, target_accept_prob=target_accept)
    jitter_key, chain_key = jax.random.split(key)
    begin = jax.jit(lambda key, z, data: kernel.init(key, tune, {"z": z}, (data,), {}))

    def state_near(key: Array, noise: Point) -> _State:
        for sd in _JITTER:
            state = begin(key, start + sd * noise, data)
            if np.isfinite(state.potential_energy) and np.isfinite(state.z_grad["z"]).all():
                return state
        raise DataError(
            "nuts cannot start, because the density is not finite there; check the scale of the "
            "columns and the priors"
        )

    noise = jax.random.normal(jitter_key, (chains, *start.shape))
    keys = jax.random.split(chain_key, chains)
    states = [state_near(k, away) for k, away in zip(keys, noise, strict=True)]

    def steps(state: _State, data: Any) -> tuple[_State, tuple[Array, ...]]:
        def step(state: _State, _: None) -> tuple[_State, tuple[Array, ...]]:
            state = kernel.sample(state, (data,), {})
            about = (state.diverging, state.energy, state.accept_prob, state.num_steps)
            return state, (state.z["z"], *about)

        return jax.lax.scan(step, state, None, length=_WINDOW)

    window = jax.jit(steps).lower(states[0], data).compile()
    windows = -(-(tune + draws) // _WINDOW)
    bar = progress_bar("nuts", "steps", shown=progress, total=windows * _WINDOW * chains)
    stopped = threading.Event()

    def run(state: _State) -> list[NDArray]:
        records = []
        # JAX's precision is a setting of the thread.
        with jax.enable_x64(True):
            for _ in range(windows):
                if stopped.is_set():
                    break
                state, record = window(state, data)
                records.append([np.asarray(each) for each in record])
                bar.update(_WINDOW)
        kept = slice(tune, tune + draws)
        return [np.concatenate(each)[kept] for each in zip(*records, strict=True)]

    with ThreadPoolExecutor(min(chains, os.cpu_count() or 1)) as threads:
        try:
            found = list(threads.map(run, states))
        finally:
            stopped.set()
            bar.close()
    z, diverging, energy, acceptance, count = (np.stack(each) for each in zip(*found, strict=True))
    names = ("diverging", "energy", "acceptance_rate", "n_steps")
    values = (diverging, energy, acceptance, count)
    return Chains(z, dict(zip(names, values, strict=True)))
