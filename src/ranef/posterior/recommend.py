"""Top-n recommendation from a matrix factorization term mf(a, b).

For each level of one column that is asked for, the levels of the other column are ranked by the
posterior mean of the response's mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from narwhals.dependencies import is_into_series
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.tables import read
from ranef.errors import DataError, OptionError, whole_number
from ranef.families.response_design import ResponseDesign
from ranef.numerics.shapes import Bool, Float, Int, Shaped
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.program.program import Program
from ranef.program.training import Designs, TrainingState
from ranef.terms.base import Design, Term
from ranef.terms.capabilities import HasBilinear

# Positions of rows of a table.
Places = Int[NDArray[np.int64], "_"]
# A number for each recommendation.
Best = Int[NDArray[np.int64], "best"]

# Largest number of pairs (level, candidate) that are scored at once.
_PAIRS = 1_000_000


@dataclass(frozen=True)
class RecommendationQuery:
    """The arguments of `Fit.recommend` of the same names."""

    n: int
    candidates: object
    exclude_seen: bool
    interval: float


def recommend(
    known: Posterior,
    predictive: Predictive,
    designs: Callable[[Frame], Designs],
    data: object,
    wanted: RecommendationQuery,
) -> Any:
    """The table of `Fit.recommend`.

    Args:
        known: the posterior of the fit.
        predictive: predictions from its draws.
        designs: makes the designs of a table of rows.
        data: levels, or a table, as for `Fit.recommend`.
        wanted: the other arguments of `Fit.recommend`.

    Raises:
        OptionError: for a model without mf(), for a table that has both or neither of the
            term's columns, and for a missing column.
        DataError: if there are no rows or no candidates, or nothing is left to recommend.
    """
    n = whole_number("n", wanted.n, least=1)
    program, state = known.program, known.training.state
    terms = [term for _, term in program.all_terms() if isinstance(term, HasBilinear)]
    if not terms:
        raise OptionError(
            f"{program.formula.text!r} has no mf() term to recommend by; predict() takes any rows"
        )
    asked = read(_as_table(data, terms[0]), None, program.missing)
    term, side = _side(terms, asked)
    own, other = _sides(term)[side], _sides(term)[1 - side]
    if wanted.candidates is None:
        levels = state.terms[term.label].levels[1 - side]
        typed = known.training.sample.typed(other, levels)
        others = Frame({other: typed}, len(levels), "the levels of the fit")
    else:
        others = read(wanted.candidates, None, program.missing)
        others.column(other)  # refuses a table without it
    _refuse_gaps(program, asked, others, other)
    best = []
    each = max(1, _PAIRS // max(others.n, 1))
    for start in range(0, asked.n, each):
        rows = np.arange(start, min(start + each, asked.n))
        places = np.tile(np.arange(others.n), len(rows))
        pairs = _pairs(asked, others, np.repeat(rows, others.n), places)
        found = designs(pairs)
        mean = predictive.centre(found, _response(program, state, pairs), pairs.n)
        if wanted.exclude_seen:
            seen = _seen(known.training.designs[term.label], found[term.label])
            mean = np.where(seen, -np.inf, mean)
        best.append(_best(rows, mean.reshape(len(rows), others.n), n))
    chosen, place, rank = (np.concatenate(each) for each in zip(*best, strict=True))
    if not len(chosen):
        raise DataError(
            f"every {other} has been seen with every {own} that was asked for; "
            "use exclude_seen=False"
        )
    pairs = _pairs(asked, others, chosen, place)
    response = _response(program, state, pairs)
    table = predictive.summaries(designs(pairs), response, pairs.n, "mean", wanted.interval)
    sample = known.training.sample
    columns = {
        own: sample.typed(own, _levels(pairs, own)),
        "rank": rank,
        other: sample.typed(other, _levels(pairs, other)),
    }
    return asked.labels.at(chosen).table({**columns, **table})


def _response(program: Program, state: TrainingState, rows: Frame) -> ResponseDesign:
    return program.family.design(state.family, rows, known=False, beside=False)


def _sides(term: Term) -> tuple[str, str]:
    """The names of the two columns of mf()."""
    first, second = map(str, term.call.arguments)
    return first, second


def _as_table(data: object, term: Term) -> object:
    """`data` as a table: a level, or a list of levels, becomes the first column of mf()."""
    first = _sides(term)[0]
    if isinstance(data, (str, int, float, np.generic, date)):
        # A text is taken as a level and not as the path of a file, which is asked for less often.
        return {first: [data]}
    if isinstance(data, (Sequence, np.ndarray, pd.Index)) or is_into_series(data):
        listed = list(data)
        mixed = len({isinstance(level, str) for level in listed}) > 1
        return {first: [str(level) for level in listed] if mixed else listed}
    return data


def _side(terms: Sequence[Term], asked: Frame) -> tuple[Term, int]:
    """The mf() term of which the table has exactly one column, and that column's position.

    Raises:
        OptionError: if there is no such term.
    """
    for term in terms:
        having = [side in asked.columns for side in _sides(term)]
        if having[0] != having[1]:
            return term, having.index(True)
    first, second = _sides(terms[0])
    both = first in asked.columns
    raise OptionError(
        f"the table has {'both' if both else 'neither'} of {first!r} and {second!r}; to recommend "
        f"give it the one and leave out the other, or use predict() for pairs"
    )


def _refuse_gaps(program: Program, asked: Frame, others: Frame, other: str) -> None:
    """Refuse tables without a column that the formula needs, and tables without rows."""
    for name in program.needs(response=False, companion=False):
        if name not in asked.columns and name not in others.columns:
            raise OptionError(
                f"the formula needs the column {name!r}, which neither the table nor candidates "
                f"has; add it to the table, or pass candidates=, a table of {other!r} and {name!r}"
            )
    if not asked.n or not others.n:
        raise DataError("there are no rows to recommend for, or no candidates")


def _pairs(asked: Frame, others: Frame, rows: Places, places: Places) -> Frame:
    """Rows of the table paired with candidates; a column of both is taken from the candidate."""
    first, second = asked.take(rows), others.take(places)
    columns = {**first.columns, **second.columns}
    return Frame(columns, len(rows), asked.source, asked.untyped, asked.missing)


def _seen(training: Design, new: Design) -> Bool[NDArray[np.bool_], "n"]:
    """Whether each pair of levels occurs in the training rows."""
    keys = [
        np.asarray(d.arrays["left"], np.int64) << 32 | np.asarray(d.arrays["right"], np.int64)
        for d in (new, training)
    ]
    return np.isin(keys[0], keys[1])


def _best(rows: Places, mean: Float[NDArray, "_ candidates"], n: int) -> tuple[Best, Best, Best]:
    """Row, candidate and rank (from 1) of the n largest means of each row, -inf excluded."""
    order = np.argsort(-mean, axis=1, kind="stable")[:, :n]
    kept = np.isfinite(np.take_along_axis(mean, order, axis=1))
    at, rank = np.nonzero(kept)
    return rows[at], order[at, rank], rank + 1


def _levels(frame: Frame, name: str) -> Shaped[NDArray[np.object_], "n"]:
    """The level of each row as text."""
    found = frame.levels(name)
    return found.names[found.codes]
