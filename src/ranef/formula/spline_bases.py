"""The functions bs() and ns() of a formula: bases of cubic and natural splines, as those of R.

bs(x) has the B-splines of a knot sequence but the first (de Boor, 1978), and ns(x) those
combinations of the cubic ones whose second derivative is zero at both boundary knots (Hastie,
1992).
The values are those of the functions of the same names in R's package splines. Beyond the boundary
knots a B-spline continues as its last polynomial, and a natural spline as a straight line.

Interior knots are quantiles of the training rows if the formula gives a number of columns, and the
boundary knots are the range of the training rows. New rows teach nothing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.formula.expression import Function
from ranef.formula.grammar import error_at
from ranef.formula.literals import literal
from ranef.lazy import interpolate
from ranef.numerics.shapes import Float

_Vector = Float[NDArray[np.float64], "_"]

# Largest number of columns of one basis, and largest degree.
_MOST_COLUMNS = 100
_MOST_DEGREES = 8
# The degree if the formula gives none; natural splines have no other.
_CUBIC = 3
# Options by function.
_OPTIONS = {"bs": ("df", "degree", "knots", "boundary"), "ns": ("df", "knots", "boundary")}
# Number of distinct values that are kept for quantiles; above it they are thinned to half of it.
_MOST_VALUES = 200_000


@dataclass(frozen=True)
class SplineBasis:
    """A basis of splines as a formula asks for it.

    Attributes:
        natural: whether it is ns() rather than bs().
        degree: of its polynomials.
        df: the number of columns.
        knots: the interior knots; None if they are quantiles of the training rows.
        boundary: the boundary knots; None if they are the range of the training rows.
    """

    natural: bool
    degree: int
    df: int
    knots: tuple[float, ...] | None
    boundary: tuple[float, float] | None

    @property
    def interior(self) -> int:
        """Number of interior knots."""
        return self.df - (1 if self.natural else self.degree)


@lru_cache(maxsize=256)
def basis_of(call: Function, text: str = "") -> SplineBasis:
    """The basis that bs(x, df=..., degree=..., knots=[...]) or ns(x, df=...) asks for.

    Raises:
        FormulaError: for unknown options, and numbers that do not go together.
    """
    name, natural = call.name, call.name == "ns"
    options = {key: literal(value, text) for key, value in call.options}
    unknown = next((key for key in options if key not in _OPTIONS[name]), None)
    if unknown is not None:
        listed = ", ".join(_OPTIONS[name])
        raise error_at(text, call, f"{name}() has no option {unknown!r}; it takes {listed}")
    if len(call.arguments) > 2 or len(options) < len(call.options):
        raise error_at(text, call, f"{name}() takes one column, as in {name}(x, df=5)")
    if len(call.arguments) == 2:
        options.setdefault("df", literal(call.arguments[1], text))
    degree = options.get("degree", _CUBIC)
    if type(degree) is not int or not 1 <= degree <= _MOST_DEGREES:
        raise error_at(text, call, f"{name}(degree=...) must be a number from 1 to {_MOST_DEGREES}")
    least = 1 if natural else degree
    knots = _numbers(options["knots"]) if "knots" in options else None
    if "knots" in options and knots is None:
        raise error_at(text, call, f"{name}(knots=...) takes numbers that grow, as in [1, 2.5, 4]")
    df = options.get("df", least + len(knots or ()))
    if type(df) is not int or not least <= df <= _MOST_COLUMNS:
        hint = "" if natural else f", since its degree is {degree}"
        raise error_at(
            text, call, f"{name}(df=...) must be a number from {least} to {_MOST_COLUMNS}{hint}"
        )
    if knots is not None and df != least + len(knots):
        raise error_at(
            text,
            call,
            f"{len(knots)} knots make {least + len(knots)} columns, not df={df}; give df or knots",
        )
    ends = _numbers(options["boundary"]) if "boundary" in options else None
    if "boundary" in options and (ends is None or len(ends) != 2):
        raise error_at(text, call, f"{name}(boundary=...) takes two numbers, as in [0, 10]")
    boundary = None if ends is None else (ends[0], ends[1])
    return SplineBasis(natural, degree, df, knots, boundary)


def _numbers(value: object) -> tuple[float, ...] | None:
    """A number or a list of numbers that grow; None for anything else."""
    listed = value if isinstance(value, list) else [value]
    numbers = tuple(float(v) for v in listed if isinstance(v, (int, float)))
    if not numbers or not all(type(v) in (int, float) for v in listed):
        return None
    return numbers if all(a < b for a, b in zip(numbers, numbers[1:], strict=False)) else None


def counted(
    seen: Float[NDArray[np.float64], "2 _"] | None, x: _Vector
) -> Float[NDArray[np.float64], "2 _"]:
    """Distinct values with their numbers of rows, with one more batch.

    They give quantiles to all digits. Above 200,000 distinct values, neighbours share the value in
    their middle, which moves a quantile by a hundred thousandth of the rows at most.

    Args:
        seen: values (row 0) and numbers of rows (row 1) so far; None at first.
        x: values of the batch.
    """
    before = np.zeros((2, 0)) if seen is None else seen
    values, place = np.unique(np.concatenate([before[0], x]), return_inverse=True)
    counts = np.bincount(place, np.concatenate([before[1], np.ones(len(x))]), len(values))
    if len(values) > _MOST_VALUES:
        # The least and the largest value stay by themselves.
        inner = np.linspace(1, len(values) - 1, _MOST_VALUES // 2, dtype=int)
        starts = np.concatenate([[0], inner])
        ends = np.append(starts[1:], len(values))
        values = values[(starts + ends - 1) // 2]
        counts = np.add.reduceat(counts, starts)
    return np.stack([values, counts.astype(np.float64)])


def knots_of(call: Function, seen: Float[NDArray[np.float64], "2 _"]) -> tuple[float, ...]:
    """The boundary knots, followed by the interior knots.

    Args:
        call: the call of bs() or ns().
        seen: the distinct values of the training rows, as from `counted`.

    Raises:
        DataError: for knots that coincide, or lie outside the boundary knots.
    """
    basis = basis_of(call)
    values, counts = seen
    low, high = basis.boundary or (float(values[0]), float(values[-1]))
    if not low < high:
        raise DataError(
            f"{call}: the column {call.arguments[0]} has one value, {low:g}; leave the term out"
        )
    knots = basis.knots
    if knots is not None:
        if not low < knots[0] <= knots[-1] < high:
            raise DataError(
                f"{call}: the knots must lie between {low:g} and {high:g}, the boundary knots; "
                "give others, or boundary=[...]"
            )
        return low, high, *knots
    inside = (values >= low) & (values <= high)
    shares = np.linspace(0.0, 1.0, basis.interior + 2)[1:-1]
    found = _quantiles(values[inside], counts[inside], shares)
    if any(a >= b for a, b in zip((low, *found), (*found, high), strict=True)):
        raise DataError(
            f"{call}: too many rows of the column {call.arguments[0]} have one value, so that its "
            "knots, which are quantiles, coincide; take a smaller df, or give knots=[...]"
        )
    return low, high, *found


def _quantiles(values: _Vector, counts: _Vector, shares: _Vector) -> list[float]:
    """Quantiles of values that occur `counts` times each, by linear interpolation of ranks."""
    if not len(shares):
        return []
    until = np.cumsum(counts)
    place = shares * (until[-1] - 1)
    below = values[np.searchsorted(until, np.floor(place), side="right")]
    above = values[np.searchsorted(until, np.ceil(place), side="right")]
    return (below + (place - np.floor(place)) * (above - below)).tolist()


def columns_of(
    call: Function, knots: tuple[float, ...], x: _Vector
) -> Float[NDArray[np.float64], "n df"]:
    """The columns of bs() or ns() on rows with values x, (n,).

    Args:
        call: the call of bs() or ns().
        knots: as from `knots_of`.
        x: the values.
    """
    basis = basis_of(call)
    low, high, *interior = knots
    # On [0, 1], so that derivatives are of the size of one. B-splines stay the same.
    place = (x - low) / (high - low)
    inner = (np.array(interior) - low) / (high - low)
    ends = np.repeat([0.0, 1.0], basis.degree + 1)
    sequence = np.sort(np.concatenate([ends, inner]))
    size = len(sequence) - basis.degree - 1
    splines = interpolate.BSpline(sequence, np.eye(size), basis.degree)
    if not basis.natural:
        return np.asarray(splines(place), np.float64)[:, 1:]
    within = np.clip(place, 0.0, 1.0)
    beyond = place - within
    out = np.asarray(splines(within), np.float64)
    outside = np.flatnonzero(beyond)
    slopes = splines.derivative()(within[outside])
    out[outside] += beyond[outside, None] * slopes
    curvature = splines.derivative(2)(np.array([0.0, 1.0]))[:, 1:]
    # Columns orthogonal to both curvatures. Their signs are those of Householder reflections, as
    # in R.
    rotation = np.linalg.qr(curvature.T, mode="complete")[0]
    return (out[:, 1:] @ rotation)[:, 2:]
