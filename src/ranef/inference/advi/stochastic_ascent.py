"""Stochastic gradient ascent of an ELBO, with a step size that shrinks in stages.

Steps are taken in windows of fixed length. A stage ends when the mean ELBO of a window no longer
rises beyond its Monte Carlo noise; the next stage multiplies the step size by `DECAY`. The result
is the average of the parameters over the last stage (Polyak and Juditsky, 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, OptionError
from ranef.inference.advi.elbo import AscentParams, Objective
from ranef.inference.checkpoint import Checkpoint, filled, flat
from ranef.lazy import Array, jax, jnp, optax
from ranef.numerics.shapes import Float, Shaped
from ranef.program.networks import MutableState
from ranef.progress import progress_bar

Scalar = Shaped[Array, ""]
# Parameters, state of the optimizer, state that the program updates, and the sum of the parameters
# over the stage.
Carry = tuple[AscentParams, Any, MutableState, AscentParams]
# The ELBO of a step or of each of several, whether it is finite, and whether the step was taken.
StepRecord = tuple[Array, Array, Array]

# Steps in a window, which is one call of the compiled loop.
WINDOW = 50
# Factor of the step size from one stage to the next.
DECAY = 0.2
# Number of stages.
STAGES = 4
# Minimal length of the last stage under minibatches, in passes over the rows. The average over so
# many passes is off by about a tenth of a posterior sd.
PASSES = 100
# Minimal length of any stage under minibatches, in steps. Before that the ELBO is too noisy to tell
# whether a stage is over.
LEAST = 600


@dataclass(frozen=True)
class AscentResult:
    """Result of a search.

    Attributes:
        params: variational parameters and point estimates, averaged over the last stage.
        carried: state that the program updates, by site.
        converged: whether all stages ended by themselves.
        message: how the search ended, as a sentence.
        steps: number of steps.
        trace: the ELBO estimate of each step in nats, NaN for a rejected one.
        resumed_from: step at which a checkpoint was taken up; None without one.
        interrupted: whether the user ended the search.
    """

    params: AscentParams
    carried: MutableState
    converged: bool
    message: str
    steps: int
    trace: Float[NDArray, steps]
    resumed_from: int | None
    interrupted: bool


class Search:
    """Stochastic gradient ascent of one objective.

    A stage ends when two windows in a row have no higher mean ELBO than the window before them,
    beyond the noise. The result is the average of the parameters over the last stage.

    Args:
        objective: the ELBO.
        optimizer: any optax optimizer that takes gradients alone.
        batch: rows of a minibatch; the number of rows for steps on all of them.
    """

    def __init__(
        self, objective: Objective, optimizer: optax.GradientTransformation, batch: int
    ) -> None:
        self.objective, self.optimizer, self.batch = objective, optimizer, batch
        n = objective.problem.n
        last = math.ceil(PASSES * n / batch)
        self.least = [*[LEAST] * (STAGES - 1), max(LEAST, last)] if batch < n else [0] * STAGES
        self.window = jax.jit(self._window)

    def _step(self, carry: Carry, inputs: tuple[Array, Scalar, Scalar]) -> tuple[Carry, StepRecord]:
        """One step, rejected if it is idle or not finite; the new carry, and a record of it."""
        params, moments, carried, total = carry
        key, active, factor = inputs
        pick, noise = jax.random.split(key)
        n, data = self.objective.problem.n, self.objective.data
        if self.batch < n:
            rows = jax.random.randint(pick, (self.batch,), 0, n)
            data = jax.tree.map(lambda a: a[rows], data)

        def loss(p: AscentParams) -> tuple[Scalar, MutableState]:
            values, updated = self.objective.samples_of(p, carried, noise, data)
            return -jnp.mean(values), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        step, new_moments = self.optimizer.update(gradient, moments, _tree(params))
        new_params = jax.tree.map(lambda p, s: p + factor * s, params, step)
        sums = [jnp.sum(leaf) for leaf in jax.tree.leaves((gradient, new_params))]
        finite = jnp.isfinite(value) & jnp.isfinite(jnp.sum(jnp.stack(sums)))
        go = finite & active
        params, moments, carried = jax.tree.map(
            lambda new, old: jnp.where(go, new, old),
            (new_params, new_moments, updated),
            (params, moments, carried),
        )
        total = jax.tree.map(lambda t, p: t + jnp.where(go, p, 0.0), total, params)
        return (params, moments, carried, total), (-value, finite, go)

    def _window(
        self, carry: Carry, key: Array, number: Scalar, size: Scalar, factor: Scalar
    ) -> tuple[Carry, StepRecord]:
        """The window of this `number`: `size` steps, and idle ones up to its fixed length."""
        keys = jax.random.split(jax.random.fold_in(key, number), WINDOW)
        active = jnp.arange(WINDOW) < size
        return jax.lax.scan(self._step, carry, (keys, active, jnp.full(WINDOW, factor)))

    def estimate(self, found: AscentResult, key: Array, windows: int = 2) -> tuple[float, float]:
        """The ELBO at the result of a search, from windows of idle steps.

        Args:
            found: the result.
            key: key of the random numbers.
            windows: number of windows.

        Returns:
            The estimate in nats, and its Monte Carlo standard error.
        """
        carry = self._start(found.params, found.carried)
        still = np.float32(0.0)
        records = [
            self.window(carry, key, np.int32(i), np.int32(0), still)[1][0] for i in range(windows)
        ]
        values = np.concatenate([np.asarray(r, dtype=np.float64) for r in records])
        finite = values[np.isfinite(values)]
        # A rare draw from the tails may be not finite and is left out. If more than half are not
        # finite, the estimate is not finite either.
        values = finite if len(finite) >= len(values) / 2 else values
        with np.errstate(over="ignore"):
            return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))

    def _start(self, params: AscentParams, carried: MutableState) -> Carry:
        """The carry of the loop at these parameters, with a new optimizer state."""
        # Arrays with explicit types, so that the loop is compiled once.
        params, carried = jax.tree.map(lambda a: jnp.asarray(a, a.dtype), (params, carried))
        zeros = jax.tree.map(jnp.zeros_like, params)
        return (params, self.optimizer.init(_tree(params)), dict(carried), zeros)

    def begin(self) -> Progress:
        """The progress of a search before its first step.

        Raises:
            OptionError: for an optimizer that needs more than gradients.
        """
        params = self.objective.init()
        try:
            jax.eval_shape(
                self.optimizer.update, params, self.optimizer.init(_tree(params)), params
            )
        except TypeError:
            raise OptionError(
                "the optimizer needs more than gradients, as one with a line search does; take "
                "one such as optax.adam(0.05)"
            ) from None
        return Progress(self._start(params, self.objective.sites.carried))

    def run(self, key: Array, steps: int, checkpoint: Checkpoint, progress: bool) -> AscentResult:
        """Runs the search until its last stage ends; an interrupt by the user ends it early.

        Args:
            key: key of the random numbers.
            steps: maximal number of steps.
            checkpoint: file from which the search resumes, and to which it writes its progress.
            progress: whether to show a bar on standard error.

        Raises:
            DataError: if no step of a window has a finite ELBO and gradient.
            FileError: for a checkpoint that cannot be read or belongs to another fit.
            OptionError: for an optimizer that needs more than gradients.
        """
        at, kept = self.begin(), checkpoint.load()
        resumed = None
        if kept is not None:
            at = at.at(kept)
            resumed = at.done
        bar = progress_bar("svi", "steps", shown=progress, total=steps, done=at.done)
        interrupted = False
        with bar:
            try:
                while at.done < steps and at.stage < STAGES:
                    size = min(WINDOW, steps - at.done)
                    self._advance(at, key, size)
                    checkpoint.offer(at.arrays())
                    bar.update(size)
                    bar.set_postfix_str(f"ELBO {at.trace[-size:].mean():,.1f}")
            except KeyboardInterrupt:
                if not at.done:
                    raise
                interrupted = True
        averaged, total = at.averaged, at.carry[3]
        last = jax.tree.map(lambda t: t / averaged, total) if averaged else at.carry[0]
        converged = at.stage == STAGES
        if converged:
            message = f"converged in {at.done:,} steps"
        elif interrupted:
            message = f"interrupted after {at.done:,} steps"
        else:
            message = (
                f"not converged in {at.done:,} steps: the ELBO was still rising; give more steps"
            )
        if at.skipped:
            message += f"; {at.skipped:,} steps were skipped because they were not finite"
        return AscentResult(
            last, at.carry[2], converged, message, at.done, at.trace, resumed, interrupted
        )

    def _advance(self, at: Progress, key: Array, size: int) -> None:
        """Runs a window of `size` steps, and begins the next stage if this one is over."""
        factor, number = np.float32(DECAY**at.stage), np.int32(at.windows)
        carry, record = self.window(at.carry, key, number, np.int32(size), factor)
        elbo, finite, taken = (np.asarray(r)[:size] for r in record)
        if not finite.any():
            raise DataError(
                f"svi could not take a step: the objective was not finite {size} times in a row; "
                "check the scale of the columns, and the priors"
            )
        at.carry, at.done, at.windows = carry, at.done + size, at.windows + 1
        at.skipped += int((~finite).sum())
        at.averaged += int(taken.sum())
        at.trace = np.append(at.trace, np.where(finite, elbo, np.nan))
        good = elbo[finite].astype(np.float64)
        # Squares of very large numbers overflow, and make the noise infinite.
        with np.errstate(over="ignore"):
            now = [float(good.mean()), float(good.std()) / math.sqrt(len(good))]
        at.means = np.vstack([at.means, now])
        at.quiet = at.quiet + 1 if _has_stopped(at.means) else 0
        if at.quiet >= 2 and at.averaged >= self.least[at.stage]:
            at.stage += 1
            if at.stage < STAGES:
                at.means, at.quiet, at.averaged = np.zeros((0, 2)), 0, 0
                at.carry = (*carry[:3], jax.tree.map(jnp.zeros_like, carry[0]))


@dataclass
class Progress:
    """State of a search between windows.

    Attributes:
        carry: what the compiled loop changes.
        done: number of steps.
        skipped: number of steps rejected because they were not finite.
        averaged: number of steps in the sum of parameters.
        windows: number of windows.
        stage: number of finished stages.
        quiet: number of windows in a row whose mean ELBO has not risen.
        means: mean ELBO and its standard error of each window of the stage, in nats.
        trace: the ELBO estimate of each step in nats.
    """

    carry: Carry
    done: int = 0
    skipped: int = 0
    averaged: int = 0
    windows: int = 0
    stage: int = 0
    quiet: int = 0
    means: Float[NDArray, "windows 2"] = field(default_factory=lambda: np.zeros((0, 2)))
    trace: Float[NDArray, done] = field(default_factory=lambda: np.zeros(0))

    def arrays(self) -> dict[str, NDArray]:
        """The progress as named arrays, for a checkpoint."""
        counts = [self.done, self.skipped, self.averaged, self.windows, self.stage, self.quiet]
        return {
            **flat("carry", self.carry),
            "counts": np.array(counts),
            "means": self.means,
            "trace": self.trace,
        }

    def at(self, arrays: Mapping[str, NDArray]) -> Progress:
        """The progress that a checkpoint holds; its trees have the structure of this one's."""
        counts = [int(count) for count in arrays["counts"]]
        carry = filled("carry", self.carry, arrays)
        return Progress(carry, *counts, means=arrays["means"], trace=arrays["trace"])


def _tree(params: AscentParams) -> Mapping[str, Any]:
    """The parameters as the pytree that they are, in the terms of optax."""
    return params


def _has_stopped(means: Float[NDArray, "windows 2"]) -> bool:
    """Whether the mean ELBO of the last window has not risen by two standard errors."""
    if len(means) < 2:
        return False
    (before, noise_before), (now, noise) = means[-2:]
    # With infinite noise the ELBO cannot be compared.
    return bool(now - before < 2 * math.hypot(noise, noise_before) < math.inf)
