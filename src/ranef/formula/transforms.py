"""Evaluation of expressions on the rows of a table.

The functions ``scale``, ``center``, ``poly``, ``bs`` and ``ns`` are stateful: they learn numbers
from the training rows, batch by batch, and apply the same numbers to new rows. The statistics of
the first three come from a QR factorisation that is updated with each batch; the last two count
distinct values. All other functions act on each row alone.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.errors import DataError, OptionError
from ranef.formula import dates, spline_bases
from ranef.formula.expression import (
    Column,
    Expression,
    Function,
    Negation,
    Number,
    Operation,
    Sum,
    Text,
)
from ranef.numerics.shapes import Float

# Functions that learn numbers from the training rows.
STATEFUL = ("scale", "center", "poly", "bs", "ns")

# Stateful functions whose statistics are distinct values, as `spline_bases` counts them.
_SPLINES = ("bs", "ns")

# The value of an expression: by row, or one number for all rows.
Value: TypeAlias = NDArray[np.float64] | float

_SIMPLE: dict[str, Callable[[Value], Value]] = {
    **{"log": np.log, "log10": np.log10, "log2": np.log2, "log1p": np.log1p},
    **{"exp": np.exp, "expm1": np.expm1, "sqrt": np.sqrt, "abs": np.abs, "I": np.asarray},
}
_ARITHMETIC = {"*": np.multiply, "/": np.true_divide, "**": np.power}
# Comparisons, and what joins conditions; a number other than 0 counts as true.
_CONDITIONS = {
    **{"==": np.equal, "!=": np.not_equal, "<": np.less, ">": np.greater},
    **{"<=": np.less_equal, ">=": np.greater_equal},
    **{"&": np.logical_and, "|": np.logical_or, "||": np.logical_or},
}

# The numbers that each stateful call has learned, by its canonical text.
Learned = Mapping[str, tuple[float, ...]]


def stateful_calls(expressions: Iterable[Expression]) -> dict[str, Function]:
    """The calls of stateful functions in the expressions, by canonical text.

    Raises:
        OptionError: for a stateful call inside another, which one pass over the rows cannot learn.
    """
    found: dict[str, Function] = {}
    for node in (n for e in expressions for n in e.walk()):
        if isinstance(node, Function) and node.name in STATEFUL:
            inner = next(
                (n for a in node.arguments for n in a.walk() if getattr(n, "name", "") in STATEFUL
                 and isinstance(n, Function)), None,
            )  # fmt: skip
            if inner is not None:
                raise OptionError(
                    f"{inner} inside {node} is not supported: apply one of scale, center, poly, "
                    "bs and ns to a column"
                )
            found[str(node)] = node
    return found


def accumulate(
    triangle: dict[str, NDArray] | None, calls: Mapping[str, Function], frame: Frame
) -> dict[str, NDArray]:
    """Update the statistics of each stateful call with one batch of rows.

    They are the triangular factor R in the QR factorisation of the Vandermonde matrix
    [1, u, u^2, ...] with u = (x - a) / b. The numbers a and b come from the first batch. Another
    batch is merged by a QR factorisation of R stacked on the new rows, which avoids cancellation.
    For bs and ns they are the distinct values and their numbers of rows.

    Args:
        triangle: statistics so far by canonical text, None at first. Row 0 of each array starts
            with (a, b), the other rows are R; there are degree + 1 columns.
        calls: the stateful calls, by canonical text.
        frame: the rows.
    """
    triangle = dict(triangle or {})
    for key, call in calls.items():
        x = evaluate_single(call.arguments[0], frame, {})
        if len(x) == 0:
            continue
        if call.name in _SPLINES:
            triangle[key] = spline_bases.counted(triangle.get(key), x)
            continue
        if key in triangle:
            a, b = triangle[key][0, :2]
            factor = triangle[key][1:]
        else:
            a, b = x.mean(), np.abs(x - x.mean()).max() or 1.0
            factor = np.zeros((0, degree(call) + 1))
        powers = np.vander((x - a) / b, degree(call) + 1, increasing=True)
        merged = np.linalg.qr(np.vstack([factor, powers]), mode="r")
        top = np.zeros((1, degree(call) + 1))
        top[0, :2] = a, b
        triangle[key] = np.vstack([top, merged])
    return triangle


def finish(triangle: Mapping[str, NDArray], calls: Mapping[str, Function]) -> Learned:
    """The numbers that `evaluate` uses for each stateful call.

    Returns:
        by canonical text: (mean,) for center, (mean, sd) for scale with n - 1 in the sd,
        (a, b, *inverse of R) for poly, so that the columns of [1, u, u^2, ...] R^-1 are
        orthonormal on the training rows, and the knots for bs and ns, the boundary first.

    Raises:
        DataError: if the column is constant (scale) or has too few distinct values (poly, bs, ns).
    """
    learned: dict[str, tuple[float, ...]] = {}
    for key, call in calls.items():
        if call.name in _SPLINES:
            learned[key] = spline_bases.knots_of(call, triangle[key])
            continue
        (a, b, *_), factor = triangle[key][0], triangle[key][1:]
        diagonal = np.abs(np.diag(factor))
        full = len(diagonal) == factor.shape[1] and diagonal.min() > 1e-10 * diagonal[0]
        if not full and call.name != "center":
            raise DataError(
                f"{key}: the column {call.arguments[0]} has too few distinct values for it; "
                "leave the term out"
            )
        root_n, shift = factor[0, 0], factor[0, 1]
        mean = a + b * shift / root_n
        if call.name == "center":
            learned[key] = (mean,)
        elif call.name == "scale":
            sd = b * abs(factor[1, 1]) / np.sqrt(max(root_n**2 - 1, 1.0))
            learned[key] = (mean, sd)
        else:
            inverse = np.linalg.inv(factor * np.sign(np.diag(factor))[:, None])
            learned[key] = (a, b, *inverse.ravel())
    return learned


def degree(call: Function) -> int:
    """The degree of poly(x, degree); 1 for the other stateful functions.

    Raises:
        OptionError: for a degree that is not a whole number from 1 to 8, or wrong arguments.
    """
    if call.name != "poly":
        if len(call.arguments) != 1:
            raise OptionError(f"{call}: {call.name}() takes one column")
        return 1
    value = call.arguments[1] if len(call.arguments) == 2 else None
    if not isinstance(value, Number) or value.value not in range(1, 9):
        raise OptionError(f"{call}: write poly(x, degree) with a degree from 1 to 8")
    return int(value.value)


def width(expression: Expression) -> int | None:
    """Number of columns of poly(), bs() or ns(); None for an expression of one column."""
    if not isinstance(expression, Function):
        return None
    if expression.name in _SPLINES:
        return spline_bases.basis_of(expression).df
    return degree(expression) if expression.name == "poly" else None


def evaluate(expression: Expression, frame: Frame, learned: Learned) -> Float[NDArray, "n ..."]:
    """The value of an expression on every row.

    Args:
        expression: the expression.
        frame: the rows.
        learned: numbers of the stateful calls.

    Returns:
        The values, with further axes for poly(x, k) and for columns that hold an array in each
        row.

    Raises:
        DataError: if a value is not a finite number, naming the expression and the first such
            row, and if columns hold arrays of different shapes.
    """
    row_shape(expression, frame)
    with np.errstate(all="ignore"):
        values = np.asarray(_evaluate(expression, frame, learned), dtype=np.float64)
    if values.ndim == 0:
        values = np.full(frame.n, float(values))
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        row = frame.row_number(int(np.argmax(bad)))
        raise DataError(
            f"{expression} is not a finite number in {int(bad.sum()):,} of {frame.n:,} rows, the "
            f"first of them row {row}; remove or correct those rows"
        )
    return values


def row_shape(expression: Expression, frame: Frame) -> tuple[int, ...]:
    """Shape of an expression's value in one row: () for a number, (k,) for k columns as of poly().

    Raises:
        DataError: if the expression combines columns whose rows have different shapes.
    """
    own = width(expression)
    if own is not None:
        return (own,)
    shapes = {
        name: frame.numbers(name).shape[1:]
        for name, use in expression.needs().items()
        if use == "number"
    }
    if len(set(shapes.values())) > 1:
        shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(
            f"{expression} joins columns whose rows differ in shape ({shown}); use them one by one"
        )
    return next(iter(shapes.values()), ())


def evaluate_single(expression: Expression, frame: Frame, learned: Learned) -> Float[NDArray, "n"]:
    """`evaluate` for expressions that must have one number in each row.

    Raises:
        DataError: as `evaluate`, and for a column that holds an array in each row.
    """
    values = evaluate(expression, frame, learned)
    if values.ndim > 1:
        raise DataError(
            f"{expression} holds arrays of shape {values.shape[1:]} where one number for each row "
            "is needed; only nn() takes such a column"
        )
    return values


def _evaluate(node: Expression, frame: Frame, learned: Learned) -> Value:
    if isinstance(node, Column):
        return frame.numbers(node.name)
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Sum):
        total = 0.0
        for sign, operand in zip(node.signs, node.operands, strict=True):
            value = _evaluate(operand, frame, learned)
            total = total + value if sign == "+" else total - value
        return total
    if isinstance(node, Operation) and node.compares_text:
        return _compared_with_text(node, frame)
    if isinstance(node, Operation):
        left = _evaluate(node.left, frame, learned)
        right = _evaluate(node.right, frame, learned)
        if node.operator in _CONDITIONS:
            holds = np.asarray(_CONDITIONS[node.operator](left, right), np.float64)
            return np.where(np.isnan(left) | np.isnan(right), np.nan, holds)
        return _ARITHMETIC[node.operator](left, right)
    if isinstance(node, Negation):
        value = np.asarray(_evaluate(node.operand, frame, learned))
        return np.where(np.isnan(value), np.nan, (value == 0).astype(np.float64))
    if isinstance(node, Function):
        return _call(node, frame, learned)
    raise OptionError(f"{node} cannot be evaluated as a number")


def _compared_with_text(node: Operation, frame: Frame) -> Float[NDArray, "n"]:
    """A comparison of a column's levels with a text: 1, 0, or NaN where the level is missing.

    Raises:
        OptionError: if the sides are not a column and a text, or the operator is not == or !=.
    """
    column, text = node.left, node.right
    if isinstance(column, Text):
        column, text = text, column
    if not isinstance(column, Column) or not isinstance(text, Text):
        raise OptionError(f"{node}: one side must be a column and the other a text")
    if node.operator not in ("==", "!="):
        raise OptionError(f"{node}: texts are compared by == and !=; convert {column} to numbers")
    found = frame.levels(column.name)
    # The levels of booleans are "True" and "False", whatever their letter case in a file.
    said = text.value.capitalize() if frame.is_boolean(column.name) else text.value
    holds = np.array([*(name == said for name in found.names), False])[found.codes]
    holds = holds if node.operator == "==" else ~holds
    return np.where(found.codes < 0, np.nan, holds.astype(np.float64))


def _call(call: Function, frame: Frame, learned: Learned) -> Value:
    """The value of a function call on every row."""
    if call.name == "days":
        return frame.days(call.columns()[0]) - dates.origin_of(call)
    x = _evaluate(call.arguments[0], frame, learned)
    if call.name in _SIMPLE:
        if len(call.arguments) != 1:
            raise OptionError(f"{call}: {call.name}() takes one argument")
        return _SIMPLE[call.name](x)
    if call.name == "center":
        return x - learned[str(call)][0]
    if call.name == "scale":
        mean, sd = learned[str(call)]
        return (x - mean) / sd
    if width(call) is not None and np.ndim(x) > 1:
        raise DataError(
            f"{call} takes one number in each row, and {call.arguments[0]} holds an array"
        )
    if call.name in _SPLINES:
        x = np.asarray(x, np.float64)
        out = np.full((len(x), width(call) or 0), np.nan)
        known = np.isfinite(x)
        out[known] = spline_bases.columns_of(call, learned[str(call)], x[known])
        return out
    if call.name == "poly":
        (a, b, *rest), k = learned[str(call)], degree(call) + 1
        powers = np.vander(np.asarray((x - a) / b), k, increasing=True)
        return (powers @ np.reshape(rest, (k, k)))[:, 1:]
    raise OptionError(f"{call} is a factor and cannot be used inside a function")
