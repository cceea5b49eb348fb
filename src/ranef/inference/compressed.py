"""A problem's rows, in one batch or many, compressed to the `Mixed` model of their sums."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, MethodError
from ranef.inference.base import Part, Problem
from ranef.inference.crossproducts import Centre, CrossProducts, Factor, Rows, cross_products
from ranef.inference.mixed import Grouping, Mixed
from ranef.inference.pwls import PWLS, TooManyEffectsError
from ranef.terms.base import LinearBlock

Array = NDArray[np.float64]

# The largest value whose square a float holds with room to spare for a sum.
_LARGEST = 1e140
# The smallest eigenvalue of the correlations of the columns of a factor, about zero.
_TOLD_APART = 1e-8


def read(problem: Problem, method: str, before: CrossProducts | None = None) -> Mixed:
    """The model of a problem, for a method that integrates the coefficients in closed form.

    `before` is of rows that count in addition; where the columns have turned out not to be
    as constant as these were, they do not.

    Raises:
        MethodError: naming the family, term or prior that is not of this form, and for crossed
            groupings that are too large.
        DataError: for columns that are too large, or too far from zero to be told apart.
    """
    varying: set[int] = set()
    while True:
        try:
            return _compressed(problem, method, frozenset(varying), before)
        except _VaryingError as error:
            varying.add(error.column)
            before = None


class _VaryingError(Exception):
    """A column that was constant in the first batch, and is not in a later one."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column


def _compressed(
    problem: Problem, method: str, varying: frozenset[int], before: CrossProducts | None
) -> Mixed:
    """The sums over all batches, centred as the first one is.

    Args:
        problem: the model and its rows.
        method: for messages.
        varying: columns that are not constant, although the first batch says so.
        before: of further rows.
    """
    products = before
    layout: tuple | None = None
    low, high = math.inf, -math.inf
    for part in problem.parts():
        layout, rows = rows_of(part, problem, method)
        if products is None:
            products = cross_products(rows, Centre.of(rows, varying))
        else:
            centre = products.centre
            for place, value in zip(centre.constant, centre.value, strict=True):
                if place >= 0 and (rows.common[:, place] != value).any():
                    raise _VaryingError(int(place))
            products = products + cross_products(rows, centre)
        value = np.asarray(part.normal.value if part.normal else 0.0)
        low, high = min(low, float(value.min())), max(high, float(value.max()))
    if products is None or layout is None:
        raise DataError("there are no rows to fit")
    common, shapes, mean, precision, groupings, sigma = layout
    for grouping in groupings:
        _refuse_indistinct(grouping, products.own[grouping.factor])
    try:
        solver = PWLS(products)
    except TooManyEffectsError as error:
        raise MethodError(method, str(error)) from None
    return Mixed(
        solver,
        groupings,
        common,
        shapes,
        mean,
        precision,
        sigma,
        products.rows,
        products.log_weights,
        float(products.common[-1, -1]),
        (low, high),
    )


def rows_of(part: Part, problem: Problem, method: str) -> tuple[tuple, Rows]:
    """A batch as the solver takes it, and what `Mixed` says of it: the same for every batch."""
    normal = part.normal
    if normal is None:
        raise MethodError(method, f"takes gaussian responses, and the family is {problem.family}")
    parts: list[tuple[str, LinearBlock, Array]] = []
    for label, block in part.blocks.items():
        if problem.predicts[label] != problem.location:
            raise MethodError(
                method,
                f"takes one {problem.predicts[label]} for all rows, and the formula predicts it "
                f"by {label.removeprefix(problem.predicts[label] + '_')}",
            )
        if block is None:
            raise MethodError(
                method, f"takes terms that are linear in their coefficients, and {label} is not"
            )
        columns = np.asarray(block.columns, dtype=np.float64)
        largest = float(np.abs(columns).max(initial=0.0))
        if largest > _LARGEST:
            raise DataError(
                f"values of {label} reach {largest:.3g}, too large to be squared safely; rescale "
                "the column, as in scale(x)"
            )
        parts.append((label, block, columns))
    value = np.asarray(normal.value, dtype=np.float64)
    # Coefficients whose scale is a parameter vary by the one level that all rows have.
    varying = [part for part in parts if part[1].codes is not None or part[1].scales]
    shared = [part for part in parts if part[1].codes is None and not part[1].scales]
    common, shapes, columns, mean, precision, known = _common(shared, len(value), problem, method)
    for _, block, _ in parts:
        if block.known is not None:
            known = known + np.asarray(block.known, dtype=np.float64)
    factors, groupings = _factors(varying)
    rows = Rows(value - known, columns, factors, normal.weights)
    return (common, shapes, mean, precision, tuple(groupings), normal.sigma), rows


def _common(
    parts: Sequence[tuple[str, LinearBlock, Array]], n: int, problem: Problem, method: str
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[int, ...], ...], Array, Array, Array, Array]:
    """Sites, their shapes, columns, prior means and precisions; and what is known of eta."""
    sites: list[tuple[str, int]] = []
    shapes: list[tuple[int, ...]] = []
    columns, means, sds = [], [], []
    known = np.zeros(n)
    for _, block, x in parts:
        if not block.gaussian:
            name = next(name for name, _ in block.sites if not _is_normal(problem, name))
            raise MethodError(
                method,
                f"takes flat or normal priors on common effects, and that of {name!r} is "
                f"{problem.priors[name]}",
            )
        factor, mean = np.asarray(block.factor), np.asarray(block.mean)
        fixed = factor == 0
        known += x[:, fixed] @ mean[fixed]
        start = 0
        for (name, count), shape in zip(block.sites, block.shapes, strict=True):
            if not fixed[start]:
                sites.append((name, count))
                shapes.append(shape)
            start += count
        columns.append(x[:, ~fixed])
        means.append(np.where(np.isfinite(factor), mean, 0.0)[~fixed])
        sds.append(factor[~fixed])
    if not columns:
        return (), (), np.zeros((n, 0)), np.zeros(0), np.zeros(0), known
    return (
        tuple(sites),
        tuple(shapes),
        np.concatenate(columns, axis=1),
        np.concatenate(means),
        np.concatenate(sds) ** -2.0,
        known,
    )


def _is_normal(problem: Problem, name: str) -> bool:
    return type(problem.priors[name]).__name__ in ("Normal", "Flat", "Fixed")


def _factors(
    parts: Sequence[tuple[str, LinearBlock, Array]],
) -> tuple[list[Factor], list[Grouping]]:
    """Terms by the same levels as one factor."""
    shared: list[list[tuple[str, LinearBlock, Array]]] = []
    for part in parts:
        for group in shared:
            if part[1].grouping and group[0][1].grouping == part[1].grouping:
                group.append(part)
                break
        else:
            shared.append([part])
    place = {}
    factors = []
    for f, group in enumerate(shared):
        start = 0
        for label, _, x in group:
            place[label] = (f, slice(start, start + x.shape[1]))
            start += x.shape[1]
        first = group[0][1]
        columns = np.concatenate([x for _, _, x in group], axis=1)
        codes = np.zeros(len(columns), np.int32) if first.codes is None else first.codes
        factors.append(Factor(np.asarray(codes), columns, first.levels))
    groupings = []
    for label, block, _ in parts:
        factor, columns = place[label]
        held = (block.sites, block.shapes, block.scales, block.cholesky, block.correlation)
        shared_by_all = block.codes is None
        groupings.append(Grouping(label, factor, columns, block.levels, *held, shared_by_all))
    return factors, groupings


def _refuse_indistinct(grouping: Grouping, own: Array) -> None:
    """Columns far from zero for their spread would lose their digits in their own squares."""
    whole = own[grouping.columns, grouping.columns].sum(axis=-1)
    size = np.sqrt(np.diagonal(whole))
    # Where all rows share them, their prior tells what the columns do not.
    if grouping.shared or grouping.width < 2 or size.min() == 0:
        return
    if np.linalg.eigvalsh(whole / size / size[:, None])[0] < _TOLD_APART:
        raise DataError(
            f"the columns of ({grouping.label}) can hardly be told apart, as those of 1 + x cannot "
            "where x is far from zero for its spread; centre them, as in (1 + center(x) | g)"
        )
