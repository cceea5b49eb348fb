"""Hamiltonian Monte Carlo (Duane et al., 1987; Neal, 2011) on a density with exact gradients.

It serves for hyperparameters in many dimensions, where surrogates and importance weights fail.
Coordinates are whitened by the curvature at the mode, so that the target is close to standard
normal, for which a trajectory of length pi / 2 ends at an independent draw. The length of each
trajectory is random around pi / 2, so that no direction is resonant. All chains share the step size
(dual averaging; Hoffman and Gelman, 2014) and the scales of the coordinates, both of which are
fixed after the warm-up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.inference.hyperparameters.mode import Mode
from ranef.numerics.chain_diagnostics import ESS, convergence
from ranef.numerics.shapes import Float

Array = NDArray[np.float64]
Vector = Float[Array, "d"]
Points = Float[Array, "points d"]
Gradient = Callable[[Vector], tuple[float, Vector]]

# Number of chains, enough for R-hat to see whether they disagree.
CHAINS = 4
# Trajectories of each chain in the warm-up. The scales are final for the last third of them.
_WARM_UP = 90
# Acceptance probability to which the step size is tuned.
_ACCEPT = 0.8
# Shortest and longest trajectory, as multiples of pi / 2.
_SHORT = 0.6
_LONG = 1.4
# Largest number of leapfrog steps of a trajectory.
_MOST_STEPS = 40
# The same for the first `_JUDGED` trajectories, after which step sizes that are too small end the
# run.
_MOST_AT_FIRST = 8
# Smallest step size, in whitened coordinates. If it has to be smaller, the density is far from
# normal with the curvature at the mode, and chains would take hours to show it.
_LEAST_STEP = 0.02
# Trajectories of each chain after which the step size is first compared with `_LEAST_STEP`. It is
# compared again after the warm-up.
_JUDGED = 15
# Default number of evaluations after which the chains end, whatever the number of draws asked for.
# Where HMC works, a trajectory takes three or four, so that each chain makes about 400 draws.
_MOST = 8_000
# Draws of each chain between two checks of convergence.
_BLOCK = 50
# Draws of each chain from which it may be judged hopeless.
_LOOKED_AT = 100
# Chains are hopeless if they are estimated to need more than this multiple of the evaluations that
# they may use.
_HOPELESS = 2.0
# A trajectory diverges, and is rejected, if its energy rises by this many nats.
_DIVERGED = 1000.0
# gamma of dual averaging (Hoffman and Gelman, 2014): the smaller it is, the more strongly the step
# size follows the errors of the acceptance probability.
_PULL = 0.05
# t0 of dual averaging: the larger it is, the less the first trajectories move the step size.
_DELAY = 10.0
# kappa of dual averaging: the larger it is, the sooner the average forgets earlier step sizes.
_FORGET = 0.75


@dataclass(frozen=True)
class Chains:
    """Draws after the warm-up, and diagnostics.

    Attributes:
        x: the draws.
        values: their log densities.
        r_hat: the largest of all coordinates.
        ess: the smallest effective sample size, bulk or tail, of all coordinates.
        evaluations: of the density and its gradient.
        converged: whether R-hat is at most 1.01 and there are at least 100 effective draws per
            chain.
    """

    x: Float[Array, "chains draws d"]
    values: Float[Array, "chains draws"]
    r_hat: float
    ess: float
    evaluations: int
    converged: bool


@dataclass(frozen=True)
class _State:
    """State of a chain: whitened z, the log density, and its gradient in z."""

    z: Vector
    value: float
    gradient: Vector


def hmc(
    density: Gradient,
    canonical: Callable[[Points], Points],
    top: Mode,
    rng: np.random.Generator,
    draws: int,
    most: int = _MOST,
) -> Chains:
    """Draws of x from a density by four chains.

    Args:
        density: log density and gradient at x; minus infinity where it cannot be evaluated.
        canonical: maps points to the one that stands for all points of equal density.
        top: the mode of the density, around which the chains start.
        rng: of all that is drawn.
        draws: number of draws of all chains together; there are fewer if `most` ends the chains.
        most: number of evaluations after which the chains end, converged or not.

    Returns:
        the draws; one state per chain, not converged, if the step size became too small.
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
        # Estimate of the evaluations that these chains take for the effective draws required.
        needed = (sampler.evaluations - warm) * ESS * CHAINS / found.ess
        hopeless = x.shape[1] >= _LOOKED_AT and warm + needed > _HOPELESS * most
        if sampler.evaluations > most or (hopeless and not converged):
            break
    return Chains(x, values, found.r_hat, found.ess, sampler.evaluations, converged)


class _Sampler:
    """The moves of all chains.

    Attributes:
        step: the step size, in whitened coordinates.
        evaluations: of the density so far.
    """

    def __init__(self, density: Gradient, top: Mode) -> None:
        self._density, self._top = density, top
        self._scale = np.ones(len(top.x))
        # For a standard normal target the largest stable step size is 2. In d dimensions the
        # rejection rate depends on d step^6 (Beskos et al., 2013).
        self.step = 0.8 * max(1, len(top.x)) ** (-1 / 6)
        self.evaluations = 0

    def _at(self, z: Vector) -> _State:
        """State at whitened z."""
        self.evaluations += 1
        root = self._top.root * self._scale
        value, gradient = self._density(self._top.x + root @ z)
        return _State(z, value, gradient @ root)

    def begin(self, rng: np.random.Generator) -> _State:
        """A start as far from the mode as a draw; nearer if the density is not finite there."""
        z = rng.standard_normal(len(self._top.x))
        for share in (1.0, 0.5, 0.1):
            state = self._at(share * z)
            if np.isfinite(state.value):
                return state
        return self._at(np.zeros_like(z))

    def warm_up(self, states: list[_State], rng: np.random.Generator) -> list[_State]:
        """The chains after the warm-up, in which step size and scales are tuned."""
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

    def _rescaled(self, states: list[_State], z: Points) -> list[_State]:
        """The states with coordinates rescaled by the sds of the draws z."""
        n = len(z)
        variance = (n * z.var(axis=0) + 5.0) / (n + 5.0)
        ratio = np.sqrt(variance)
        self._scale = self._scale * ratio
        return [_State(s.z / ratio, s.value, s.gradient * ratio) for s in states]

    def run(
        self, states: list[_State], rng: np.random.Generator, size: int
    ) -> tuple[Float[Array, "chains draws d"], Float[Array, "chains draws"], list[_State]]:
        """Runs each chain for `size` draws.

        Returns:
            draws x, their log densities, and the last states.
        """
        z = np.empty((len(states), size, len(self._top.x)))
        values = np.empty((len(states), size))
        states = list(states)
        for t in range(size):
            for c, state in enumerate(states):
                states[c], _ = self._move(state, rng)
                z[c, t], values[c, t] = states[c].z, states[c].value
        root = self._top.root * self._scale
        return self._top.x + z @ root.T, values, states

    def places(self, states: list[_State]) -> Float[Array, "chains d"]:
        """The chains' positions x."""
        root = self._top.root * self._scale
        return self._top.x + np.array([state.z for state in states]) @ root.T

    def _move(
        self, state: _State, rng: np.random.Generator, most: int = _MOST_STEPS
    ) -> tuple[_State, float]:
        """One trajectory of at most `most` steps: next state and acceptance probability."""
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
    """Dual averaging of the step size (Hoffman and Gelman, 2014, section 3.2).

    Attributes:
        final: the average over the steps so far.
    """

    def __init__(self, step: float) -> None:
        self._centre, self._log_average = math.log(2 * step), math.log(step)
        self._error, self._count = 0.0, 0

    def step(self, rate: float) -> float:
        """The next step size, after an acceptance probability of `rate`."""
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
