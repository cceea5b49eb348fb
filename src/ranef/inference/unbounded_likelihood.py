"""Refuses responses whose likelihood has no maximum, before any method runs.

As the dispersion of a family goes to its limit (sigma to 0, the alpha of a gamma or the kappa of a
beta response to infinity) the density of a row that lies on its predictor grows without end. Where
all rows can lie there at once, which is so for a constant response and for one that the common
effects fit exactly, the posterior has no mode, and no method can find it.
"""

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.errors import DataError
from ranef.families.base import Family
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]

# A spread below this share of the response's size is its rounding.
ROUNDING = 1e-11
# A residual sum of squares below this share of the total is rounding.
FITTED = 1e-13
# Rows in which an exact fit is looked for first, for each common column: other responses show
# themselves there, so that most tables are not gone through.
_FIRST_ROWS = 20
# What to do about a response on the line whose values are too close together for their size.
SUBTRACT = "subtract its mean, or another constant, first"
# Numbers from 1 / this to this: the fourth derivative of a log density has their fourth power.
_LARGEST = 1e70
# The same where the log density is quadratic, so that its derivatives end with the second.
_LARGEST_QUADRATIC = 1e110
# A count beyond this has no neighbour in double precision, and the log density of a smaller one
# loses what tells one mean from the next: eps y log y is some 0.01 nats here.
_LARGEST_COUNT = 1e12


def refuse_degenerate(problem: Problem) -> None:
    """Refuse a response that leaves nothing to tell the family's dispersion, or its mean.

    Args:
        problem: the model on its training rows; where these are read in batches, nothing is asked.

    Raises:
        DataError: naming the response, what is wrong with it and what to do.
    """
    law = problem.family
    response = problem.data[1]
    if problem.windows or problem.incomplete or response.value is None:
        return
    value, name = np.asarray(response.value, np.float64), str(law.response.value)
    if law.discrete and value.max(initial=0.0) > _LARGEST_COUNT:
        raise DataError(
            f"the response {name} reaches {value.max():g}, and counts above {_LARGEST_COUNT:g} are "
            "too large for the arithmetic of a count; rescale it and take family='gamma' or "
            "'lognormal'"
        )
    if law.parameters[0].link == "identity" and law.dispersions():
        _refuse_size(name, law, law.located(response))
    if law.unbounded_at is not None and (value == law.unbounded_at).all():
        raise DataError(
            f"the response {name} is {law.unbounded_at:g} in every row, so nothing tells its mean "
            f"under the family {law.name}; expected at least one other value, so check the column"
        )
    unknown = _unknown(problem)
    if not unknown:
        return
    known, columns = _predictor(problem)
    located = law.located(response) - known
    advice = how_to_fix(unknown)
    apart = SUBTRACT if np.array_equal(law.located(response), value) else advice
    refuse_constant(name, value if not np.any(known) else located, unknown, apart)
    kinds = len(law.parts())
    distinct = np.unique(located)
    if len(distinct) <= kinds:
        raise DataError(
            f"the response {name} takes {len(distinct)} different values, which the {kinds} "
            f"components of the mixture fit exactly, so nothing tells {_listed(unknown)}; take "
            f"fewer components, or {advice}"
        )
    if columns is not None and _fits(columns, located):
        raise DataError(fits_exactly(name, unknown, advice))


def _refuse_size(name: str, law: Family, located: Array) -> None:
    """Refuse numbers whose powers the derivatives of a log density cannot hold.

    Raises:
        DataError: saying so.
    """
    size = float(np.abs(located).max(initial=0.0))
    largest = _LARGEST_QUADRATIC if law.quadratic else _LARGEST
    if size > largest or 0 < size < 1 / largest:
        raise DataError(
            f"the response {name} is of the size {size:.3g}, and the arithmetic of the family "
            f"{law.name} holds sizes from {1 / largest:g} to {largest:g}; rescale it, as in "
            "scale(y)"
        )


def refuse_constant(name: str, value: Array, unknown: tuple[str, ...], apart: str) -> None:
    """Refuse a response that is the same in every row, but for rounding.

    Args:
        name: of the response.
        value: (n,) the response, or its smallest and largest.
        unknown: the parameters that nothing tells then.
        apart: what to do about values too close together.

    Raises:
        DataError: saying so.
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
    """The sentence for a response that is a combination of common columns."""
    return (
        f"the common effects fit the response {name} exactly, so nothing tells "
        f"{_listed(unknown)}; leave some out, or {advice}"
    )


def how_to_fix(unknown: tuple[str, ...]) -> str:
    """How to fix parameters, as the user writes it."""
    given = ", ".join(f"'{each}': 1.0" for each in unknown)
    return f"fix {_listed(unknown)}, as in priors={{{given}}}"


def _listed(names: tuple[str, ...]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _unknown(problem: Problem) -> tuple[str, ...]:
    """The dispersions that are not fixed; empty where one of them is."""
    names = problem.family.dispersions()
    fixed = any(isinstance(problem.priors.get(name), priors.Fixed) for name in names)
    return () if fixed else names


def _predictor(problem: Problem) -> tuple[Array, Array | None]:
    """What is known of the location's predictor (n,), and its common columns (n, p).

    The columns are None where a term of it is not linear in its coefficients.
    """
    n = len(problem.data[1].value)
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
    """Whether its coefficients have a prior without any spread, as those of an offset."""
    return block.codes is None and not block.scales and not np.any(np.asarray(block.factor))


def _fits(columns: Array, value: Array) -> bool:
    """Whether some combination of the columns is the value, but for rounding."""
    n, p = columns.shape
    few = np.linspace(0, n - 1, min(n, _FIRST_ROWS * (p + 1))).astype(int)
    return _residual_is_nothing(columns[few], value[few]) and (
        len(few) == n or _residual_is_nothing(columns, value)
    )


def _residual_is_nothing(columns: Array, value: Array) -> bool:
    size = np.abs(columns).max(axis=0, initial=0.0)
    if not columns.shape[1] or not np.isfinite(size).all():
        return False
    # Least squares of numbers of one size loses none of their digits.
    away = (value - value.mean()) / (np.abs(value - value.mean()).max() or 1.0)
    scaled = columns / np.where(size > 0, size, 1.0)
    beta = np.linalg.lstsq(scaled, away, rcond=ROUNDING)[0]
    return bool(((away - scaled @ beta) ** 2).sum() <= FITTED * (away**2).sum())


def not_finite(family: Family) -> DataError:
    """The sentence for a search in which the density was not a finite number."""
    name = family.response.value
    return DataError(
        f"the posterior density under the family {family.name} is not a finite number near the "
        f"response {name}, whose values are too far apart, too large or fitted too well for the "
        f"arithmetic; rescale {name}, look for values that are wrong, or give tighter priors"
    )
