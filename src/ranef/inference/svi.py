"""Stochastic variational inference: maximise ELBO = E_q[log p(y, z) - log q(z)].

Black-box, with reparameterised gradients, as KLqp of Edward (Ranganath et al., 2014;
Kucukelbir et al., 2017), and the path derivative alone of log q, whose noise vanishes as q
comes near the posterior (Roeder, Wu and Duvenaud, 2017).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray
from numpyro.infer.util import log_density
from tqdm import tqdm

from ranef.errors import DataError, OptionError, whole_number
from ranef.inference import guide as guides
from ranef.inference.alternation import Alternation, applies
from ranef.inference.base import Draws, Method, Problem, Sites, sites_of

# Steps between two looks at the ELBO; the compiled loop runs this many at a time.
WINDOW = 50
# How far the step size falls, and how many times, before the search ends.
DECAY, STAGES = 0.2, 4
# Passes over the rows that the average of the last stage spans, under minibatches.
PASSES = 100
# Steps of an earlier stage at least, under minibatches.
LEAST = 600
# The largest value whose square a float holds with room to spare for a sum.
_LARGEST = 1e140
# Rows above which a step sees a minibatch unless the user says otherwise.
FULL_BATCH = 500_000
BATCH = 32_768


class SVI(Method):
    """Options: `guide`, `optimizer` (of optax, without a line search), `samples` per step,
    `steps` at most, `batch_size` (None: all rows up to 500,000, else 32,768)."""

    name = "svi"
    options = {
        "guide": "structured",
        "optimizer": None,
        "samples": 5,
        "steps": 20_000,
        "batch_size": None,
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.settings
        if chosen["guide"] not in ("structured", "meanfield"):
            raise OptionError(f"guide must be 'structured' or 'meanfield', not {chosen['guide']!r}")
        for name in ("samples", "steps", "batch_size"):
            if name != "batch_size" or chosen[name] is not None:
                chosen[name] = whole_number(name, chosen[name], least=1)
        optimizer = chosen["optimizer"]
        if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
            raise OptionError(
                "optimizer must be an optax optimizer such as optax.adam(0.05), not "
                f"{type(optimizer).__name__}"
            )

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        if self.settings["guide"] == "structured" and applies(problem):
            search = Alternation(problem, self.settings, seed)
            state, interrupted = search.run(progress)
            return search.finish(state, interrupted, draws, progress)
        # Single precision cannot tell the intercept of a column far from zero from its slope,
        # and on a CPU double costs little more here.
        with jax.enable_x64(True):
            return self._run(problem, seed, draws, progress)

    def _run(self, problem: Problem, seed: int, draws: int, progress: bool) -> Draws:
        problem = replace(problem, data=_on_device(problem.data))
        key = jax.random.key(seed)
        start_key, loop_key, elbo_key, draw_key = jax.random.split(key, 4)
        sites = sites_of(problem, start_key)
        batch = self._batch_size(problem.n)
        whole = batch == problem.n
        guide = guides.build(
            self.settings["guide"],
            sites.latents,
            problem,
            points=sites.points,
            following=whole,
        )
        objective = _Objective(problem, sites, guide, self.settings["samples"])
        optimizer = self.settings["optimizer"] or optax.adam(0.05, b2=0.99)
        search = _Search(objective, optimizer, batch)
        found = search.run(loop_key, self.settings["steps"], progress)
        elbo = search.estimate(found, elbo_key)

        if not math.isfinite(elbo[0]):
            raise DataError(
                "svi ended where the objective is not finite; check the scale of the columns and "
                "the priors, or take smaller steps by optimizer="
            )

        def draw() -> Mapping[str, NDArray]:
            with jax.enable_x64(True):
                return objective.draw(found.params, draw_key, draws)

        return Draws(
            draw,
            objective.points(found.params),
            found.carried,
            found.converged,
            found.message,
            found.steps,
            elbo,
            {"elbo": found.trace},
        )

    def _batch_size(self, n: int) -> int:
        asked = self.settings["batch_size"]
        if asked is None:
            return n if n <= FULL_BATCH else BATCH
        return min(asked, n)


def _on_device(data: Any) -> Any:
    """The rows on the device.

    Raises:
        DataError: for values whose squares could overflow.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if np.size(leaf) and np.abs(leaf).max() > _LARGEST:
            raise DataError(
                f"values of {jax.tree_util.keystr(path[1:2], simple=True) or 'the response'} reach "
                f"{np.abs(leaf).max():.3g}, too large to be squared safely; "
                "rescale the column, as in scale(x)"
            )
    return jax.tree.map(jnp.asarray, data)


class _Objective:
    """The ELBO of a problem as a function of the variational parameters."""

    def __init__(self, problem: Problem, sites: Sites, guide: guides.Guide, samples: int) -> None:
        self.problem, self.sites, self.guide, self.samples = problem, sites, guide, samples
        self.data = problem.data

    def init(self) -> dict[str, Any]:
        zeros = {name: jnp.zeros_like(p.start) for name, p in self.sites.points.items()}
        return {"guide": self.guide.init(), "points": zeros}

    def points(self, params: Mapping[str, Any]) -> dict[str, Array]:
        """Values of the point estimates."""
        return {
            name: p.transform(p.start + p.unit * params["points"][name])
            for name, p in self.sites.points.items()
        }

    def samples_of(
        self, params: Mapping[str, Any], carried: Any, key: Array, data: Any
    ) -> tuple[Array, Any]:
        """Log p(y, z) - log q(z) for each of `samples` draws, and what the program updated."""
        noise = jax.random.normal(key, (self.samples, self.guide.size))
        points = self.points(params)
        fixed = jax.lax.stop_gradient(params["guide"])

        def one(eps: Array) -> tuple[Array, Any]:
            u = self.guide.sample(params["guide"], eps)
            values, log_det = self.guide.constrain(self.guide.place(u))
            given = {**values, **points, **{name: dict(v) for name, v in carried.items()}}
            log_p, trace = log_density(self.problem.run, (data, self.problem.n), {}, given)
            updated = {name: trace[name]["value"] for name in carried}
            return log_p + log_det - self.guide.log_density(fixed, u), updated

        values, updated = jax.vmap(one)(noise)
        return values, jax.tree.map(lambda a: a[0], updated)

    def draw(self, params: Mapping[str, Any], key: Array, draws: int) -> dict[str, NDArray]:
        """Draws of every latent site, (1, draws, ...)."""

        @jax.jit
        def all_draws(params: Any, noise: Array) -> dict[str, Array]:
            def one(eps: Array) -> dict[str, Array]:
                z = self.guide.place(self.guide.sample(params, eps))
                return self.guide.constrain(z)[0]

            return jax.vmap(one)(noise)

        noise = jax.random.normal(key, (draws, self.guide.size))
        out = all_draws(params["guide"], noise)
        return {name: np.asarray(value)[None] for name, value in out.items()}


@dataclass(frozen=True)
class _Found:
    params: Any
    carried: Any
    converged: bool
    message: str
    steps: int
    trace: NDArray[np.float64]


class _Search:
    """Stochastic ascent in windows of steps.

    A stage ends when the mean ELBO of two windows in a row has stopped rising beyond its
    noise; the next takes smaller steps. The answer is the average over the last stage.
    """

    def __init__(
        self, objective: _Objective, optimizer: optax.GradientTransformation, batch: int
    ) -> None:
        self.objective, self.optimizer, self.batch = objective, optimizer, batch
        # Under minibatches the ELBO is too noisy to say when a stage is over before so many
        # steps. An average over PASSES passes is off by about a tenth of a posterior sd.
        n = objective.problem.n
        last = math.ceil(PASSES * n / batch)
        self.least = [*[LEAST] * (STAGES - 1), max(LEAST, last)] if batch < n else [0] * STAGES
        self.window = jax.jit(self._window)

    def _step(self, carry: Any, inputs: tuple[Array, Array, Array]) -> tuple[Any, tuple]:
        params, moments, carried, total = carry
        key, active, factor = inputs
        pick, noise = jax.random.split(key)
        n, data = self.objective.problem.n, self.objective.data
        if self.batch < n:
            rows = jax.random.randint(pick, (self.batch,), 0, n)
            data = jax.tree.map(lambda a: a[rows], data)

        def loss(p: Any) -> tuple[Array, Any]:
            values, updated = self.objective.samples_of(p, carried, noise, data)
            return -jnp.mean(values), updated

        (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        step, new_moments = self.optimizer.update(gradient, moments, params)
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
        self, carry: Any, key: Array, number: Array, size: Array, factor: Array
    ) -> tuple[Any, tuple]:
        """`size` steps of the window of that number, the rest of it idle."""
        keys = jax.random.split(jax.random.fold_in(key, number), WINDOW)
        active = jnp.arange(WINDOW) < size
        return jax.lax.scan(self._step, carry, (keys, active, jnp.full(WINDOW, factor)))

    def estimate(self, found: _Found, key: Array, windows: int = 2) -> tuple[float, float]:
        """The ELBO at what was found and its standard error, from windows of idle steps."""
        carry = self._start(found.params, found.carried)
        still = np.float32(0.0)
        records = [
            self.window(carry, key, np.int32(i), np.int32(0), still)[1][0] for i in range(windows)
        ]
        values = np.concatenate([np.asarray(r, dtype=np.float64) for r in records])
        finite = values[np.isfinite(values)]
        # Now and then a draw from far out may fail; if half of them do, the answer has.
        values = finite if len(finite) >= len(values) / 2 else values
        return float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size))

    def _start(self, params: Any, carried: Any) -> Any:
        # One type throughout, so that the loop is compiled once.
        params, carried = jax.tree.map(lambda a: jnp.asarray(a, a.dtype), (params, carried))
        zeros = jax.tree.map(jnp.zeros_like, params)
        return (params, self.optimizer.init(params), dict(carried), zeros)

    def run(self, key: Array, steps: int, progress: bool) -> _Found:
        params = self.objective.init()
        try:
            jax.eval_shape(self.optimizer.update, params, self.optimizer.init(params), params)
        except TypeError:
            raise OptionError(
                "the optimizer needs more than gradients, as one with a line search does; take "
                "one such as optax.adam(0.05)"
            ) from None
        carry = self._start(params, self.objective.sites.carried)
        trace: list[NDArray] = []
        done = skipped = averaged = stage = quiet = 0
        means: list[tuple[float, float]] = []
        bar = tqdm(total=steps, desc="svi", unit="step", disable=not progress, leave=False)
        while done < steps and stage < STAGES:
            size, factor = min(WINDOW, steps - done), np.float32(DECAY**stage)
            number = np.int32(len(trace))
            carry, record = self.window(carry, key, number, np.int32(size), factor)
            elbo, finite, taken = (np.asarray(r)[:size] for r in record)
            done += size
            skipped += int((~finite).sum())
            averaged += int(taken.sum())
            trace.append(np.where(finite, elbo, np.nan).astype(np.float64))
            if not finite.any():
                raise DataError(
                    f"svi could not take a step: the objective was not finite {size} times in a "
                    "row; check the scale of the columns, and the priors"
                )
            good = elbo[finite].astype(np.float64)
            means.append((float(good.mean()), float(good.std()) / math.sqrt(len(good))))
            bar.update(size)
            bar.set_postfix_str(f"ELBO {means[-1][0]:,.1f}")
            quiet = quiet + 1 if _has_stopped(means) else 0
            if quiet >= 2 and averaged >= self.least[stage]:
                stage += 1
                if stage < STAGES:
                    means, quiet, averaged = [], 0, 0
                    carry = (*carry[:3], jax.tree.map(jnp.zeros_like, params))
        bar.close()
        average = jax.tree.map(lambda t: t / averaged, carry[3])
        converged = stage == STAGES
        message = (
            f"converged in {done:,} steps"
            if converged
            else (f"not converged in {done:,} steps: the ELBO was still rising; give more steps")
        )
        if skipped:
            message += f"; {skipped:,} steps were skipped because they were not finite"
        last = average if averaged else carry[0]
        return _Found(last, carry[2], converged, message, done, np.concatenate(trace))


def _has_stopped(means: list[tuple[float, float]]) -> bool:
    """Whether the last window is no better than the one before, beyond their noise."""
    if len(means) < 2:
        return False
    (before, noise_before), (now, noise) = means[-2:]
    return now - before < 2 * math.hypot(noise, noise_before)
