"""Finds parameters that the data do not identify.

These are scales of group effects that may be zero, positive parameters with heavy tails,
collinear or constant columns, empty cells of interactions, and factors with nearly as many levels
as rows. Collinearity is measured by the variance inflation factor 1 / (1 - R_j^2)
(Marquardt, 1970).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.interactions import uncentred
from ranef.check.model_matrices import common_blocks, group_blocks
from ranef.check.symptom import Symptom
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.terms.capabilities import Diagnosed

# An sd may be zero if its 5% quantile is less than this share of its median. For comparison, the
# ratio is .09 for |N(0, 1)|, whose density is highest at zero.
_AT_ZERO = 0.15
# A positive parameter has a heavy tail if its 99% quantile exceeds this multiple of its median.
_HEAVY = 5.0
# Variance inflation from which a column is reported: the sd of its effect is 10^1/2 times what it
# would be if the column were uncorrelated with the others.
_INFLATED = 10.0
# Variance inflation beyond which the column is an exact combination of others up to rounding, so
# that only the priors identify its effect.
_TOLD_BY_PRIOR = 1e8
# Relative size below which a residual, a weight or a singular value is rounding error.
_ROUNDING = 1e-8
# A factor among the common effects is reported if its levels exceed this share of the rows.
_MOST_LEVELS = 0.5
# Empty cells that a message lists.
_NAMED = 3


def boundaries(posterior: Posterior) -> Iterator[Symptom]:
    """Report scales of group effects whose posterior reaches down to zero."""
    for name, variable in posterior.variables.items():
        if variable.role != "sd" or isinstance(
            posterior.training.state.priors.get(name), priors.Fixed | priors.PointEstimate
        ):
            continue
        low, middle = np.quantile(posterior.sd_draws(name), [0.05, 0.5])
        if low < _AT_ZERO * middle:
            yield Symptom(
                f"{name} may be zero (5% of its posterior lies below {low:.2g})",
                f"the data do not tell whether anything varies by {variable.factor} here",
                "read its interval, not its mean, or leave the term out",
                "trust",
            )


def heavy_tails(posterior: Posterior) -> Iterator[Symptom]:
    """Report positive parameters with a heavy upper tail under a prior without a mean."""
    for name, prior in posterior.training.state.priors.items():
        if not _has_no_mean(prior) or name not in posterior.variables:
            continue
        draws = np.asarray(posterior.draws.sites[name])
        middle, high = np.quantile(draws.reshape(-1, *draws.shape[2:]), [0.5, 0.99], axis=0)
        if np.any(high > _HEAVY * middle):
            yield Symptom(
                f"{name} has a heavy tail (1% of its posterior lies above {np.max(high):.2g})",
                "the data do not say how large it is, and under its prior it has no mean",
                "read its median and interval, or give it a prior such as Gamma(2, 0.1)",
                "trust",
            )


def _has_no_mean(prior: priors.Prior) -> bool:
    return isinstance(prior, priors.HalfCauchy) or (
        isinstance(prior, priors.HalfStudentT) and prior.nu <= 1
    )


def collinear(posterior: Posterior) -> Iterator[Symptom]:
    """Report columns of common effects that are, or nearly are, combinations of the others."""
    for own in common_blocks(posterior):
        explained = own.explained
        found = _inflations(own.columns[:, own.tested], own.has_intercept)
        inflations = dict(zip(own.tested, found.tolist(), strict=True))
        near = [i for i, size in inflations.items() if _INFLATED <= size <= _TOLD_BY_PRIOR]
        sample = posterior.training.sample
        symptom, by_centring = uncentred(own, sample, inflations, near, _inflations, _INFLATED)
        if symptom:
            yield symptom
        for i, inflation in inflations.items():
            lost = inflation > _TOLD_BY_PRIOR
            if inflation < _INFLATED or (lost and i in explained) or i in by_centring:
                continue
            label = own.labels[i]
            times = np.sqrt(inflation)
            sign = f"{label} is a combination of the other columns"
            yield Symptom(
                sign if lost else f"{label} is nearly a combination of the other columns",
                "only its prior tells their effects apart"
                if lost
                else f"the sd of its effect is {times:,.1f} times what it would be alone",
                "leave one of them out, or read their effects together",
                "caution" if lost else "trust",
            )


def empty(posterior: Posterior) -> Iterator[Symptom]:
    """Report columns of zeros, interaction cells without rows, and constants beside an intercept.

    Nothing is reported if rows are read in batches: a column that is constant in the sample that
    is held need not be constant in all rows.
    """
    if posterior.training.stream is not None:
        return
    for own in (*common_blocks(posterior), *group_blocks(posterior)):
        for name, cells in own.cells.items():
            shown = "; ".join(
                " with ".join(f"{f} {level!r}" for f, level in c) for c in cells[:_NAMED]
            )
            more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
            yield Symptom(
                f"no row has {shown}{more}, a cell of {name}",
                "only its prior tells what the effect of an empty cell is",
                "predict for cells that have rows only, or leave the interaction out or merge "
                "levels",
                "caution",
            )
        named = own.named_in_cells
        for i in own.zeros:
            if i not in named:
                yield Symptom(
                    f"the column {own.labels[i]} is 0 in every row",
                    "the rows say nothing of its effect, which has the distribution of its prior",
                    "leave it out, or look whether the column was read as it should be",
                    "caution",
                )
        for i in own.constants:
            value = own.columns[0, i]
            yield Symptom(
                f"the column {own.labels[i]} is {value:.4g} in every row, as an intercept is",
                f"only their priors tell its effect from that of {own.intercept_label}",
                "leave it out, or look whether the column was read as it should be",
                "caution",
            )


def many_levels(posterior: Posterior) -> Iterator[Symptom]:
    """Report factors among the common effects with nearly as many levels as there are rows."""
    n = posterior.training.rows.used
    named = set()
    for own in common_blocks(posterior):
        for coding in own.codings:
            for part in coding.parts:
                levels = part.levels or ()
                if len(levels) <= _MOST_LEVELS * n or part.expression in named:
                    continue
                named.add(part.expression)
                column = part.expression.columns()[0]
                number = next((level for level in levels if _is_spoiled(level)), None)
                yield Symptom(
                    f"the factor {part.expression} has {len(levels):,} levels in {n:,} rows",
                    "most of its effects are estimated from a single row",
                    f"write it as (1 | {column})"
                    if number is None
                    else f"its texts look like numbers, such as {number!r}: write them as numbers",
                    "caution",
                )


def _is_spoiled(level: str) -> bool:
    """Whether a text is a number apart from a percent sign, a currency sign or separators."""
    bare = level.strip().strip("%$€£ ").replace(",", "").replace(" ", "").replace("'", "")
    return bare.replace(".", "", 1).lstrip("+-").isdigit()


def _inflations(columns: Float[NDArray, "n k"], intercept: bool) -> Float[NDArray, "k"]:
    """Variance inflation 1 / (1 - R_j^2) of each column, from its regression on the others.

    It is the j-th diagonal element of the inverse of U'U, with U the columns at unit length.

    Columns are centred if the model has an intercept. Without one, a constant may still be a
    combination of columns, such as the indicators of all levels of a factor: then the columns that
    make up the constant are left as they are, and the others are centred. If no combination of
    columns is constant, none is centred.

    Args:
        columns: the columns.
        intercept: whether the model has an intercept beside them.
    """
    if columns.shape[1] == 0:
        return np.zeros(0)
    size = np.linalg.norm(columns, axis=0)
    centred = np.ones(columns.shape[1], bool)
    if not intercept:
        unit = columns / size
        ones = np.ones(len(columns))
        weights = np.linalg.lstsq(unit, ones, rcond=_ROUNDING)[0]
        far = np.sqrt(len(columns))
        inside = np.linalg.norm(unit @ weights - ones) < _ROUNDING * far
        centred = inside & (np.abs(weights) < _ROUNDING * far)
    away = columns - np.where(centred, columns.mean(axis=0), 0.0)
    length = np.linalg.norm(away, axis=0)
    unit = away / np.where(length > 0, length, 1.0)
    _, values, directions = np.linalg.svd(unit, full_matrices=False)
    values = np.maximum(values, _ROUNDING)
    return ((directions / values[:, None]) ** 2).sum(axis=0)


def smooth(posterior: Posterior) -> Iterator[Symptom]:
    """Report what the terms' own diagnostics find, such as a basis too coarse for its process."""
    state = posterior.training.state
    for _, term in posterior.program.terms_with(Diagnosed):
        for sign, meaning, remedy, weight in term.diagnostics(
            state.terms[term.label], posterior.draws.sites
        ):
            yield Symptom(sign, meaning, remedy, weight)
