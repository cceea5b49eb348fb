"""Hamiltonian Monte Carlo (Duane et al., 1987; Neal, 2011) on a density with exact gradients.

It serves hyperparameters in many dimensions, where neither a surrogate nor importance weights do.
Coordinates are whitened by the curvature at the mode, so that the target is near a standard
normal one, for which a trajectory of length pi / 2 ends at an independent draw. The length of
each trajectory is drawn around that, so that no direction is resonant. All chains move in
step: they share the step size (dual averaging; Hoffman and Gelman, 2014) and the scales of
the coordinates, both of which are fixed once the warm-up is over.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.mode import Mode
from ranef.numerics.chain_diagnostics import ESS, convergence

Array = NDArray[np.float64]
Gradient = Callable[[Array], tuple[float, Array]]

# Chains, which are enough for R-hat to see that they disagree.
CHAINS = 4
# Steps of the warm-up, the last third of which has the final scales.
_WARM_UP = 90
# The acceptance that the step size is tuned to.
_ACCEPT = 0.8
# Trajectories have lengths between these shares of pi / 2.
_SHORT, _LONG = 0.6, 1.4
# Leapfrog steps of a trajectory at most, and before it is known that steps are of use at all.
_MOST_STEPS, _MOST_AT_FIRST = 40, 8
# A step size below which such a trajectory goes nowhere: the density is far from one of the
# curvature at the mode, and chains would take hours to say so. Looked at after so many steps of the
# warm-up, and at its end.
_LEAST_STEP, _JUDGED = 0.02, 15
# Evaluations after which chains end. Where they serve a trajectory takes three or four, so that
# this is 400 draws of each. How many draws are wanted does not change it.
_MOST = 8_000
# Draws of each chain between two looks at whether they have converged; and the number from which on
# chains are given up that would take so many times the evaluations.
_BLOCK, _LOOKED_AT, _HOPELESS = 50, 100, 2.0
# A trajectory whose energy rises by so many nats has left the region where the step size serves.
_DIVERGED = 1000.0
# Dual averaging: its pull, its delay, and how fast it forgets (Hoffman and Gelman, 2014).
_PULL, _DELAY, _FORGET = 0.05, 10.0, 0.75


@dataclass(frozen=True)
class Chains:
    """Draws after the warm-up.

    Attributes:
        x: (chains, draws, d).
        values: (chains, draws) the log density at each.
        r_hat: the largest of all coordinates.
        ess: the smallest effective sample size of all coordinates, of the bulk and the tails.
        evaluations: of the density and its gradient.
        converged: whether R-hat is at most 1.01 and there are 100 effective draws for each chain.
    """

    x: Array
    values: Array
    r_hat: float
    ess: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class _State:
    """Where a chain is: whitened z (d,), the log density and its gradient in z."""

    z: Array
    value: float
    gradient: Array


def hmc(
    density: Gradient,
    canonical: Callable[[Array], Array],
    top: Mode,
    rng: np.random.Generator,
    draws: int,
    most: int = _MOST,
) -> Chains:
    """Draws of x from a density.

    Args:
        density: log density and gradient at x (d,); minus infinity where it cannot be evaluated.
        canonical: of the points (n, d) at which the density is the same, the one that stands
            for all.
        top: its mode, around which the chains start.
        rng: of all that is drawn.
        draws: in all chains together, of which there are fewer where `most` ends them.
        most: evaluations after which the chains end, whether they have converged or not.
    """
    sampler = _Sampler(density, top)
    states = [sampler.begin(rng) for _ in range(CHAINS)]
    states = sampler.warm_up(states, rng)
    if sampler.step < _LEAST_STEP:
        x = canonical(sampler.places(states))[:, None]
        values = np.array([[state.value] for state in states])
        return Chains(x, values, math.inf, 1.0, sampler.evaluations, False)
    x = np.empty((CHAINS, 0, len(top.x)))
    values = np.empty((CHAINS, 0))
    warm = sampler.evaluations
    while True:
        more, more_values, states = sampler.run(states, rng, _BLOCK)
        more = canonical(more.reshape(-1, len(top.x))).reshape(more.shape)
        x = np.concatenate([x, more], axis=1)
        values = np.concatenate([values, more_values], axis=1)
        found = convergence({"x": x})
        converged = found.mixed and found.enough
        if converged and x.shape[1] * CHAINS >= draws:
            break
        # So many evaluations these chains would take for as many effective draws as are needed.
        needed = (sampler.evaluations - warm) * ESS * CHAINS / found.ess
        hopeless = x.shape[1] >= _LOOKED_AT and warm + needed > _HOPELESS * most
        if sampler.evaluations > most or (hopeless and not converged):
            break
    return Chains(x, values, found.r_hat, found.ess, sampler.evaluations, converged)


class _Sampler:
    """The moves of all chains.

    Attributes:
        step: the step size.
        evaluations: of the density so far.
    """

    def __init__(self, density: Gradient, top: Mode) -> None:
        self._density, self._top = density, top
        self._scale = np.ones(len(top.x))
        # The largest stable step of a standard normal target is 2; in many dimensions the
        # acceptance falls with d eps^6 (Beskos et al., 2013).
        self.step = 0.8 * max(1, len(top.x)) ** (-1 / 6)
        self.evaluations = 0

    def _at(self, z: Array) -> _State:
        self.evaluations += 1
        root = self._top.root * self._scale
        value, gradient = self._density(self._top.x + root @ z)
        return _State(z, value, gradient @ root)

    def begin(self, rng: np.random.Generator) -> _State:
        """A state as far from the mode as a draw is, or nearer where the density is not finite."""
        z = rng.standard_normal(len(self._top.x))
        for share in (1.0, 0.5, 0.1):
            state = self._at(share * z)
            if np.isfinite(state.value):
                return state
        return self._at(np.zeros_like(z))

    def warm_up(self, states: list[_State], rng: np.random.Generator) -> list[_State]:
        """The chains where they have forgotten their start; tunes step size and scales."""
        final = 2 * _WARM_UP // 3
        seen: list[Array] = []
        average = _DualAverage(self.step)
        for t in range(_WARM_UP):
            if t == final:
                states = self._rescaled(states, np.array(seen[len(seen) // 3 :]))
                average = _DualAverage(self.step)
            rates = []
            most = _MOST_AT_FIRST if t < _JUDGED else _MOST_STEPS
            for c, state in enumerate(states):
                states[c], rate = self._move(state, rng, most)
                rates.append(rate)
            seen += [state.z for state in states]
            self.step = average.step(float(np.mean(rates)))
            if t + 1 == _JUDGED and average.final < _LEAST_STEP:
                break
        self.step = average.final
        return states

    def _rescaled(self, states: list[_State], z: Array) -> list[_State]:
        """New scales of the whitened coordinates, from the sds (d,) of the draws z (n, d)."""
        n = len(z)
        variance = (n * z.var(axis=0) + 5.0) / (n + 5.0)
        ratio = np.sqrt(variance)
        self._scale = self._scale * ratio
        return [_State(s.z / ratio, s.value, s.gradient * ratio) for s in states]

    def run(
        self, states: list[_State], rng: np.random.Generator, size: int
    ) -> tuple[Array, Array, list[_State]]:
        """`size` draws of each chain (chains, size, d), their log densities, the last states."""
        z = np.empty((len(states), size, len(self._top.x)))
        values = np.empty((len(states), size))
        states = list(states)
        for t in range(size):
            for c, state in enumerate(states):
                states[c], _ = self._move(state, rng)
                z[c, t], values[c, t] = states[c].z, states[c].value
        root = self._top.root * self._scale
        return self._top.x + z @ root.T, values, states

    def places(self, states: list[_State]) -> Array:
        """Where the chains are, (chains, d)."""
        root = self._top.root * self._scale
        return self._top.x + np.array([state.z for state in states]) @ root.T

    def _move(
        self, state: _State, rng: np.random.Generator, most: int = _MOST_STEPS
    ) -> tuple[_State, float]:
        """One trajectory of at most so many steps: the next state, its acceptance probability."""
        length = 0.5 * math.pi * rng.uniform(_SHORT, _LONG)
        steps = min(max(1, math.ceil(length / self.step)), most)
        eps = min(self.step, length / steps)
        p = rng.standard_normal(len(state.z))
        energy = state.value - 0.5 * float(p @ p)
        here, change = state, 0.0
        for _ in range(steps):
            p = p + 0.5 * eps * here.gradient
            here = self._at(here.z + eps * p)
            p = p + 0.5 * eps * here.gradient
            change = here.value - 0.5 * float(p @ p) - energy
            if not change > -_DIVERGED:
                return state, 0.0
        rate = math.exp(min(0.0, change))
        return (here if rng.random() < rate else state), rate


class _DualAverage:
    """The step size that brings the acceptance to its target (Hoffman and Gelman, 2014, sec. 3.2).

    Attributes:
        final: the average over the steps so far.
    """

    def __init__(self, step: float) -> None:
        self._centre, self._log_average = math.log(2 * step), math.log(step)
        self._error, self._count = 0.0, 0

    def step(self, rate: float) -> float:
        """The next step size, after a step that was accepted with probability `rate`."""
        self._count += 1
        share = 1 / (self._count + _DELAY)
        self._error += share * (_ACCEPT - rate - self._error)
        log_step = self._centre - math.sqrt(self._count) / _PULL * self._error
        keep = self._count**-_FORGET
        self._log_average += keep * (log_step - self._log_average)
        return math.exp(log_step)

    @property
    def final(self) -> float:
        return math.exp(self._log_average)
