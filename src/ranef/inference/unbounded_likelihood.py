"""Checks for responses whose likelihood is unbounded, made before any method runs.

As the dispersion of a family goes to its limit (sigma to 0; alpha of a gamma response or kappa of a
beta response to infinity), the density of a row whose response equals its location grows without
bound. If this is possible for all rows at once, the likelihood is unbounded and the posterior has
no mode. It is possible for a constant response, and for a response that the common effects (fixed
effects) fit exactly.
"""

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.errors import DataError, ExactFitError
from ranef.families.base import Family
from ranef.numerics.shapes import Float
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]
Values = Float[Array, "n"]

# A range of the response below this share of its largest absolute value counts as rounding error.
ROUNDING = 1e-11
# A residual sum of squares below this share of the total sum of squares counts as rounding error.
FITTED = 1e-13
# Rows for each common column (and one more) in the first check for an exact fit. Most responses
# fail it, so that most tables need no check of all rows.
_FIRST_ROWS = 20
# Advice for a response on the identity link whose values are too close together for their size.
SUBTRACT = "subtract its mean, or another constant, first"
# The size of a response must lie between 1 / _LARGEST and _LARGEST, because the fourth derivative
# of a log density contains the fourth power of the size.
_LARGEST = 1e70
# The same for a quadratic log density, whose derivatives end with the second.
_LARGEST_QUADRATIC = 1e110
# Largest count. The rounding error of a log density, eps y log y, is about 0.01 nats here, and
# larger counts lose the differences of log density between means.
_LARGEST_COUNT = 1e12


def refuse_degenerate(problem: Problem) -> None:
    """Refuses a response that does not determine the family's dispersion, or its mean.

    Args:
        problem: the model and its rows. Models with streamed rows, with missing values in columns
            or without response values are not checked.

    Raises:
        ExactFitError: for a response that the common effects fit exactly.
        DataError: with the name of the response, its fault and the remedy.
    """
    family = problem.family
    response = problem.data.response
    if problem.windows or problem.incomplete or response.value is None:
        return
    value, name = np.asarray(response.value, np.float64), str(family.response.value)
    if family.discrete and value.max(initial=0.0) > _LARGEST_COUNT:
        raise DataError(
            f"the response {name} reaches {value.max():g}, and counts above {_LARGEST_COUNT:g} are "
            "too large for the arithmetic of a count; rescale it and take family='gamma' or "
            "'lognormal'"
        )
    if family.parameters[0].link == "identity" and family.dispersions():
        _refuse_size(name, family, family.located(response))
    if family.unbounded_at is not None and (value == family.unbounded_at).all():
        raise DataError(
            f"the response {name} is {family.unbounded_at:g} in every row, so nothing tells its "
            f"mean under the family {family.name}; expected at least one other value, so check the "
            "column"
        )
    unknown = _unknown(problem)
    if not unknown:
        return
    known, columns = _predictor(problem)
    located = family.located(response) - known
    advice = how_to_fix(unknown)
    apart = SUBTRACT if np.array_equal(family.located(response), value) else advice
    refuse_constant(name, value if not np.any(known) else located, unknown, apart)
    kinds = len(family.parts())
    distinct = np.unique(located)
    if len(distinct) <= kinds:
        raise DataError(
            f"the response {name} takes {len(distinct)} different values, which the {kinds} "
            f"components of the mixture fit exactly, so nothing tells {_listed(unknown)}; take "
            f"fewer components, or {advice}"
        )
    if columns is not None and _fits(columns, located):
        raise ExactFitError(fits_exactly(name, unknown, advice), unknown)


def _refuse_size(name: str, family: Family, located: Values) -> None:
    """Refuses a response so large or small that derivatives of the log density would overflow.

    Raises:
        DataError: for such a response.
    """
    size = float(np.abs(located).max(initial=0.0))
    largest = _LARGEST_QUADRATIC if family.quadratic else _LARGEST
    if size > largest or 0 < size < 1 / largest:
        raise DataError(
            f"the response {name} is of the size {size:.3g}, and the arithmetic of the family "
            f"{family.name} holds sizes from {1 / largest:g} to {largest:g}; rescale it, as in "
            "scale(y)"
        )


def refuse_constant(name: str, value: Values, unknown: tuple[str, ...], apart: str) -> None:
    """Refuses a response that is constant up to rounding errors.

    Args:
        name: name of the response.
        value: the response, or its smallest and largest value.
        unknown: names of the dispersions that such a response does not determine.
        apart: advice for values that are too close together.

    Raises:
        DataError: for such a response.
    """
    low, high = float(np.min(value)), float(np.max(value))
    if low == high:
        raise DataError(
            f"the response {name} is {low:g} in every row, so nothing tells {_listed(unknown)}; "
            f"{how_to_fix(unknown)}"
        )
    if high - low <= ROUNDING * max(abs(low), abs(high)):
        raise DataError(
            f"the response {name} lies between {low:.16g} and {high:.16g}, so close together for "
            f"their size that rounding decides {_listed(unknown)}; {apart}"
        )


def fits_exactly(name: str, unknown: tuple[str, ...], advice: str) -> str:
    """The message for a response that is a linear combination of common columns.

    Args:
        name: name of the response.
        unknown: names of the dispersions that such a response does not determine.
        advice: the remedy.
    """
    return (
        f"the common effects fit the response {name} exactly, so nothing tells "
        f"{_listed(unknown)}; leave some out, or {advice}"
    )


def how_to_fix(unknown: tuple[str, ...]) -> str:
    """Advice to fix the parameters with these names, with the argument `priors` for it."""
    fixed = ", ".join(f"'{each}': 1.0" for each in unknown)
    return f"fix {_listed(unknown)}, as in priors={{{fixed}}}"


def _listed(names: tuple[str, ...]) -> str:
    """The names as a list in a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _unknown(problem: Problem) -> tuple[str, ...]:
    """Names of the family's dispersions; empty if any of them is fixed."""
    names = problem.family.dispersions()
    fixed = any(isinstance(problem.priors.get(name), priors.Fixed) for name in names)
    return () if fixed else names


def _predictor(problem: Problem) -> tuple[Values, Float[Array, "n p"] | None]:
    """The known part of the location's predictor, and its common columns.

    The columns are None if a term of the predictor is not linear in its coefficients.
    """
    n = problem.data.n
    blocks = [
        block
        for label, block in problem.unit_blocks().items()
        if problem.predicts[label] == problem.location
    ]
    linear = [block for block in blocks if block is not None]
    known = np.zeros(n)
    for block in linear:
        if block.known is not None:
            known = known + np.asarray(block.known, np.float64)
        if _is_known(block):
            known = known + np.asarray(block.columns, np.float64) @ np.asarray(block.mean)
    if len(linear) < len(blocks):
        return known, None
    common = [
        np.asarray(b.columns, np.float64)
        for b in linear
        if b.codes is None and not b.scales and not _is_known(b)
    ]
    return known, np.concatenate([np.zeros((n, 0)), *common], axis=1)


def _is_known(block: LinearBlock) -> bool:
    """Whether the coefficients of a block have prior sds of zero, as those of an offset."""
    return block.codes is None and not block.scales and not np.any(np.asarray(block.factor))


def _fits(columns: Float[Array, "n p"], value: Values) -> bool:
    """Whether a linear combination of the columns equals `value`, up to rounding."""
    n, p = columns.shape
    few = np.linspace(0, n - 1, min(n, _FIRST_ROWS * (p + 1))).astype(int)
    return _residual_is_nothing(columns[few], value[few]) and (
        len(few) == n or _residual_is_nothing(columns, value)
    )


def _residual_is_nothing(columns: Float[Array, "n p"], value: Values) -> bool:
    """Whether the centred `value` has a least-squares residual of rounding size."""
    size = np.abs(columns).max(axis=0, initial=0.0)
    if not columns.shape[1] or not np.isfinite(size).all():
        return False
    # Scale all columns to the same size, so that least squares loses no digits.
    away = (value - value.mean()) / (np.abs(value - value.mean()).max() or 1.0)
    scaled = columns / np.where(size > 0, size, 1.0)
    beta = np.linalg.lstsq(scaled, away, rcond=ROUNDING)[0]
    return bool(((away - scaled @ beta) ** 2).sum() <= FITTED * (away**2).sum())


def not_finite(family: Family) -> DataError:
    """The error for a search in which the posterior density was not finite."""
    name = family.response.value
    return DataError(
        f"the posterior density under the family {family.name} is not a finite number near the "
        f"response {name}, whose values are too far apart, too large or fitted too well for the "
        f"arithmetic; rescale {name}, look for values that are wrong, or give tighter priors"
    )
