"""The method `svi`: variational inference, which maximises ELBO = E_q[log p(y, z) - log q(z)].

Under the structured guide, closed forms replace gradient steps where they exist:

- Models with networks beside linear terms use ``block_ascent.networks``, with gradient steps for
  the networks alone.
- Models with matrix factorization terms use ``block_ascent.matrix_factorization``.
- Linear models need no gradient steps: the result is that of the method ``exact`` or, for families
  other than the Gaussian, ``laplace``, whose normal approximation is found by
  conjugate-computation updates (``glmm.gaussian_approximation``).

All other models, and all models under the mean-field guide, use black-box variational inference
(Ranganath et al., 2014; Kucukelbir et al., 2017): ``advi.stochastic_ascent`` maximises the ELBO of
``advi.elbo`` over the variational parameters of an ``advi.guide``.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, MethodError, OptionError, whole_number
from ranef.inference.advi import guide as guides
from ranef.inference.advi.elbo import Objective
from ranef.inference.advi.stochastic_ascent import Search
from ranef.inference.base import Draws, Method
from ranef.inference.block_ascent.applicability import applies, closed, is_linear
from ranef.inference.block_ascent.closed_form import is_gaussian
from ranef.inference.block_ascent.matrix_factorization import MatrixFactorization
from ranef.inference.block_ascent.matrix_factorization import applies as factorizes
from ranef.inference.block_ascent.networks import BlockAscent
from ranef.inference.checkpoint import Checkpoint, belongs_to, refuse_odd_path
from ranef.inference.lmm.applicability import too_large
from ranef.lazy import jax, jnp, optax
from ranef.program.problem import Problem, sites_of
from ranef.program.training import Rows

# Largest absolute value of the data: sums of squares then stay finite in double precision.
_LARGEST = 1e140
# Maximal number of rows for steps on all rows, by default; with more, steps use minibatches.
FULL_BATCH = 500_000
# Default of the maximal number of steps.
STEPS = 20_000
# Default rows of a minibatch.
BATCH = 32_768


class SVI(Method):
    """Variational inference, with closed forms where they exist.

    Options:
        guide: "structured" or "meanfield".
        optimizer: an optax optimizer without a line search; None for Adam.
        samples: draws from the guide in each step.
        steps: maximal number of steps; None for 20,000, or a number that depends on the number of
            rows for networks beside linear terms.
        batch_size: rows of a minibatch; None for all rows up to 500,000, else 32,768. For networks
            beside linear terms, None is about the square root of the number of rows.
        checkpoint: path of a file from which the search resumes, or None.

    For networks beside linear terms, `samples` has no effect. For matrix factorization terms,
    `steps` is the maximal number of sweeps over the factors, and `optimizer`, `batch_size` and
    `checkpoint` do not apply. A linear model is solved in closed form unless an option other than
    `guide` is given; then it is searched like other models.
    """

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

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        chosen = self.settings
        # Options of the search ask for a search, even for a linear model.
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
        """Computes the posterior; see `Method.run`.

        Raises:
            DataError: for values that are too large, or an objective that is not finite.
            FileError: for a checkpoint that cannot be read or belongs to another fit.
            MethodError: for crossed groupings that are too large, in rows that are streamed.
            OptionError: for an option that does not apply to the model.
        """
        structured = self.settings["guide"] == "structured"
        if structured and factorizes(problem) and not problem.windows:
            factorization = MatrixFactorization(problem, self.settings, seed)
            factorization.run(progress)
            return factorization.finish(draws, progress)
        if self._solves_linear_terms(problem) and (problem.windows or _fits_in_memory(problem)):
            found = self._solved(problem, seed, draws, progress)
            if found is not None:
                return found
        assert not problem.windows, "a model for which `reads_batches` is false"
        # Single precision cannot separate the intercept from the slope of a column far from zero.
        # Double precision costs little more on a CPU.
        with jax.enable_x64(True):
            return self._run(problem, seed, draws, progress)

    def reads_batches(self, problem: Problem) -> bool:
        """Whether the linear terms are solved in closed form; see `Method.reads_batches`."""
        return self._solves_linear_terms(problem)

    def _solves_linear_terms(self, problem: Problem) -> bool:
        """Whether there are linear terms alone, or beside networks, to be solved in closed form."""
        if self.settings["guide"] != "structured":
            return False
        return applies(problem) or (not self._asked and is_linear(problem))

    def _solved(self, problem: Problem, seed: int, draws: int, progress: bool) -> Draws | None:
        """The posterior with linear terms in closed form; None if crossed groupings are too large.

        Raises:
            MethodError: for crossed groupings that are too large, in rows that are streamed.
        """
        if is_linear(problem):
            return closed(problem, seed, draws, progress)
        search = BlockAscent(problem, self.settings, seed)
        try:
            return search.finish(search.run(progress), draws, progress)
        except MethodError:
            # The columns of the networks are more than those of the model without networks, so
            # that groupings can turn out too large in the course of the search.
            if problem.windows:
                raise
            return None

    def _run(self, problem: Problem, seed: int, draws: int, progress: bool) -> Draws:
        """Black-box variational inference by stochastic ascent."""
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
        """Rows of a minibatch, at most n."""
        asked = self.settings["batch_size"]
        if asked is None:
            return n if n <= FULL_BATCH else BATCH
        return min(asked, n)


def _fits_in_memory(problem: Problem) -> bool:
    """Whether crossed groupings are small enough for a closed form."""
    reason = too_large(problem.unit_blocks(), row_covariances=not is_gaussian(problem))
    return reason is None


def _on_device(data: Rows) -> Rows:
    """The rows as JAX arrays.

    Raises:
        DataError: for values so large that sums of squares could overflow.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if np.size(leaf) and float(np.abs(leaf).max()) > _LARGEST:
            raise DataError(
                f"values of {jax.tree_util.keystr(path[1:2], simple=True) or 'the response'} reach "
                f"{np.abs(leaf).max():.3g}, too large to be squared safely; "
                "rescale the column, as in scale(x)"
            )
    return jax.tree.map(jnp.asarray, data)
