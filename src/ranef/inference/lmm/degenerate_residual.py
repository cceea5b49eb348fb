"""Refuses linear mixed models whose residual variance double precision cannot resolve."""

from collections.abc import Mapping

import numpy as np

from ranef import priors
from ranef.errors import DataError
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.unbounded_likelihood import (
    FITTED,
    SUBTRACT,
    fits_exactly,
    how_to_fix,
    refuse_constant,
)
from ranef.numerics.shapes import Numbers
from ranef.program.problem import Problem

# Share of the residual variance of the common effects alone below which a known residual variance
# can be too small for the arithmetic.
_SMALL = 1e-8


def refuse_without_residual(mixed: LinearMixedModel, problem: Problem) -> None:
    """Refuse a response without residual, for which the posterior of sigma is a spike at zero.

    Args:
        mixed: the model and its cross-products.
        problem: its priors and family.

    Raises:
        DataError: if sigma is unknown and the response is constant, or if the common effects fit
            it exactly.
    """
    if _is_known(mixed, problem):
        return
    unknown = (mixed.sigma,)
    name, advice = str(problem.family.response.value), how_to_fix(unknown)
    refuse_constant(name, np.array(mixed.span), unknown, SUBTRACT)
    if mixed.total > 0 and mixed.least_residual <= FITTED * mixed.total:
        raise DataError(fits_exactly(name, unknown, advice))


def refuse_vanished(
    sites: Mapping[str, Numbers], mixed: LinearMixedModel, problem: Problem, *, found: bool
) -> None:
    """Refuse a posterior in which the group effects leave next to nothing for the residual.

    The posterior of sigma is then determined by rounding errors.

    Args:
        sites: draws of the hyperparameters by site.
        mixed: the model and its cross-products.
        problem: its priors.
        found: whether the search for the mode converged.

    Raises:
        DataError: if an unknown sigma is below the resolution of the cross-products, or if the
            search did not converge and a known sigma is far below the scatter of the response.
    """
    known = _is_known(mixed, problem)
    sigma = float(np.median(sites[mixed.sigma])) if mixed.sigma else 1.0
    if known and not found and sigma**2 < _SMALL * mixed.least_residual / mixed.n:
        raise out_of_reach(mixed, problem)
    if not known and sigma**2 * mixed.n <= FITTED * mixed.total:
        raise out_of_reach(mixed, problem)


def out_of_reach(mixed: LinearMixedModel, problem: Problem) -> DataError:
    """The error to raise for scales that rounding errors determine, with advice."""
    if _is_known(mixed, problem):
        what = f"{mixed.sigma} is fixed" if mixed.sigma else "the known standard errors are"
        return DataError(
            f"{what} so far below the scatter of the response that the arithmetic cannot tell the "
            "scales of the group effects; check the unit, or take larger ones"
        )
    return DataError(
        "the group effects are so large beside the residual, which they may fit entirely, that "
        f"the arithmetic cannot tell {mixed.sigma}; leave a grouping out, or give {mixed.sigma} a "
        "prior that keeps it away from zero"
    )


def _is_known(mixed: LinearMixedModel, problem: Problem) -> bool:
    """Whether the residual sd is known."""
    return not mixed.sigma or isinstance(problem.priors[mixed.sigma], priors.Fixed)
