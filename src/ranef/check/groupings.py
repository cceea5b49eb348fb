"""Scales of groups that the rows cannot tell from what else the model has."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.identifiability import common, intercept_of
from ranef.check.symptom import Symptom
from ranef.posterior.posterior import Posterior
from ranef.terms.blocks import LinearBlock

# Rows beyond one for each level, as a share of the rows, from which on they tell the residual
# from what varies by level.
_BEYOND = 0.05
# Columns among which the levels of a grouping are looked for.
_COLUMNS = 500


def groupings(posterior: Posterior) -> Iterator[Symptom]:
    """One row for each level, two groupings that are one, levels that are common effects too.

    Rows that are read in batches are not looked at: their sample does not have all of a level's.
    """
    if posterior.training.stream is not None:
        return
    problem = posterior.program.problem(posterior.written)
    blocks = {
        term: block
        for term, block in problem.unit_blocks().items()
        if block is not None and block.codes is not None and block.grouping and block.scales
    }
    for term, block in blocks.items():
        if problem.predicts[term] == problem.location:
            yield from _one_row_each(posterior, block)
        beside = [c for _, c in common(posterior, problem.predicts[term])]
        name = _intercept(block)
        if name and beside and _spanned(block, np.concatenate(beside, axis=1)):
            yield Symptom(
                f"the levels of {block.grouping} have common effects and the effects {name} too",
                f"only their priors tell these apart, and {name}_sigma is that of its prior",
                f"leave one of them out: a factor, or ({name})",
                "caution",
            )
        for column in _constant_by_level(block):
            yield Symptom(
                f"the column of {column} is the same in all rows of each level of {block.grouping}",
                "no level has rows that show a slope of its own, so that its sd is told only by "
                "how far levels are from each other",
                f"leave {column} out of the brackets, and keep it as a common effect",
                "trust",
            )
    for (one, first), (other, second) in combinations(blocks.items(), 2):
        names = _intercept(first), _intercept(second)
        same = problem.predicts[one] == problem.predicts[other] and all(names)
        if same and _same_rows(first, second):
            yield Symptom(
                f"{first.grouping} and {second.grouping} divide the rows alike",
                f"only their priors tell {names[0]}_sigma from {names[1]}_sigma",
                "leave one of them out",
                "caution",
            )


def _one_row_each(posterior: Posterior, block: LinearBlock) -> Iterator[Symptom]:
    """Levels of one row, whose effects are residuals."""
    family, n = posterior.program.family, len(block.codes)
    beyond = n - len(np.unique(block.codes))
    if beyond > _BEYOND * n:
        return
    how = (
        f"the grouping {block.grouping} has one row for each of its levels"
        if beyond == 0
        else f"the grouping {block.grouping} has {n - beyond:,} levels in {n:,} rows"
    )
    if family.name == "bernoulli":
        yield Symptom(
            how,
            f"a single answer does not tell how far its level is from others, and the sd of "
            f"{_named(block)} is that of its prior",
            f"leave ({_named(block)}) out",
            "caution",
        )
    # A sigma that is known, or predicted, or of rows of known unequal weights, is told otherwise.
    sigma = posterior.training.state.priors.get("sigma")
    weights = family.response.form != "plain"
    if sigma is None or isinstance(sigma, priors.Fixed) or weights:
        return
    yield Symptom(
        how,
        f"the rows tell the sum of the variances of {_named(block)} and of the residual, and only "
        "the priors how it is divided between them",
        f"leave ({_named(block)}) out, or give sigma a value that is known",
        "caution",
    )


def _named(block: LinearBlock) -> str:
    return block.scales[0].removesuffix("_sigma")


def _intercept(block: LinearBlock) -> str:
    """The name of the intercepts that vary, "" without."""
    place = intercept_of(block)
    return "" if place is None else block.scales[place].removesuffix("_sigma")


def _constant_by_level(block: LinearBlock) -> Iterator[str]:
    """Slopes whose column does not vary within any level, beside intercepts."""
    if not _intercept(block) or len(block.scales) != block.columns.shape[1]:
        return
    columns, codes = np.asarray(block.columns, np.float64), np.asarray(block.codes)
    first = np.zeros(int(codes.max()) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    away = np.abs(columns - columns[first[codes]]).max(axis=0)
    for i, scale in enumerate(block.scales):
        # A column that is constant altogether is named for that.
        if np.ptp(columns[:, i]) > 0 and away[i] == 0:
            yield scale.removesuffix("_sigma")


def _spanned(block: LinearBlock, columns: NDArray[np.float64]) -> bool:
    """Whether columns (n, p) make up the indicators of all levels."""
    codes = np.asarray(block.codes)
    levels, codes = np.unique(codes, return_inverse=True)
    if not len(levels) <= columns.shape[1] <= _COLUMNS:
        return False
    # Columns that do not vary within levels are those that can: their rank is that of the levels.
    first = np.zeros(len(levels), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    within = np.abs(columns - columns[first[codes]]).max(axis=0) == 0
    by_level = columns[first][:, within]
    return by_level.size > 0 and np.linalg.matrix_rank(by_level) == len(levels)


def _same_rows(first: LinearBlock, second: LinearBlock) -> bool:
    """Whether two groupings have the same rows in their levels."""
    a, b = np.asarray(first.codes, np.int64), np.asarray(second.codes, np.int64)
    both = len(np.unique(a * (b.max() + 1) + b))
    return both == len(np.unique(a)) == len(np.unique(b))
