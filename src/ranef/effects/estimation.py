"""From estimands to a table: averages over rows, or an estimate for every row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.data.row_labels import Labels, Table
from ranef.effects.columns import Held, Predictors, listed, posterior_of, repeated
from ranef.effects.comparing import COMPARISONS, Comparison, compared
from ranef.effects.evaluation import BACK, Evaluation
from ranef.effects.hypotheses import columns_of, tested
from ranef.effects.rows import Cells, Rows, by_names, cells_of, rows_of, without_gaps
from ranef.effects.table import Described, Kept, Settings, columns_of_names, finite
from ranef.effects.variants import Estimand, Quantity
from ranef.errors import ColumnError, DataError, OptionError, whole_number
from ranef.posterior.new_rows import Groups

if TYPE_CHECKING:
    from ranef.fit import Fit

# Largest number of draws x rows of a table whose draws are kept.
_KEPT = 4_000_000
# Name of the column of categories, and its name where the model has a column of that name.
GROUP, CATEGORY = "group", "category"
# Columns of results, whose names no column of the table may take.
_RESERVED = ("rowid", "term", "contrast", "estimate", "lower", "upper", "pd", "in_rope")


@dataclass(frozen=True)
class Request:
    """What the functions of `rf.effects` have in common.

    Attributes:
        fit: the fit.
        newdata: as for `avg_comparisons`.
        by: as for `avg_comparisons`.
        weights: as for `avg_comparisons`.
        groups: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.
        type: as for `avg_comparisons`.
        hypothesis: as for `avg_comparisons`.
        settings: how draws are summarised.
        what: what is estimated, in words.
        comparison: the comparison of the two sides of an estimand.
    """

    fit: Fit
    newdata: object
    by: object
    weights: str | None
    groups: Groups
    new_levels: str
    seed: int
    type: str
    hypothesis: object
    settings: Settings
    what: str
    comparison: Comparison = COMPARISONS["difference"]

    @property
    def cells(self) -> list[str]:
        """The columns of `by`. Categories of the response are rows of their own in any case."""
        names = list(by_names(self.by))
        for name in names:
            if name in _RESERVED:
                raise ColumnError(
                    f"the column {name!r} of by= has the name of a column of the result; rename it"
                )
        categories = getattr(self.fit.program.family, "categories", ())
        if categories and self.category == GROUP and GROUP in names:
            names.remove(GROUP)
        return names

    @property
    def category(self) -> str:
        """The name of the column of categories."""
        return CATEGORY if GROUP in Predictors(posterior_of(self.fit)).uses else GROUP

    def rows(self) -> Rows:
        """The rows at which the fit is evaluated."""
        extra = self.cells
        extra += [self.weights] if self.weights is not None else []
        return rows_of(self.fit._known, self.newdata, self.groups, self.new_levels, extra)

    def rows_with(self, predictors: Predictors, variables: Iterable[str]) -> Rows:
        """The rows, of the training rows only those in which no numeric variable is missing."""
        rows = self.rows()
        numbers = [name for name in variables if predictors.kind(name) == "number"]
        return without_gaps(rows, numbers) if self.newdata is None else rows

    def evaluation(self, rows: Rows, estimands: Sequence[Estimand]) -> Evaluation:
        """Predictions at the rows, with fewer draws where there are many rows."""
        seed = whole_number("seed", self.seed, least=0)
        predictive = self.fit._predictive(rows.new_levels, seed, rows.program)
        whole = Evaluation(self.fit._known, predictive, rows, self.type)
        return whole.thinned(len({v for q in quantities_of(estimands) for v in q.variants}))


def quantities_of(estimands: Sequence[Estimand]) -> list[Quantity]:
    """The quantities of all estimands, the high side of each before its low side."""
    return [q for e in estimands for q in (e.high, e.low) if q is not None]


def averaged(request: Request, rows: Rows, estimands: Sequence[Estimand]) -> Table:
    """A table of averages over rows, a row for each estimand, category and cell of `by`."""
    by = request.cells
    predictors = Predictors(posterior_of(request.fit))
    cells = cells_of(rows, by, request.weights, predictors)
    return averaged_over(request, rows, estimands, cells)


def averaged_over(
    request: Request, rows: Rows, estimands: Sequence[Estimand], cells: Cells
) -> Table:
    """As `averaged`, for cells that are made already."""
    evaluation = request.evaluation(rows, estimands)
    found = evaluation.averages(quantities_of(estimands), cells)
    sides = iter(found)
    each = []
    for estimand in estimands:
        high = next(sides)
        low = next(sides) if estimand.low is not None else None
        each.append(high if low is None else compared(request.comparison, high, low))
    # (estimand, group, draw, cell) to (draw, estimand x group x cell).
    values = np.stack(each).transpose(2, 0, 1, 3)
    draws = values.reshape(len(values), -1)
    names = _names(request, estimands, evaluation, cells.columns, cells.count)
    over = f"averaged over {evaluation.rows.what}" if rows.n > cells.count else "at " + rows.what
    if request.type == BACK:
        over += ", on the scale of the link, and transformed back"
    return _table(request, evaluation, names, finite(draws), over, Labels(rows.labels.form), {})


def by_unit(request: Request, rows: Rows, estimands: Sequence[Estimand]) -> Table:
    """A table with a row for each estimand, category and row of `rows`."""
    evaluation = request.evaluation(rows, estimands)
    rows = evaluation.rows
    size = len(estimands) * len(evaluation.groups) * rows.n
    numbers = np.tile(np.arange(rows.n), size // rows.n)
    shown = {
        name: repeated(rows.frame.columns[name], numbers)
        for name in rows.shown
        if name not in _RESERVED
    }
    names = {"rowid": numbers, **_names(request, estimands, evaluation, {}, rows.n)}
    labels = rows.labels.at(numbers) if rows.labels.index is not None else Labels(rows.labels.form)
    over = f"at each of {rows.what}"
    if request.hypothesis is not None or size * evaluation.draws <= _KEPT:
        if size * evaluation.draws > 50 * _KEPT:
            raise DataError(
                f"a hypothesis about {size:,} rows needs all their draws at once; average them "
                "by an avg_ function, or pass fewer rows"
            )
        draws = _every(request, evaluation, estimands)
        return _table(request, evaluation, names, draws, over, labels, shown)
    columns: dict[str, NDArray[np.float64]] = {}
    for places, values in _units(request, evaluation, estimands):
        flat = values.reshape(-1, *values.shape[2:])
        for i, own in enumerate(flat):
            for name, column in request.settings.describe(own).items():
                whole = columns.setdefault(name, np.empty((len(flat), rows.n)))
                whole[i, places] = column
    return Described(
        names,
        {name: column.ravel() for name, column in columns.items()},
        _line(request, evaluation, over),
        lambda: _every(request, evaluation, estimands),
        _chains(request, evaluation),
        labels,
        shown,
    ).table()


def _units(request: Request, evaluation: Evaluation, estimands: Sequence[Estimand]):  # noqa: ANN202
    """Places of the rows of each block, and (estimand, group, draw, row) on them."""
    for block in evaluation.blocks(quantities_of(estimands)):
        each = []
        for estimand in estimands:
            high = block.of(estimand.high)
            if estimand.low is not None:
                high = compared(request.comparison, high, block.of(estimand.low))
            each.append(high)
        yield block.places, evaluation.back(np.stack(each))


def _every(
    request: Request, evaluation: Evaluation, estimands: Sequence[Estimand]
) -> NDArray[np.float64]:
    """Draws of all estimands, groups and rows, (draws, estimand x group x row)."""
    shape = (len(estimands), len(evaluation.groups), evaluation.draws, evaluation.rows.n)
    out = np.empty(shape)
    for places, values in _units(request, evaluation, estimands):
        out[..., places] = values
    return finite(out.transpose(2, 0, 1, 3).reshape(evaluation.draws, -1))


def _names(
    request: Request,
    estimands: Sequence[Estimand],
    evaluation: Evaluation,
    columns: Mapping[str, Held],
    count: int,
) -> dict[str, Held]:
    """The columns that identify the rows: names of estimands, category, columns of `by`."""
    groups = evaluation.groups
    each = columns_of_names([e.names for e in estimands])
    out: dict[str, Held] = {
        name: np.repeat(values, len(groups) * count) for name, values in each.items()
    }
    if groups != ("",):
        one = np.repeat(np.array(groups, object), count)
        out[request.category] = np.tile(one, len(estimands))
    places = np.tile(np.arange(count), len(estimands) * len(groups))
    return out | {name: repeated(values, places) for name, values in columns.items()}


def _table(
    request: Request,
    evaluation: Evaluation,
    names: Mapping[str, Held],
    draws: NDArray[np.float64],
    over: str,
    labels: Labels,
    context: Mapping[str, Held],
) -> Table:
    line = _line(request, evaluation, over)
    chains = _chains(request, evaluation)
    if request.hypothesis is None:
        columns = request.settings.describe(draws)
        return Described(names, columns, line, Kept(draws), chains, labels, context).table()
    if draws.shape[1] < 1:
        raise OptionError("there is no row to state a hypothesis about")
    texts = {name: listed(values) for name, values in names.items()}
    found = tested(request.hypothesis, draws, texts)
    settings = Settings(request.settings.interval, request.settings.rope, 0.0)
    return Described(
        found.names,
        columns_of(found, settings),
        f"{line}; b1, b2, ... are its rows without hypothesis=",
        Kept(found.draws),
        chains,
        Labels(labels.form),
    ).table()


def _chains(request: Request, evaluation: Evaluation) -> int:
    """Number of chains of the draws; thinned ones are one chain."""
    sites = evaluation.predictive.draws.sites
    return next((sites[name].shape[0] for name in sites), 1)


def _line(request: Request, evaluation: Evaluation, over: str) -> str:
    """The line below a table: what is estimated, where, and how it is summarised."""
    percent = f"{100 * request.settings.interval:g}%"
    parts = [
        f"estimate: posterior median of the {request.what}, {over}",
        f"{percent} equal-tailed interval",
    ]
    if request.settings.null is not None or request.hypothesis is not None:
        parts.append("pd: probability of direction")
    if evaluation.rows.program.point_networks:
        parts.append(
            "without the uncertainty of the network, whose weights are point estimates "
            "(weights='last' or 'full' in nn() adds it)"
        )
    return "; ".join([*parts, *evaluation.rows.notes])


def scale_words(fit: Fit, type: str) -> str:
    """What is predicted on a scale, in words."""
    family = posterior_of(fit).program.family
    if type == "response":
        name = str(fit.program.formula.response)
        if getattr(family, "categories", ()):
            return f"probability of each category of {name}"
        return f"mean of {name}" if family.name != "binomial" else f"share of successes of {name}"
    if type == "link":
        names = [p.name for p in family.parameters if p.predicted] or [family.parameters[0].name]
        return f"predictor of {names[0]}" if len(names) == 1 else "predictor of each category"
    return "back-transformed predictor" if type == BACK else type
