"""Checks networks whose weights are point estimates.

The first check compares densities of held-out rows, which took no part in the training of the
networks. The linear terms are fitted to the other rows, with the networks and without them, and

    gain = mean_i [log p(y_i | with networks) - log p(y_i | without)]

is taken over the held-out rows i, with coefficients and scales at their estimates.

The second check is of the means of group effects. The mean of J effects b_j ~ N(0, t^2) has
expectation zero and sd t / J^1/2. A mean further from zero shows that the effects carry a constant
that a network or an intercept should carry.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import Deadline, OutOfTimeError
from ranef.check.reference import NoReference
from ranef.check.symptom import Symptom
from ranef.errors import RanefError
from ranef.inference.block_ascent.applicability import applies
from ranef.inference.block_ascent.closed_form import is_gaussian, step_for
from ranef.inference.block_ascent.minibatches import Windows
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Batch, Problem
from ranef.program.training import Rows
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]

# Standard errors beyond which a gain differs from zero.
_TOLD = 2.0
# Standard errors beyond which a mean of effects differs from zero: chance exceeds them once in a
# thousand times.
_FAR = 3.3
# Largest number of rows for which a model with a non-normal response is fitted again.
_MANY = 100_000


def trained(posterior: Posterior) -> tuple[str, ...]:
    """Labels of the terms whose networks' weights are point estimates."""
    if not posterior.draws.points:
        return ()
    problem = posterior.problem
    known = problem.conditioned_on(posterior.draws.points, posterior.draws.carried).unit_blocks()
    return tuple(
        label
        for label, block in problem.unit_blocks().items()
        if block is None and known[label] is not None and label not in problem.bilinear
    )


def gain(
    posterior: Posterior, labels: Collection[str], deadline: Deadline
) -> tuple[Float[Array, "n"], str] | NoReference:
    """The gain in log density of each held-out row by the networks.

    Args:
        posterior: the fit.
        labels: of the terms with networks.
        deadline: when to stop.

    Returns:
        The gains in nats, and a phrase about them; or the reason why there are none: rows
        held out that are not known, rows read in batches, or a model that takes too long.

    Raises:
        OutOfTimeError: if the deadline passes.
    """
    draws, problem = posterior.draws, posterior.problem
    if draws.seed is None:
        return NoReference("it is not known which rows were held out")
    if problem.windows:
        return NoReference("rows are read in batches")
    if not applies(problem) or draws.settings.get("guide"):
        return NoReference("the networks were trained on all rows")
    if not is_gaussian(problem) and problem.n > _MANY:
        return NoReference("the model takes too long to be fitted again")
    windows = Windows.of(problem, draws.seed)
    if windows.held is None:
        return NoReference("there were too few rows to hold any out")
    step = step_for(problem)(problem, one_window=windows.count == 1)
    known = problem.conditioned_on(draws.points, draws.carried)
    rows, scores = windows.at(0), []
    try:
        for each in (known, _without(known, labels)):
            deadline.tick()
            update = step.update(each, rows, {}, None, patient=True, silent=True)
            scores.append(update.log_density(each, windows.held))
    except (RanefError, ArithmeticError, np.linalg.LinAlgError) as error:
        return NoReference(str(error))
    difference = scores[0] - scores[1]
    mean, error = _mean(difference)
    return difference, (
        f"the density of {len(difference):,} rows held out, {mean:+.3g} nats a row with the "
        f"networks (standard error {error:.2g})"
    )


def _mean(values: Float[Array, "n"]) -> tuple[float, float]:
    """The mean of values and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _without(known: Problem, labels: Collection[str]) -> Problem:
    """The problem with the networks of these labels set to zero."""

    def part(data: Rows) -> Batch:
        found, none = known.batch(data), np.zeros(0)
        n = data.n
        empty = LinearBlock(np.zeros((n, 0)), None, 1, none, none, known=np.zeros(n))
        blocks = {n: empty if n in labels else block for n, block in found.blocks.items()}
        return Batch(found.normal, blocks)

    return replace(known, batch=part)


def networks(
    posterior: Posterior, deadline: Deadline | None
) -> tuple[tuple[Symptom, ...], tuple[str, ...]]:
    """Symptoms of the networks of a fit, and phrases about what was checked.

    Both are empty for a model without networks whose weights are point estimates.

    Args:
        posterior: the fit.
        deadline: when to stop; None to compute no held-out densities.
    """
    labels = trained(posterior)
    if not labels:
        return (), ()
    symptoms = tuple(means(posterior))
    if deadline is None:
        return (*symptoms, _unchecked("fit.check() takes a look", "it was not asked for")), ()
    try:
        found = gain(posterior, labels, deadline)
    except OutOfTimeError:
        found = NoReference(f"it was not complete within {deadline.seconds:.0f} seconds")
    if isinstance(found, NoReference):
        remedy = "compare fit.log_score() of new rows with that of the model without the network"
        return (*symptoms, _unchecked(remedy, found.reason)), ()
    difference, looked = found
    return (*symptoms, *_judged(difference, ", ".join(labels))), (looked,)


def _unchecked(remedy: str, reason: str) -> Symptom:
    """The symptom of networks whose held-out density was not computed, because of `reason`."""
    return Symptom(
        "the networks' weights were not checked",
        f"no second opinion could be had, because {reason}",
        remedy,
        "unchecked",
    )


def _judged(difference: Float[Array, "n"], names: str) -> Iterator[Symptom]:
    """Report a gain that is negative, or that does not differ from zero."""
    mean, error = _mean(difference)
    how = f"{mean:+.3g} nats a row (standard error {error:.2g}) on {len(difference):,} rows"
    if mean < -_TOLD * error:
        yield Symptom(
            f"rows held out have a lower density with {names} than without: {how}",
            "the network has learned what is not there in other rows",
            "leave it out, or give it fewer units or a larger l2=",
            "caution",
        )
    elif mean <= _TOLD * error:
        yield Symptom(
            f"rows held out have no higher density with {names} than without: {how}",
            "the rows do not show what the network is for",
            "leave it out, or read it as one guess among others",
            "trust",
        )


def means(posterior: Posterior) -> Iterator[Symptom]:
    """Report group effects whose mean over the levels is far from zero."""
    for name, variable in posterior.variables.items():
        scale = f"{name}_sigma"
        if variable.role != "group" or scale not in posterior.variables:
            continue
        known = posterior.moments.get(name)
        effects = posterior.values[name].mean(axis=(0, 1)) if known is None else known[0]
        sd = posterior.constants[scale][0] if scale in posterior.constants else np.median(
            posterior.sd_draws(scale)
        )  # fmt: skip
        effects = np.ravel(effects)
        error = float(np.ravel(sd)[0]) / math.sqrt(len(effects))
        mean = float(effects.mean())
        if np.size(sd) == 1 and abs(mean) > _FAR * error > 0:
            yield Symptom(
                f"the effects {name} have the mean {mean:.3g}, {abs(mean) / error:.1f} standard "
                "errors from zero",
                "they carry a level that a network or an intercept should carry",
                "give the formula an intercept, or train the network longer, as by steps=",
                "caution",
            )
