"""Accumulates the cross-products of a problem's rows into a `LinearMixedModel`.

The rows are read in one batch or many, each of them once.
"""

import math

import numpy as np

from ranef.errors import DataError, MethodError
from ranef.inference.lmm.applicability import not_normal
from ranef.inference.lmm.design_layout import DesignLayout, refuse_indistinct
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.pwls.cross_products import Centre, CrossProducts, RowBatch, cross_products
from ranef.inference.pwls.solver import PWLS, EliminationPlan
from ranef.program.problem import Batch, Problem


def accumulate(
    problem: Problem, method: str, before: CrossProducts | None = None
) -> LinearMixedModel:
    """The linear mixed model of a problem, for methods that integrate coefficients in closed form.

    Batches are centred by the means of the first one, which requires that its constant columns
    are constant in all batches. If one is not, all batches are read again without it, and `before`
    is dropped.

    Args:
        problem: the model and its rows.
        method: name of the method, for messages.
        before: cross-products of further rows to be added, such as those of earlier windows.

    Raises:
        MethodError: if a family, term or prior is not linear and Gaussian, and if crossed
            groupings are too large.
        DataError: if values are too large to be squared, if columns are nearly dependent, or if
            there are no rows.
    """
    found = accumulate_or_reason(problem, before)
    if isinstance(found, str):
        raise MethodError(method, found)
    return found


def accumulate_or_reason(
    problem: Problem, before: CrossProducts | None = None
) -> LinearMixedModel | str:
    """The linear mixed model of a problem, or why it has none, for methods that ask.

    The reason is the rest of a sentence that begins with the name of the method. Arguments and
    other errors are those of `accumulate`.
    """
    varying: set[int] = set()
    while True:
        try:
            return _compressed(problem, frozenset(varying), before)
        except _VaryingOffsetError as error:
            varying.add(error.column)
            before = None


class _VaryingOffsetError(Exception):
    """A column is constant in the first batch, but not with the same value in a later one."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column


def _compressed(
    problem: Problem, varying: frozenset[int], before: CrossProducts | None
) -> LinearMixedModel | str:
    """The model from one pass over all batches, centred by the means of the first one.

    Args:
        problem: the model and its rows.
        varying: columns that are constant in the first batch, but not in all batches.
        before: cross-products of further rows, whose centre is then used.

    Returns:
        The model, or the reason why there is none.

    Raises:
        _VaryingOffsetError: if a column turns out not to be constant.
    """
    products = before
    layout: DesignLayout | None = None
    sigma = ""
    low, high = math.inf, -math.inf
    for batch in problem.batches():
        reason = not_normal(batch, problem)
        if reason is not None:
            return reason
        # `not_normal` has found no reason to refuse, so no message will name the method.
        layout, sigma, rows = batch_to_rows(batch, problem, "exact")
        if products is None:
            products = cross_products(rows, Centre.of(rows, varying))
        else:
            centre = products.centre
            for place, value in zip(centre.constant, centre.value, strict=True):
                if place >= 0 and (rows.common[:, place] != value).any():
                    raise _VaryingOffsetError(int(place))
            products = products + cross_products(rows, centre)
        value = np.asarray(batch.normal.value if batch.normal else 0.0)
        low, high = min(low, float(value.min())), max(high, float(value.max()))
    if products is None or layout is None:
        raise DataError("there are no rows to fit")
    for grouping in layout.groupings:
        refuse_indistinct(grouping, products.own[grouping.factor])
    too_many = EliminationPlan.of(products).too_many
    if too_many is not None:
        return too_many
    return LinearMixedModel(
        PWLS(products),
        layout.groupings,
        layout.common,
        layout.shapes,
        layout.mean,
        layout.precision,
        sigma,
        products.rows,
        products.log_weights,
        float(products.common[-1, -1]),
        (low, high),
        layout.derived,
        layout.mixtures,
    )


def batch_to_rows(part: Batch, problem: Problem, method: str) -> tuple[DesignLayout, str, RowBatch]:
    """The layout, the name of the residual sd, and the rows of a batch for the solver.

    Raises:
        MethodError: if the family is not Gaussian, if missing values are parameters, if a family
            parameter other than the location is predicted, or if a term or prior is not linear
            and Gaussian.
        DataError: if values are too large to be squared.
    """
    reason = not_normal(part, problem)
    if reason is not None:
        raise MethodError(method, reason)
    normal = part.normal
    assert normal is not None
    value = np.asarray(normal.value, dtype=np.float64)
    layout = DesignLayout.of(part.blocks, len(value), problem, method)
    known = layout.known[:, 0] if layout.predictors else 0.0
    rows = RowBatch(
        value - known, layout.columns, layout.factors, normal.weights, variance=layout.variance
    )
    return layout, normal.sigma, rows
