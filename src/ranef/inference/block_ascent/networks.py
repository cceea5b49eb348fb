"""Block coordinate ascent for models with neural networks beside linear terms.

In the Gaussian case the model is

    y_i = f(x_i; w) + x_i' beta + sum_f z_fi' b_f[j] + e_i,   e_i ~ N(0, sigma^2 / v_i)

with network weights w, common effects (fixed effects) beta, and group effects (random effects)
b_f[j] of the level j of factor f. A round has two parts:

1. Given w, find the posterior of beta and b in closed form, with the scales at their mode
   (``lmm_step``; ``glmm_step`` for other families).
2. Given that posterior, take stochastic gradient steps of w over minibatches on

       mean_i v_i (y_i - f(x_i; w) - x_i' E beta - z_i' E b)^2 / (2 sigma^2) + penalties.

By Fisher's identity the gradient at the start of part 2 is, apart from the penalties, the sign and
a factor 1 / n, that of log p(y, theta | w) with all coefficients integrated out. Both parts
therefore climb the same objective. If a network can represent the mean of the group effects, that
mean is left to the network (``parameter_expansion``).

Some single rows and some whole levels of groupings are held out. The first round fits the model
without its networks. The search keeps the weights that predict the held-out rows best; if none
predict them better than the model without networks, the networks are left out. At the end, the
posterior of all other parameters given the weights is computed on all rows by the method ``exact``
(Gaussian) or ``laplace`` (other families).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from ranef import registry
from ranef.errors import DataError
from ranef.inference.base import Draws, Method
from ranef.inference.block_ascent.ascent_state import AscentState, NetworkWeights
from ranef.inference.block_ascent.closed_form import (
    ClosedFormStep,
    ClosedFormUpdate,
    LossArguments,
    step_for,
)
from ranef.inference.block_ascent.minibatches import (
    LAST,
    RATE,
    ROUNDS,
    Windows,
    batch_size,
    kept,
    passes,
    rate,
)
from ranef.inference.checkpoint import Checkpoint, belongs_to
from ranef.lazy import Array, jax, jnp, numpyro, optax
from ranef.numerics.shapes import Float, Shaped
from ranef.program.networks import MutableState
from ranef.program.problem import Problem, sites_in
from ranef.program.training import Designs, Rows
from ranef.progress import progress_bar

# What a gradient step changes: weights, state of the networks, and state of the optimizer.
StepState = tuple[NetworkWeights, MutableState, Any]
# One PRNG key for each batch.
Keys = Shaped[Array, "batches ..."]

# If the held-out error has not improved for this share of all rounds, skip to the last part of
# the learning rate schedule.
_PATIENCE = 0.25
# Rounds in which expensive scales are not searched for: they stay where round 0 ended, because
# the networks have not learned much yet.
_HELD = (1, 2)
# Rows from which the final state of the networks (such as batch norm averages) is computed, and
# their penalty estimated.
_SOME = 2_000
# Minibatches over which the running averages of the networks are updated before each round.
_FOLLOWING = 50
# Times that this is repeated before the first round, in which the averages start from nothing.
_FIRST_FOLLOWING = 6


class BlockAscent:
    """Block ascent for one problem: closed-form linear blocks, gradient steps for the networks.

    Args:
        problem: a model whose other terms are linear with Gaussian coefficients.
        settings: options of the method ``svi``.
        seed: seed of the held-out rows, the minibatches, the networks and the draws.
    """

    def __init__(self, problem: Problem, settings: Mapping[str, Any], seed: int) -> None:
        self.problem, self.settings, self.seed = problem, settings, seed
        self.resumed_from: int | None = None
        self.interrupted = False
        self.windows = windows = Windows.of(problem, seed)
        step = step_for(problem)
        self.kind: ClosedFormStep = step(problem, one_window=windows.count == 1)
        self.batch = min(settings["batch_size"] or batch_size(windows.n), windows.n)
        # With several windows each round reads the next one. With one window every round has all
        # rows.
        several = windows.count > 1
        structure = problem.unit_blocks()
        self.labels = [label for label, block in structure.items() if block is None]
        often = passes(windows.n, len({problem.predicts[label] for label in self.labels}))
        rounds = math.ceil(often * windows.count) if several else ROUNDS
        wanted = max(rounds, math.ceil(often * windows.n / self.batch))
        total = min(wanted, settings["steps"] or wanted)
        self.cut = total < wanted
        self.rounds = math.ceil(rounds * total / wanted) if several else min(rounds, total)
        self.steps = math.ceil(total / self.rounds)
        self.optimizer = settings["optimizer"] or optax.adam(RATE)
        self.sites = sites_in(
            problem.network_columns, self._designs(problem.data), jax.random.key(seed)
        )
        self._compiled = jax.jit(self._round)
        self._following = jax.jit(self._followed)

    def _designs(self, data: Rows) -> Designs:
        """The designs of all terms, with arrays only for those that have networks."""
        return {
            label: design if label in self.labels else replace(design, arrays={})
            for label, design in data.designs.items()
        }

    @staticmethod
    def _leaves_out(state: AscentState) -> bool:
        """Whether the networks have not improved the prediction of the held-out rows."""
        return bool(state.without <= state.least)

    def begin(self) -> AscentState:
        """The state before the first round."""
        points = {
            name: jnp.asarray(site.start, jnp.result_type(float))
            for name, site in self.sites.points.items()
        }
        network_state = dict(self.sites.carried)
        moments = self.optimizer.init(points)
        best = (points, network_state)
        trace = np.zeros((0, 3))
        return AscentState(
            points, network_state, moments, 0.0, 0, 0, 0, best, math.inf, 0, trace, {}, {}, None
        )

    def run(self, progress: bool) -> AscentState:
        """Runs the rounds; an interrupt by the user ends them early.

        Args:
            progress: whether to show a bar on standard error.

        Returns:
            The last state.

        Raises:
            DataError: if the predictions of the networks are not finite, or no step of a round
                has a finite loss.
            FileError: for a checkpoint that cannot be read or belongs to another fit.
        """
        state = self.begin()
        checkpoint = Checkpoint(
            self.settings["checkpoint"],
            belongs_to(self.problem, self.settings, self.seed, state.moments),
        )
        before = checkpoint.load()
        if before is not None:
            state = state.at(before)
            self.resumed_from = state.steps
        bar = progress_bar("svi", "rounds", shown=progress, total=self.rounds)
        with bar:
            try:
                while True:
                    rows = self.windows.at(state.rounds)
                    self._follow(state, rows)
                    error, arrays = self._closed_form(state, rows)
                    bar.set_postfix_str(f"held-out error {error:.6g}")
                    if state.done >= 1.0:
                        return state
                    self._descend(state, rows, arrays)
                    checkpoint.offer(state.arrays())
                    bar.update(round(state.done * self.rounds) - bar.n)
            except KeyboardInterrupt:
                if not len(state.trace):
                    raise
                self.interrupted = True
                return state

    def _follow(self, state: AscentState, rows: Rows) -> None:
        """Updates running averages, such as those of batch norm, at the current weights.

        The averages lag behind the steps. Without the update the held-out error would be that of
        the weights with averages of earlier weights.
        """
        floats = (
            jnp.issubdtype(a.dtype, jnp.floating) for a in jax.tree.leaves(state.network_state)
        )
        if not any(floats):
            return
        designs, n = self._designs(rows), rows.n
        rng = np.random.default_rng([self.seed, 3, state.rounds])
        for _ in range(1 if state.rounds else _FIRST_FOLLOWING):
            places = rng.integers(0, n, (_FOLLOWING, self.batch))
            keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), _FOLLOWING)
            batches = jax.tree.map(lambda a, at=places: jnp.asarray(np.asarray(a)[at]), designs)
            state.network_state = self._following(state.points, state.network_state, batches, keys)

    def _followed(
        self, points: NetworkWeights, network_state: MutableState, batches: Designs, keys: Keys
    ) -> MutableState:
        """The state of the networks after they have run on these batches at fixed weights."""

        def step(
            network_state: MutableState, inputs: tuple[Designs, Array]
        ) -> tuple[MutableState, None]:
            designs, key = inputs
            return self._forward(points, network_state, designs, key)[1], None

        return jax.lax.scan(step, network_state, (batches, keys))[0]

    def _closed_form(self, state: AscentState, rows: Rows) -> tuple[float, LossArguments]:
        """Solves for the linear blocks given the networks.

        Returns:
            The held-out error, and what the gradient steps hold fixed.
        """
        # The first round is the model without networks, because untrained networks add only noise.
        first = {} if state.rounds else self.problem.idle_networks
        known = self.problem.conditioned_on(state.points, {**state.network_state, **first})
        earlier = None
        if state.products is not None:
            earlier = state.products.scaled(1 - 1 / self.windows.count)
        # The scales converge early. If their search is expensive, it runs in rounds 0, 4, 8, 16,
        # ... only.
        patient = state.rounds not in _HELD and state.rounds & (state.rounds - 1) == 0
        update = self.kind.update(
            known, rows, state.sites, earlier, patient=patient, silent=not state.rounds
        )
        held = self.windows.held
        error = update.error(known, rows if held is None else held, self.windows.unseen)
        if not math.isfinite(error):
            raise DataError(
                "svi ended where the networks' predictions are not finite; check the scale of the "
                "columns, or take smaller steps by optimizer="
            )
        if state.rounds == 0:
            self._judge(state, update, error)
            if self.kind.parts.networks:
                # Without networks the group effects have absorbed what the networks should learn.
                # Solve again with the untrained networks and closed-form changes of their last
                # layers, from the default start of the scales.
                known = self.problem.conditioned_on(state.points, state.network_state)
                update = self.kind.update(known, rows, {}, None, patient=True, silent=False)
                state.sites = {**update.sites, **update.begin}
        changes = update.moves()
        if changes:
            state.points = self.problem.shifted_networks(state.points, changes)
        if state.rounds:
            self._judge(state, update, error)
        return error, update.loss_arguments(known, rows, self.labels)

    def _judge(self, state: AscentState, update: ClosedFormUpdate, error: float) -> None:
        """Records a round in `state`, and skips to the last part if the error no longer falls."""
        whole = self.problem.n / update.mixed.n
        now = [whole * update.evidence, error, state.steps]
        state.trace, state.sites = np.vstack([state.trace, now]), {**update.sites, **update.begin}
        if self.windows.count > 1:
            state.products = update.mixed.solver.products
        if state.rounds == 0:
            state.without, state.best_sites = error, state.sites
        elif error < state.least:
            state.best, state.best_sites = (state.points, state.network_state), state.sites
            state.least, state.since = error, state.rounds
        elif state.rounds - state.since >= _PATIENCE * self.rounds and state.done < 1 - LAST:
            # The error no longer falls at this learning rate. Return to the best weights and begin
            # the last part of the schedule, with lower rates.
            (state.points, state.network_state), state.sites = state.best, state.best_sites
            state.moments = self.optimizer.init(state.points)
            state.done = 1 - LAST

    def _descend(self, state: AscentState, rows: Rows, arrays: LossArguments) -> None:
        """The gradient steps of a round, over random minibatches of its rows.

        Raises:
            DataError: if no step has a finite loss.
        """
        rng = np.random.default_rng([self.seed, 1, state.rounds])
        wanted, n = self.steps * self.batch, rows.n
        order = np.concatenate([rng.permutation(n) for _ in range(-(-wanted // n))])[:wanted]
        places = order.reshape(self.steps, self.batch)
        batches = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a)[places]),
            (self._designs(rows), arrays[0]),
        )
        share = np.arange(self.steps) / self.steps / self.rounds
        rates = np.array([rate(state.done + s) for s in share], dtype=np.float32)
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(self.seed), state.rounds), self.steps
        )
        fixed = jax.tree.map(jnp.asarray, arrays[1])
        carry = (state.points, state.network_state, state.moments)
        carry, skipped = self._compiled(carry, fixed, batches, rates, keys)
        if int(skipped) == self.steps:
            raise DataError(
                f"svi could not take a step: the loss was not finite {self.steps} times in a row; "
                "check the scale of the columns"
            )
        state.points, state.network_state, state.moments = carry
        state.skipped += int(skipped)
        state.steps += self.steps
        state.rounds += 1
        state.done = min(1.0, state.done + 1 / self.rounds)
        if state.done > 1 - 1e-9:
            state.done = 1.0

    def _round(
        self,
        carry: StepState,
        fixed: Mapping[str, object],
        batches: tuple[Designs, Mapping[str, object]],
        rates: Float[Array, "batches"],
        keys: Keys,
    ) -> tuple[StepState, Shaped[Array, ""]]:
        """The compiled loop of steps: the new state, and the number of rejected steps."""

        def step(
            carry: StepState,
            inputs: tuple[tuple[Designs, Mapping[str, object]], Array, Array],
        ) -> tuple[StepState, Array]:
            points, network_state, moments = carry
            (designs, own), factor, key = inputs

            def loss(points: NetworkWeights) -> tuple[Array, MutableState]:
                bases, updated, penalty = self._forward(points, network_state, designs, key)
                return self.kind.loss(bases, own, fixed) + penalty / self.batch, updated

            (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(points)
            change, new = self.optimizer.update(gradient, moments, points)
            moved = jax.tree.map(lambda p, c: p + factor * c, points, change)
            sums = [jnp.sum(leaf) for leaf in jax.tree.leaves((gradient, moved))]
            good = jnp.isfinite(value) & jnp.isfinite(jnp.sum(jnp.stack(sums)))
            after = jax.tree.map(
                lambda a, b: jnp.where(good, a, b),
                (moved, updated, new),
                (points, network_state, moments),
            )
            return after, ~good

        carry, skipped = jax.lax.scan(step, carry, (batches, rates, keys))
        return carry, jnp.sum(skipped)

    def _forward(
        self, points: NetworkWeights, network_state: MutableState, designs: Designs, key: Array
    ) -> tuple[dict[str, Float[Array, "_ _"]], MutableState, Shaped[Array, ""]]:
        """The networks' columns by label, their updated state, and their penalty on these rows.

        The penalty, in nats, is minus the log density of the observed sites of the program.
        """
        data = {**points, **{name: dict(v) for name, v in network_state.items()}}
        seeded = numpyro.handlers.seed(self.problem.network_columns, key)
        program = numpyro.handlers.trace(numpyro.handlers.substitute(seeded, data=data))
        bases = cast(dict[str, Array], program(designs, True))
        sites = program.trace
        penalty = -sum(
            jnp.sum(site["fn"].log_prob(site["value"]))
            for site in sites.values()
            if site["type"] == "sample" and site["is_observed"]
        )
        return bases, {name: sites[name]["value"] for name in network_state}, jnp.asarray(penalty)

    def finish(self, state: AscentState, draws: int, progress: bool) -> Draws:
        """The posterior of all other parameters given the best networks.

        Args:
            state: the last state of the search.
            draws: number of posterior draws.
            progress: whether to show a bar on standard error.

        Returns:
            Draws of the method ``exact`` or ``laplace`` with the networks as point estimates. The
            ELBO is the log evidence given the networks less their penalty; its standard error is
            stated as 0.
        """
        points, carried = state.best
        points = jax.tree.map(np.asarray, points)
        carried = jax.tree.map(np.asarray, carried)
        if self._leaves_out(state):
            carried = {**carried, **self.problem.idle_networks}
        rows = self.windows.at(0)
        n = rows.n
        some = np.random.default_rng([self.seed, 3]).permutation(n)[:_SOME]
        carried = self.problem.final_state(points, carried, kept(rows, some))
        known = self.kind.started(self.problem.conditioned_on(points, carried), state.best_sites)
        last: Method = registry.load("method", self.kind.finish)()
        found = last.run(known, seed=self.seed, draws=draws, progress=progress)
        evidence, held, steps = state.trace.T
        designs = self._designs(kept(rows, some))
        key = jax.random.key(self.seed)
        _, _, of_some = self._forward(points, state.best[1], designs, key)
        penalty = float(of_some) * self.problem.n / len(some)
        return replace(
            found,
            points={**found.points, **points},
            carried=carried,
            converged=found.converged and not self.interrupted and not self.cut,
            message=self._message(state, found.message),
            steps=state.steps,
            elbo=None if found.evidence is None else (found.evidence - penalty, 0.0),
            trace={"elbo": evidence, "held_out": held, "step": steps},
            resumed_from=self.resumed_from,
            interrupted=self.interrupted,
        )

    def _message(self, state: AscentState, rest: str) -> str:
        """How the search ended, as a sentence."""
        text = f"{state.steps:,} steps of {self.batch:,} rows"
        if self.interrupted:
            text = f"interrupted after {text}"
        elif self.cut:
            text = f"not converged: {text}, cut short by steps="
        if state.skipped:
            text += f", of which {state.skipped:,} were skipped because they were not finite"
        if self.windows.held is not None:
            held = self.windows.held.n
            least = min(state.least, state.without)
            text += f"; mean log density {-least:.4g} on {held:,} rows held out"
        if self._leaves_out(state):
            text += ", no better with the networks than without, and they are left out"
        return f"{text}; all else in closed form: {rest}"
