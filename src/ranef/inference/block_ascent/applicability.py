"""Whether a model is linear beside its networks, and the posterior of one that has no networks."""

from collections.abc import Mapping
from dataclasses import replace

from ranef import registry
from ranef.inference.base import Draws, Method
from ranef.inference.block_ascent.closed_form import is_gaussian, step_for
from ranef.inference.block_ascent.glmm_step import MOST
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock


def applies(problem: Problem) -> bool:
    """Whether the model has networks, and all other terms are linear with Gaussian coefficients."""
    structure = problem.unit_blocks()
    if all(block is not None for block in structure.values()):
        return False
    return _is_closed(problem, structure)


def is_linear(problem: Problem) -> bool:
    """Whether all terms are linear in coefficients with Gaussian priors."""
    structure = problem.unit_blocks()
    return None not in structure.values() and _is_closed(problem, structure)


def _is_closed(problem: Problem, structure: Mapping[str, LinearBlock | None]) -> bool:
    """Whether the linear blocks have Gaussian coefficients, and the rows are not too many.

    Families other than the Gaussian need all rows in memory, at most `MOST`.
    """
    if problem.incomplete or problem.bilinear:
        return False
    if not all(block.gaussian for block in structure.values() if block is not None):
        return False
    return is_gaussian(problem) or (not problem.windows and problem.n <= MOST)


def closed(problem: Problem, seed: int, draws: int, progress: bool) -> Draws:
    """The posterior of a linear model without networks, in closed form.

    Args:
        problem: a model for which `is_linear` holds.
        seed: seed of the draws.
        draws: number of posterior draws.
        progress: whether to show a bar on standard error.

    Returns:
        Draws of the method ``exact`` or ``laplace``. The ELBO is the log evidence, if known.

    Raises:
        MethodError: for crossed groupings that are too large.
    """
    method: Method = registry.load("method", step_for(problem).finish)()
    found = method.run(problem, seed=seed, draws=draws, progress=progress)
    return replace(
        found,
        message=f"no network to be trained; all in closed form: {found.message}",
        elbo=None if found.evidence is None else (found.evidence, 0.0),
        settings={},
    )
