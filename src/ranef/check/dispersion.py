"""Finds counts and numbers of successes that vary more than their distribution allows.

The variance of a Poisson or binomial response follows from its mean. The dispersion

    D = mean_s (1/n) sum_i (y_i - mu_is)^2 / V(mu_is)

is the Pearson statistic of the rows, averaged over posterior draws s. It is one in expectation if
the model is right: replicated responses at the same draws have the mean n (Gelman, Meng and Stern,
1996). Its standard error is that of a sum of squares with the kurtosis of the distribution.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import COMPILING, Deadline
from ranef.check.symptom import Symptom
from ranef.lazy import jax
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.program.training import evenly
from ranef.terms.base import RunOptions

# Dispersion from which it is reported: the sds of effects are then a tenth too small.
_NOTABLE = 1.2
# Standard errors that it must exceed one by.
_ERRORS = 4.0
# Posterior draws over which the statistic is averaged.
_DRAWS = 50


def dispersion(posterior: Posterior, deadline: Deadline) -> Iterator[Symptom]:
    """Report responses that vary more about their means than a Poisson or binomial does.

    Of many rows, 20,000 evenly spaced ones are looked at.

    Args:
        posterior: the fit.
        deadline: the time limit of the check; nothing is reported if it is too short to compile
            the predictions of a program.
    """
    family, response = posterior.program.family, posterior.training.response
    counts = family.name == "poisson"
    shares = family.name == "binomial" and np.any(np.asarray(response.companion) > 1)
    if not (counts or shares) or posterior.training.held < 2 or deadline.seconds < COMPILING:
        return
    squares, kurtosis = _pearson(posterior)
    size = float(squares.mean())
    error = math.sqrt(float((2.0 + kurtosis).sum())) / len(squares)
    if size < _NOTABLE or size - 1.0 < _ERRORS * error:
        return
    what = "counts" if counts else "numbers of successes"
    other = "take family='negative_binomial', or give" if counts else "give"
    yield Symptom(
        f"the {what} vary {size:.2g} times as much about their means as {family.name} responses do",
        f"the model leaves variation out, so that intervals of common effects are narrower than "
        f"they should be, by a factor of up to {math.sqrt(size):.2g}",
        f"{other} each row an effect of its own, as in (1 | row) with a column that numbers them",
        "trust",
    )


def _pearson(posterior: Posterior) -> tuple[Float[NDArray, "n"], Float[NDArray, "n"]]:
    """Squared Pearson residual of each row, a mean over draws, and the excess kurtosis."""
    training, family = posterior.training, posterior.program.family
    rows = evenly(training.held)
    some = jax.tree.map(lambda a: a[rows], training.in_memory)
    predictive = Predictive(
        posterior.program,
        training.state,
        posterior.draws.thinned(_DRAWS),
        RunOptions(training=False, new_levels="zero"),
        0,
    )
    value = np.asarray(some.response.value, np.float64)
    squares, kurtosis = np.empty(len(rows)), np.empty(len(rows))
    with jax.enable_x64(True):
        for chunk in predictive.over(some.designs, some.response, len(rows)):
            mean = chunk.own(family.mean(chunk.response, **chunk.values))
            variance = chunk.own(family.variance(chunk.response, **chunk.values))
            # A mean at the end of its range has no variance to compare a residual with.
            variance = np.maximum(variance, np.finfo(float).tiny)
            own = chunk.places
            squares[own] = ((value[own] - mean) ** 2 / variance).mean(axis=0)
            # Of a Poisson count it is 1 / mu = 1 / V, of a binomial number (1 - 6 p q) / V.
            share = 0.0
            if family.name == "binomial":
                p = chunk.own(chunk.values["p"])
                share = 6.0 * p * (1.0 - p)
            kurtosis[own] = ((1.0 - share) / variance).mean(axis=0)
    return squares, kurtosis
