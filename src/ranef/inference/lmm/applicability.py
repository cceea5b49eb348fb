"""Whether a model has the form that closed forms take: linear, Gaussian and not too large.

Each function returns the reason why it has not, as the rest of a sentence that begins with the name
of the method, or None.
"""

from collections.abc import Mapping

import numpy as np

from ranef import priors
from ranef.inference.pwls.cross_products import (
    Centre,
    CrossProducts,
    GroupingFactor,
    LevelPairs,
    pair_keys,
)
from ranef.inference.pwls.solver import EliminationPlan
from ranef.program.problem import Batch, Problem
from ranef.terms.blocks import LinearBlock

Blocks = Mapping[str, LinearBlock | None]


def not_normal(batch: Batch, problem: Problem) -> str | None:
    """Why a batch of rows is no Gaussian mixed model whose mean alone has a predictor."""
    if batch.normal is None:
        return f"takes gaussian responses, and the family is {problem.family_name}"
    if problem.incomplete:
        return (
            f"takes terms that are linear in their coefficients, and {problem.incomplete[0]} is "
            "not: its missing values are parameters too"
        )
    for label in batch.blocks:
        if problem.predicts[label] != problem.location:
            return (
                f"takes one {problem.predicts[label]} for all rows, and the formula predicts it "
                f"by {label.removeprefix(problem.predicts[label] + '_')}"
            )
    return not_linear(batch.blocks, problem)


def not_linear(blocks: Blocks, problem: Problem) -> str | None:
    """Why the predictors are not linear in coefficients with Gaussian priors or t priors."""
    for label, block in blocks.items():
        if block is None:
            return f"takes terms that are linear in their coefficients, and {label} is not"
    for block in blocks.values():
        if block is None or not _is_common(block) or block.gaussian or block.freedom is not None:
            continue
        name = next(name for name, _ in block.sites if not _is_normal_given(problem, name))
        return (
            "takes flat, normal, t, Cauchy and uniform priors on common effects, and that of "
            f"{name!r} is {problem.priors[name]}"
        )
    return None


def too_large(blocks: Blocks, *, row_covariances: bool) -> str | None:
    """Why the crossed groupings of linear blocks are too large.

    Only the levels of the rows are read, and of models that cannot be too large not even these.

    Args:
        blocks: linear blocks on all rows; those that are None are left out.
        row_covariances: whether the variances of the rows' predictors are needed too.
    """
    known = [block for block in blocks.values() if block is not None]
    common = 1 + sum(int(np.sum(np.asarray(b.factor) != 0)) for b in known if _is_common(b))
    factors = _widths_and_codes([block for block in known if not _is_common(block)])
    sizes = sorted(factor.levels * factor.columns.shape[1] for factor in factors)
    if len(sizes) < 2 or EliminationPlan.surely_dense(sum(sizes), sum(sizes[:-1]) + common):
        return None
    plan = EliminationPlan.of(_structure(factors, common))
    if plan.too_many is None and plan.crossed and row_covariances:
        return "takes crossed groupings of which all but the largest have few levels together"
    return plan.too_many


def _is_common(block: LinearBlock) -> bool:
    """Whether all rows share the coefficients, and their scale is known."""
    return block.codes is None and not block.scales


def _is_normal_given(problem: Problem, name: str) -> bool:
    """Whether the prior is flat, fixed, normal, or normal given a scale or a mean."""
    normal = (priors.Normal, priors.Flat, priors.Fixed)
    mixtures = (priors.StudentT, priors.Cauchy, priors.Uniform)
    return isinstance(problem.priors[name], (*normal, *mixtures))


def _widths_and_codes(blocks: list[LinearBlock]) -> list[GroupingFactor]:
    """The grouping factors, one for all blocks with the same grouping, with columns of zeros."""
    shared: dict[object, list[LinearBlock]] = {}
    for place, block in enumerate(blocks):
        shared.setdefault(block.grouping or place, []).append(block)
    out = []
    for group in shared.values():
        shape = len(group[0].columns), sum(block.columns.shape[1] for block in group)
        codes = np.zeros(shape[0], np.int32) if group[0].codes is None else group[0].codes
        zeros = np.broadcast_to(0.0, shape)
        out.append(GroupingFactor(np.asarray(codes), zeros, group[0].levels))
    return out


def _structure(factors: list[GroupingFactor], common: int) -> CrossProducts:
    """The cross-products of these factors by their shapes alone: zeros that take no memory.

    Args:
        factors: the grouping factors.
        common: number of common columns, the response included.
    """
    widths = [factor.columns.shape[1] for factor in factors]

    def zeros(*shape: int) -> np.ndarray:
        return np.broadcast_to(0.0, shape)

    pairs = {
        (f, h): LevelPairs(
            seen // factors[h].levels,
            seen % factors[h].levels,
            zeros(widths[f], widths[h], len(seen)),
        )
        for (f, h), (seen, _) in pair_keys(factors).items()
    }
    return CrossProducts(
        len(factors[0].codes),
        0.0,
        Centre(np.array([-1]), zeros(1), zeros(common - 1), zeros(1)),
        np.zeros(common - 1, dtype=np.int64),
        zeros(common, common),
        tuple(zeros(k, k, f.levels) for k, f in zip(widths, factors, strict=True)),
        tuple(zeros(k, common, f.levels) for k, f in zip(widths, factors, strict=True)),
        pairs,
    )
