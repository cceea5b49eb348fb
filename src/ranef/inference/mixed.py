"""A Gaussian mixed model in the form that its closed-form solution takes.

    y_i ~ N(x_i . beta + sum_f z_fi . b_f[g_f(i)], sigma^2 / w_i),   b_fj ~ N(0, Sigma_f)

Terms that vary by the same levels are one vector-valued factor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.errors import DataError, MethodError
from ranef.inference.base import Part, Problem
from ranef.inference.crossproducts import Centre, CrossProducts, Factor, Rows, cross_products
from ranef.inference.pwls import PWLS, TooManyEffectsError
from ranef.inference.remainder import DependentColumnError
from ranef.terms.base import LinearBlock

Array = NDArray[np.float64]

# The largest value whose square a float holds with room to spare for a sum.
_LARGEST = 1e140
# The smallest eigenvalue of the correlations of the columns of a factor, about zero.
_TOLD_APART = 1e-8
# A spread below this share of the response's size is its rounding; a residual sum of squares
# below this share of the total is that of the cross-products.
_ROUNDING, _FITTED = 1e-11, 1e-13


@dataclass(frozen=True)
class Grouping:
    """A term that varies by level, in the factor that it shares with others.

    Attributes:
        label: of the term.
        factor: its place among the factors.
        columns: its columns within the factor.
        levels: J.
        sites: that hold its coefficients, with how many columns each.
        shapes: of each of these sites, for one level.
        scales: that hold the sd of each column.
        cholesky: that holds the Cholesky factor of their correlations; "" for none.
        correlation: the parameter that takes the correlations' prior.
    """

    label: str
    factor: int
    columns: slice
    levels: int
    sites: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    scales: tuple[str, ...]
    cholesky: str
    correlation: str

    @property
    def width(self) -> int:
        return self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Mixed:
    """The model and its data, compressed.

    Attributes:
        solver: of the least-squares problem.
        groupings: in the order of the formula.
        common: sites of the common effects, with how many columns each, and `shapes`.
        mean, precision: (p,) of their normal priors; precision 0 for a flat one.
        sigma: the name of the residual sd, "" where it is known to be one.
        n: rows.
        log_weights: sum of the logarithms of the weights.
        total: weighted sum of squares of the response about its mean.
        span: the smallest and the largest response.
    """

    solver: PWLS
    groupings: tuple[Grouping, ...]
    common: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    mean: Array
    precision: Array
    sigma: str
    n: int
    log_weights: float
    total: float
    span: tuple[float, float]

    def roots(self, of: Sequence[Array]) -> list[Array]:
        """The root of each factor, (..., k, k), from the root of each grouping."""
        out = []
        for f, width in enumerate(self.solver.products.widths):
            inside = [
                (g, root) for g, root in zip(self.groupings, of, strict=True) if g.factor == f
            ]
            if len(inside) == 1:
                out.append(inside[0][1])
                continue
            shape = np.broadcast_shapes(*(root.shape[:-2] for _, root in inside))
            whole = np.zeros((*shape, width, width))
            for g, root in inside:
                whole[..., g.columns, g.columns] = root
            out.append(whole)
        return out

    @cached_property
    def least_residual(self) -> float:
        """The weighted residual sum of squares of the common effects alone."""
        x = self.solver.products.common
        scale = np.sqrt(np.maximum(np.diagonal(x)[:-1], np.finfo(np.float64).tiny))
        gram = x[:-1, :-1] / scale / scale[:, None]
        beta = np.linalg.lstsq(gram, x[:-1, -1] / scale, rcond=1e-12)[0]
        return max(float(x[-1, -1] - beta @ (x[:-1, -1] / scale)), 0.0)

    def column_name(self, place: int) -> str:
        """Of a common column, for a message."""
        names = [name for name, count in self.common for _ in range(count)]
        return names[place]


def read(problem: Problem, method: str) -> Mixed:
    """The model of a problem, for a method that integrates the coefficients in closed form.

    Raises:
        MethodError: naming the family, term or prior that is not of this form, and for crossed
            groupings that are too large.
        DataError: for columns that are too large, or too far from zero to be told apart.
    """
    varying: set[int] = set()
    while True:
        try:
            return _compressed(problem, method, frozenset(varying))
        except _VaryingError as error:
            varying.add(error.column)


class _VaryingError(Exception):
    """A column that was constant in the first batch, and is not in a later one."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column


def _compressed(problem: Problem, method: str, varying: frozenset[int]) -> Mixed:
    """The sums over all batches, centred as the first one is.

    Args:
        problem: the model and its rows.
        method: for messages.
        varying: columns that are not constant, although the first batch says so.
    """
    products: CrossProducts | None = None
    layout: tuple | None = None
    low, high = math.inf, -math.inf
    for part in problem.parts():
        layout, rows = _rows(part, problem, method)
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
        problem.n,
        products.log_weights,
        float(products.common[-1, -1]),
        (low, high),
    )


def _rows(part: Part, problem: Problem, method: str) -> tuple[tuple, Rows]:
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
    shared = [part for part in parts if part[1].codes is None]
    common, shapes, columns, mean, precision, known = _common(shared, len(value), problem, method)
    factors, groupings = _factors([part for part in parts if part[1].codes is not None])
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
            if group[0][1].grouping == part[1].grouping:
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
        factors.append(Factor(np.asarray(first.codes), columns, first.levels))
    groupings = []
    for label, block, _ in parts:
        factor, columns = place[label]
        held = (block.sites, block.shapes, block.scales, block.cholesky, block.correlation)
        groupings.append(Grouping(label, factor, columns, block.levels, *held))
    return factors, groupings


def _refuse_indistinct(grouping: Grouping, own: Array) -> None:
    """Columns far from zero for their spread would lose their digits in their own squares."""
    whole = own[grouping.columns, grouping.columns].sum(axis=-1)
    size = np.sqrt(np.diagonal(whole))
    if grouping.width < 2 or size.min() == 0:
        return
    if np.linalg.eigvalsh(whole / size / size[:, None])[0] < _TOLD_APART:
        raise DataError(
            f"the columns of ({grouping.label}) can hardly be told apart, as those of 1 + x cannot "
            "where x is far from zero for its spread; centre them, as in (1 + center(x) | g)"
        )


def refuse_without_residual(mixed: Mixed, problem: Problem) -> None:
    """Where nothing is left for sigma its posterior is a spike at zero.

    Raises:
        DataError: for a constant response, and for one that the common effects fit exactly.
    """
    if not mixed.sigma or isinstance(problem.priors[mixed.sigma], priors.Fixed):
        return
    advice = f"fix {mixed.sigma}, as in priors={{'{mixed.sigma}': 1.0}}"
    low, high = mixed.span
    if high - low <= _ROUNDING * max(abs(low), abs(high)):
        raise DataError(
            f"the response is {low:g} in every row, so nothing tells the residual's spread; "
            f"{advice}"
        )
    if mixed.total > 0 and mixed.least_residual <= _FITTED * mixed.total:
        raise DataError(
            f"the common effects fit the response exactly, so nothing tells the residual's spread; "
            f"leave some out, or {advice}"
        )


def dependent(mixed: Mixed, error: DependentColumnError) -> DataError:
    """The sentence for common columns that cannot be told apart."""
    if error.column < 0:
        return DataError(
            "the variances of the group effects are too large beside the residual's for the "
            "arithmetic; rescale the columns, or give the scales tighter priors"
        )
    name = mixed.column_name(error.column)
    return DataError(
        f"the column {name!r} is a combination of those before it to the last digit, and its prior "
        "does not say what the data cannot; leave it out, or give it a normal prior"
    )


def common_by_site(mixed: Mixed, values: Array) -> dict[str, Array]:
    """Arrays (..., p) of common effects by site."""
    out: dict[str, Array] = {}
    start = 0
    for (name, count), shape in zip(mixed.common, mixed.shapes, strict=True):
        out[name] = values[..., start : start + count].reshape((*values.shape[:-1], *shape))
        start += count
    return out


def effects_by_site(grouping: Grouping, values: Array) -> dict[str, Array]:
    """Arrays (..., J, k) of the coefficients of the grouping's factor by site."""
    out: dict[str, Array] = {}
    start = grouping.columns.start
    for (name, count), shape in zip(grouping.sites, grouping.shapes, strict=True):
        own = values[..., start : start + count]
        out[name] = own.reshape((*values.shape[:-1], *shape))
        start += count
    return out
