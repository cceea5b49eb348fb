"""Stochastic variational inference: maximise ELBO = E_q[log p(y, z) - log q(z)].

Under the structured guide only what is not linear is left to gradients. Networks beside linear
blocks take ``block_ascent.networks``, where all but the networks has a closed form; a model that is
linear throughout has nothing to be searched, and q(theta) q(b | theta) is that of exact or, for
other families, of conjugate-computation updates (``glmm.gaussian_approximation``). What neither
serves, and the mean-field guide, is black-box as KLqp of Edward (Ranganath et al., 2014; Kucukelbir
et al., 2017): ``advi.elbo`` climbed by ``advi.stochastic_ascent`` over the numbers of an
``advi.guide``.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, MethodError, OptionError, RowsNeededError, whole_number
from ranef.inference.advi import guide as guides
from ranef.inference.advi.elbo import Objective
from ranef.inference.advi.stochastic_ascent import Search
from ranef.inference.base import Draws, Method
from ranef.inference.block_ascent.matrix_factorization import MatrixFactorization
from ranef.inference.block_ascent.matrix_factorization import applies as factorizes
from ranef.inference.block_ascent.networks import BlockAscent, applies, closed, is_linear
from ranef.inference.checkpoint import Checkpoint, belongs_to, refuse_odd_path
from ranef.lazy import jax, jnp, optax
from ranef.program.problem import Problem, sites_of

# The largest value whose square a float holds with room to spare for a sum.
_LARGEST = 1e140
# Rows above which a step sees a minibatch unless the user says otherwise.
FULL_BATCH = 500_000
# At most, unless the user says otherwise.
STEPS = 20_000
BATCH = 32_768


class SVI(Method):
    """Options: `guide`, `optimizer` (of optax, without a line search), `samples` per step,
    `steps` at most (None: 20,000, or what the rows call for), `batch_size` (None: all rows up
    to 500,000, else 32,768), `checkpoint` (a path, or None). For networks beside linear blocks
    a step takes no samples, and `batch_size` is about the square root of the rows. Any of these
    beside `guide` makes a linear model be searched like others."""

    name = "svi"
    streams = True
    options = {
        "guide": "structured",
        "optimizer": None,
        "samples": 5,
        "steps": None,
        "batch_size": None,
        "checkpoint": None,
    }

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        chosen = self.settings
        # Whoever says how to search wants a search.
        self._asked = set(options) - {"guide"}
        if chosen["guide"] not in ("structured", "meanfield"):
            raise OptionError(f"guide must be 'structured' or 'meanfield', not {chosen['guide']!r}")
        for name in ("samples", "steps", "batch_size"):
            if name == "samples" or chosen[name] is not None:
                chosen[name] = whole_number(name, chosen[name], least=1)
        refuse_odd_path(chosen["checkpoint"])
        optimizer = chosen["optimizer"]
        if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
            raise OptionError(
                "optimizer must be an optax optimizer such as optax.adam(0.05), not "
                f"{type(optimizer).__name__}"
            )

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        if self.settings["guide"] == "structured":
            if factorizes(problem) and not problem.windows:
                factorization = MatrixFactorization(problem, self.settings, seed)
                factorization.run(progress)
                return factorization.finish(draws, progress)
            try:
                if applies(problem):
                    search = BlockAscent(problem, self.settings, seed)
                    return search.finish(search.run(progress), draws, progress)
                if not self._asked and is_linear(problem):
                    return closed(problem, seed, draws, progress)
            except MethodError:
                # Crossed groupings that no closed form serves, in rows that are held.
                if problem.windows:
                    raise
        if problem.windows:
            raise RowsNeededError
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
        objective = Objective(problem, sites, guide, self.settings["samples"])
        optimizer = self.settings["optimizer"] or optax.adam(0.05, b2=0.99)
        search = Search(objective, optimizer, batch)
        moments = search.begin().carry[1]
        checkpoint = Checkpoint(
            self.settings["checkpoint"], belongs_to(problem, self.settings, seed, moments)
        )
        found = search.run(loop_key, self.settings["steps"] or STEPS, checkpoint, progress)
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
            resumed_from=found.resumed_from,
            interrupted=found.interrupted,
            settings={"guide": self.settings["guide"]},
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
        if np.size(leaf) and float(np.abs(leaf).max()) > _LARGEST:
            raise DataError(
                f"values of {jax.tree_util.keystr(path[1:2], simple=True) or 'the response'} reach "
                f"{np.abs(leaf).max():.3g}, too large to be squared safely; "
                "rescale the column, as in scale(x)"
            )
    return jax.tree.map(jnp.asarray, data)
