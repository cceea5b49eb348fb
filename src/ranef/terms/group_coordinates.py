"""Coordinates of group effects, on which the default prior of their covariance is set.

The sd of the intercepts in (1 + x | g) is the one at x = 0, which may be far from all rows. The
default prior of correlated effects b_j with covariance Sigma is therefore set on coordinates c_j,

    b_j = T c_j,    z_ij . b_j = (T'z_ij) . c_j,    Sigma = T D R D T'

where D holds the sds and R the correlations of c_j. Its elements are the intercept at the means of
the columns, slopes, and for a factor the effect in each of its levels. The likelihood is the same,
and the prior does not depend on the origin of a column or the reference level of a factor.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranef.formula import transforms
from ranef.formula.expression import Column, Expression, Function, Number, Operation
from ranef.formula.model_matrix import CodedExpression, Coding

Array = NDArray[np.float64]

# Relative cutoff of singular values in the regressions on columns of lower degree: combinations of
# these below it count as zero.
_DEPENDENT = 1e-10


def coordinates(
    codings: Sequence[Coding], mean: Array, covariance: Array
) -> tuple[Array, Array, tuple[str, ...]]:
    """The matrix T, and the sizes and names of the coordinates.

    A column of degree d (1 for x, 2 for x:z or I(x**2), 0 for an intercept or a factor) is replaced
    by its residual from a regression on all columns of lower degree. A shift of x adds to a column
    only columns of lower degree, so the residual does not depend on the origin of x. Factors that
    span all their cells are replaced by one column for each cell.

    Args:
        codings: codings of the k columns.
        mean: (k,) means of the columns over the rows.
        covariance: (k, k) covariance matrix of the columns over the rows.

    Returns:
        T (k, k), the size of each column of Z T (k,), and the name of each coordinate.
    """
    labels = _labels(codings)
    degree = np.concatenate([_degrees(coding) for coding in codings])
    to_cells = np.eye(len(mean))
    cells = np.zeros(len(mean), dtype=bool)
    start = 0
    places: dict[tuple[str, ...], list[tuple[Coding, slice]]] = {}
    for coding in codings:
        numeric = tuple(str(p.expression) for p in coding.parts if p.levels is None)
        own = slice(start, start + coding.width)
        places.setdefault(numeric, []).append((coding, own))
        start += coding.width
    names = list(labels)
    for numeric, group in places.items():
        found = _cells([coding for coding, _ in group])
        if found is None:
            continue
        at = np.concatenate([np.arange(own.start, own.stop) for _, own in group])
        root, cell_names = found
        to_cells[np.ix_(at, at)] = np.linalg.inv(root)
        cells[at] = True
        for place, name in zip(at, cell_names, strict=True):
            names[place] = ":".join([*([name] if name else []), *numeric]) or "1"
    constant = [i for i, coding in enumerate(labels) if coding == "1"]
    # Second moments about the means lose no digits to cancellation. They suffice if an intercept
    # takes up the means and all other columns are numeric.
    about_mean = bool(constant) and (degree > 0).sum() == len(mean) - 1
    second = covariance if about_mean else covariance + np.outer(mean, mean)
    second = to_cells.T @ second @ to_cells
    means = to_cells.T @ mean
    t = np.eye(len(mean))
    if about_mean:
        t[constant[0]] -= np.where(degree > 0, means, 0.0)
        second[constant[0]] = second[:, constant[0]] = 0.0
        second[constant[0], constant[0]] = 1.0
    # Additive factors do not span their cells. Their contrasts are regressed on the constant, and
    # come before columns of degree one.
    is_constant = np.array([label == "1" for label in labels])
    grade = degree * 2.0 + ((degree == 0) & ~cells & ~is_constant)
    for level in sorted(set(grade))[1:]:
        low, own = np.flatnonzero(grade < level), np.flatnonzero(grade == level)
        size = np.sqrt(np.maximum(np.diagonal(second)[low], 0.0))
        scale = np.where(size > 0, size, 1.0)
        gram = second[np.ix_(low, low)] / scale / scale[:, None]
        right = second[np.ix_(low, own)] / scale[:, None]
        slope = np.linalg.lstsq(gram, right, rcond=_DEPENDENT)[0] / scale[:, None]
        step = np.eye(len(mean))
        step[np.ix_(low, own)] = -slope
        t, second = t @ step, step.T @ second @ step
    t = to_cells @ t
    return t, _sizes(np.diagonal(second), cells, names, degree), tuple(names)


def _sizes(squares: Array, cells: NDArray[np.bool_], names: Sequence[str], degree: Array) -> Array:
    """Root mean square of each column over the rows of its cell, (k,); 1 for a cell's indicator."""
    out = np.sqrt(np.maximum(squares, 0.0))
    share = {n: squares[i] for i, n in enumerate(names) if degree[i] == 0 and cells[i]}
    for i, name in enumerate(names):
        if degree[i] == 0 and cells[i]:
            out[i] = 1.0
            continue
        own = next((s for cell, s in share.items() if name.startswith(f"{cell}:")), 1.0)
        out[i] /= np.sqrt(own) if own > 0 else 1.0
    return np.where(out > 0, out, 1.0)


def _labels(codings: Sequence[Coding]) -> list[str]:
    """The name of each column, such as 1, x or f[b]."""
    out: list[str] = []
    for coding in codings:
        base = "1" if coding.name == "Intercept" else coding.name
        out += [f"{base}[{label}]" for label in coding.names] or [base]
    return out


def _degrees(coding: Coding) -> Array:
    """The degree of each column of a coding in the numeric columns of the table, (width,)."""
    out = np.zeros(1)
    for part in coding.parts:
        out = (out[:, None] + _part_degrees(part)[None]).ravel()
    return out


def _part_degrees(part: CodedExpression) -> Array:
    """The degree of each column of one expression."""
    if part.levels is not None:
        return np.zeros(len(part.names))
    expression = part.expression
    if isinstance(expression, Function) and expression.name == "poly":
        return np.arange(1.0, transforms.degree(expression) + 1)
    return np.full(part.width, _degree(expression))


def _degree(expression: Expression) -> float:
    """The degree of an expression as a polynomial; functions have that of their arguments."""
    if isinstance(expression, Number):
        return 0.0
    if isinstance(expression, Column):
        return 1.0
    if isinstance(expression, Function):
        return max((_degree(a) for a in expression.arguments), default=1.0) or 1.0
    if isinstance(expression, Operation) and expression.operator == "*":
        return _degree(expression.left) + _degree(expression.right)
    if isinstance(expression, Operation) and expression.operator == "**":
        right = expression.right
        power = right.value if isinstance(right, Number) else 1.0
        return _degree(expression.left) * max(power, 1.0)
    return max((_degree(c) for c in expression.children()), default=1.0)


def _cells(codings: Sequence[Coding]) -> tuple[Array, list[str]] | None:
    """The values of the columns in every cell of their factors.

    Returns:
        The values, (k, k) by cell and column, and the names of the cells; None if the columns do
        not span the cells.
    """
    levels: dict[str, tuple[str, ...]] = {}
    for part in (p for coding in codings for p in coding.parts):
        if part.levels is not None:
            levels.setdefault(str(part.expression), part.levels)
    shape = [len(each) for each in levels.values()]
    width = sum(coding.width for coding in codings)
    if int(np.prod(shape, dtype=int)) != width:
        return None
    columns = []
    index = np.indices(shape).reshape(len(shape), width) if shape else np.zeros((0, width), int)
    for coding in codings:
        own = np.ones((width, 1))
        for part in coding.parts:
            if part.levels is None:
                if part.width > 1:
                    return None
                continue
            code = index[list(levels).index(str(part.expression))]
            values = part.by_level[code]
            own = (own[:, :, None] * values[:, None, :]).reshape(width, -1)
        columns.append(own)
    root = np.concatenate(columns, axis=1)
    if np.linalg.matrix_rank(root) < width:
        return None
    names = [
        "[" + ", ".join(each[i] for each, i in zip(levels.values(), cell, strict=True)) + "]"
        for cell in index.T
    ]
    named = [":".join(levels) + name if levels else "" for name in names]
    return root, named
