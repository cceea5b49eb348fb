"""Finds scales of group effects that are not identified beside the other parts of the model.

Examples are groupings with one row for each level, two groupings that divide the rows alike, and
levels that have common effects too.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.model_matrices import common, intercept_of
from ranef.check.symptom import Symptom
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.terms.blocks import LinearBlock

# Share (n - levels) / n of the rows above which the residual scale is identified beside the scale
# of the group effects.
_BEYOND = 0.05
# Largest number of columns of common effects that are compared with the levels of a grouping.
_COLUMNS = 500


def groupings(posterior: Posterior) -> Iterator[Symptom]:
    """Report groupings whose scales are not identified.

    Nothing is reported if rows are read in batches, because the sample that is held does not have
    all rows of a level.
    """
    if posterior.training.stream is not None:
        return
    problem = posterior.written_problem
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
                "no level has rows that show a slope of its own, so that its sd is known only by "
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
    """Report a grouping with about one row for each level: its effects are residuals."""
    family, codes = posterior.program.family, np.asarray(block.codes)
    n = len(codes)
    beyond = n - len(np.unique(codes))
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
    # Sigma is identified if it is fixed, if it has a predictor of its own, or if rows have known
    # weights.
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
    """The name of the block's first effects, such as "1|g"."""
    return block.scales[0].removesuffix("_sigma")


def _intercept(block: LinearBlock) -> str:
    """The name of the varying intercepts, or "" if there are none."""
    place = intercept_of(block)
    return "" if place is None else block.scales[place].removesuffix("_sigma")


def _constant_by_level(block: LinearBlock) -> Iterator[str]:
    """Names of slopes beside varying intercepts whose column is constant within each level."""
    if not _intercept(block) or len(block.scales) != block.columns.shape[1]:
        return
    columns, codes = np.asarray(block.columns, np.float64), np.asarray(block.codes)
    first = np.zeros(int(codes.max()) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    away = np.abs(columns - columns[first[codes]]).max(axis=0)
    for i, scale in enumerate(block.scales):
        # A column that is constant over all rows is reported elsewhere.
        if np.ptp(columns[:, i]) > 0 and away[i] == 0:
            yield scale.removesuffix("_sigma")


def _spanned(block: LinearBlock, columns: Float[NDArray, "n k"]) -> bool:
    """Whether the indicators of all levels are linear combinations of the columns."""
    codes = np.asarray(block.codes)
    levels, codes = np.unique(codes, return_inverse=True)
    if not len(levels) <= columns.shape[1] <= _COLUMNS:
        return False
    # Only columns that are constant within levels count. They span the indicators if their rank is
    # the number of levels.
    first = np.zeros(len(levels), np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    within = np.abs(columns - columns[first[codes]]).max(axis=0) == 0
    by_level = columns[first][:, within]
    return by_level.size > 0 and bool(np.linalg.matrix_rank(by_level) == len(levels))


def _same_rows(first: LinearBlock, second: LinearBlock) -> bool:
    """Whether two groupings divide the rows into the same sets."""
    a, b = np.asarray(first.codes, np.int64), np.asarray(second.codes, np.int64)
    both = len(np.unique(a * (b.max() + 1) + b))
    return both == len(np.unique(a)) == len(np.unique(b))
