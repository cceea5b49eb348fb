"""The sections of a page about one fit."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd

from ranef import plots
from ranef.errors import ColumnError, OptionError
from ranef.files.archive import versions
from ranef.plots.canvas import label
from ranef.plots.checks import check_table
from ranef.plots.groups import effects_table, shrinkage_table
from ranef.plots.source import LEVELS, tree_of
from ranef.report.answer import CHECKS, INTERVAL, answer, data
from ranef.report.parts import Code, Equations, Part, Picture, Section, Table, Text, cells
from ranef.report.pictures import picture

if TYPE_CHECKING:
    from ranef.fit import Fit

# Largest number of rows of a table.
_ROWS = 200
# Largest number of characters of a level's name in a hover text.
_SAID = 160

Found: TypeAlias = Picture | Text


def of_fit(fit: Fit) -> list[Section]:
    """All sections of the page, in reading order: the answer first, methods last."""
    groups = groupings(fit)
    # Lines show the effect; sheets are hard to read, and stand at the end.
    lines = data_fit(fit, under=("posterior",)) if _has_one_number(fit) else []
    return [
        Section("Answer", answer(fit)),
        Section("Data", data(fit)),
        Section(CHECKS, [posterior_predictive(fit), *(group_checks(fit) if groups else [])]),
        Section("Effects", [*lines, partial_effects(fit)]),
        *(
            [Section("Groups", [p for g in groups for p in (shrinkage(fit, g), *effects(fit, g))])]
            if groups
            else []
        ),
        Section("Parameters", [*parameters(fit, INTERVAL), posterior(fit)]),
        Section(
            "Methods",
            [
                *model(fit),
                priors(fit),
                Text(f"Method {fit.method}: {fit.why}. {convergence(fit)}"),
                *elbo(fit),
                *data_fit(fit, under=("prior",) if lines else ("prior", "posterior")),
                Text(f"Made with {made_with(fit)}"),
            ],
        ),
    ]


def question(fit: Fit) -> str:
    """What the page is about, as a question."""
    response = label(fit.program.formula.response, 60)
    groups = " and of ".join(label(g, 60) for g in groupings(fit))
    beyond = f", how much do the levels of {groups} differ beyond that" if groups else ""
    return (
        f"How does {response} depend on what the formula names{beyond}, and how sure can one be "
        "of it?"
    )


def _has_one_number(fit: Fit) -> bool:
    """Whether the fit over its numeric predictors is drawn as lines, not as sheets."""
    try:
        return len(fit.extend("surface")["surface"].attrs["predictors"]) == 1
    except OptionError:
        return False


def groupings(fit: Fit) -> list[str]:
    """Groupings of the fit, those with varying intercepts first."""
    names = {
        str(name).rpartition("|")[2]: str(name)
        for name, values in fit.posterior.data_vars.items()
        if str(values.dims[-1]).endswith(LEVELS)
    }
    return sorted(names, key=lambda g: f"1|{g}" not in fit.posterior)


def model(fit: Fit) -> list[Part]:
    """Formula and equations."""
    return [
        Code(fit.program.formula.text),
        Equations(fit.program.equations(fit.training.state)),
    ]


def priors(fit: Fit) -> Table:
    """The prior of each parameter."""
    rows = [(label(name, 80), str(prior)) for name, prior in fit.priors.items()]
    return _capped(("parameter", "prior"), rows, "Priors, given or default.", words=True)


def convergence(fit: Fit) -> str:
    """How the method ended, in a sentence or two."""
    ended = f"{fit.message[0].upper()}{fit.message[1:]}"
    return f"{ended}. It took {fit.seconds:.1f} s."


def verdict(fit: Fit) -> list[Part]:
    """The verdict of `fit.check` and its reasons."""
    found = fit.check(quick=True)
    reasons = [Text(f"{label(reason, 400)}.") for reason in found.reasons]
    return [Text(f"Verdict: {found.verdict}."), *reasons]


def parameters(fit: Fit, interval: float = 0.9) -> list[Part]:
    """Tables of the posterior, of point estimates and fixed values, and of shares of variance."""
    table = fit.summary(interval)
    ends = (f"{50 * (1 - interval):.4g}%", f"{50 * (1 + interval):.4g}%")
    head = ("parameter", "mean", "sd", *ends)
    columns = ["mean", "sd", "lower", "upper"]
    known = table.loc[table["kind"] == "posterior", columns]
    constants = table.loc[table["kind"].isin(("point estimate", "fixed")), ["mean", "kind"]]
    shares = table.loc[table["kind"] == "derived", columns]
    parts: list[Part] = [_capped(head, _rows(known), "Posterior of each parameter.")]
    if len(constants):
        parts.append(
            _capped(
                ("parameter", "value", "what it is"),
                _rows(constants),
                "Not in the posterior: the uncertainty of these is nowhere in the results.",
            )
        )
    points = _networks(fit)
    if points:
        parts.append(Text(points))
    if not constants.size and not points:
        parts.append(Text("No parameter is a point estimate or fixed."))
    if len(shares):
        parts.append(
            _capped(
                ("grouping", *head[1:]),
                _rows(shares),
                "Share of the variance of predictor and residual that each grouping explains.",
            )
        )
    return parts


def _networks(fit: Fit) -> str:
    """A sentence on the networks whose weights are point estimates; "" if there are none."""
    names = [label(name, 80) for name in fit.program.point_networks]
    if not names:
        return ""
    return (
        f"The weights of {' and '.join(names)} are point estimates: bands around its curve show "
        "the uncertainty of the other parameters, not of the weights."
    )


# Pictures


def elbo(fit: Fit, name: str = "") -> list[Found]:
    """The trace of the search; empty for a method that did not optimise an ELBO."""
    if "optimization" not in tree_of(fit).children:
        return []
    return [
        picture(
            lambda: plots.elbo(fit),
            _file(name, "elbo"),
            "Search for the best approximation",
            "The evidence lower bound by step. It has converged where the dark line is flat.",
        )
    ]


def posterior(fit: Fit, name: str = "") -> Found:
    """The marginal posterior of each parameter."""
    return picture(
        lambda: plots.posterior(fit),
        _file(name, "posterior"),
        "Posterior of each parameter",
        "The higher the curve, the more plausible the value. The bar is the central interval, "
        "the dot the mean.",
    )


def data_fit(
    fit: Fit, name: str = "", under: Sequence[str] = ("prior", "posterior")
) -> list[Found]:
    """The data with the location under prior draws, under posterior draws, or both."""
    read = {
        "prior": "What the model holds possible before it sees a row: one sheet or line a draw.",
        "posterior": "What the model holds possible once it has seen the rows: one sheet or line a "
        "draw. The closer they lie together, the surer it is of the mean; the rows scatter around "
        "it.",
    }
    return [
        picture(
            lambda which=which: plots.data_fit(fit, which),
            _file(name, f"data_fit_{which}"),
            f"Fit under {which} draws",
            read[which],
        )
        for which in under
    ]


def partial_effects(fit: Fit, name: str = "") -> Found:
    """The location along each predictor."""
    return picture(
        lambda: plots.partial_effects(fit),
        _file(name, "partial_effects"),
        "Effect of each predictor",
        "The location along one predictor, the others at their mean or most common level and "
        "group effects at zero, with its 90% band.",
    )


def posterior_predictive(fit: Fit, name: str = "") -> Found:
    """Responses with those drawn from the fit."""
    return picture(
        lambda: plots.posterior_predictive(fit),
        _file(name, "posterior_predictive"),
        "Responses drawn from the fit",
        "The dark line should run inside the band, and the shares beyond the axis should agree; "
        "where they do not, the family is wrong for this response.",
    )


def group_checks(fit: Fit, name: str = "") -> list[Found]:
    """Checks by level of the grouping with most levels: means, and shares of zeros of counts."""
    found: list[Found] = []
    for statistic, said in (("mean", "Means"), ("zeros", "Shares of zeros")):
        try:
            table = check_table(fit, statistic=statistic)
        except (ColumnError, OptionError):
            continue
        texts = [
            f"{_said(row['level'])}: {_rows_of(row['size'])}, observed {row['observed']:.4g}, "
            f"drawn {row['lower_90']:.4g} to {row['upper_90']:.4g}"
            for row in table.to_dict("records")
        ]
        found.append(
            picture(
                lambda statistic=statistic: plots.group_check(fit, statistic=statistic),
                _file(name, f"group_check_{statistic}"),
                f"{said} by {label(table.attrs['factor'], 60)}, observed and drawn",
                "A dot off its bar is a level that the model does not describe. If many are, its "
                "levels differ in more than the model says. Point at a dot to see which it is.",
                texts,
            )
        )
    return found


def shrinkage(fit: Fit, factor: str, name: str = "") -> Found:
    """The shrinkage picture. Hover texts give the level, its size and both estimates."""
    if f"1|{factor}" not in fit.posterior:
        return Text(
            f"{label(factor, 60)} has varying slopes only, which no estimate stands beside."
        )
    table = shrinkage_table(fit, factor)
    texts = [
        f"{_said(row['level'])}: {_rows_of(row['size'])}, alone {row['unpooled']:.4g}, "
        f"pooled {row['pooled']:.4g}"
        for row in table.to_dict("records")
    ]
    return picture(
        lambda: plots.shrinkage(fit, factor),
        _file(name, f"shrinkage_{factor}"),
        f"Shrinkage of {label(factor, 60)}",
        "Each level's own estimate (cross) is drawn towards the mean over all rows, the more so "
        "the fewer rows it has (dot). Point at a dot to see which level it is.",
        texts,
    )


def effects(fit: Fit, factor: str, name: str = "") -> list[Found]:
    """A picture of each coefficient that varies by the levels of a grouping."""
    found: list[Found] = []
    for variable in fit.posterior.data_vars:
        term, _, own = str(variable).rpartition("|")
        if own != factor or not str(fit.posterior[variable].dims[-1]).endswith(LEVELS):
            continue
        table = effects_table(fit, factor, term=term)
        texts = [
            f"{_said(row['level'])}: {_rows_of(row['size'])}, {row['mean']:.4g} "
            f"({row['lower_90']:.4g} to {row['upper_90']:.4g})"
            for row in table.to_dict("records")
        ]
        shown = "Intercepts" if term == "1" else f"Slopes of {label(term, 40)}"
        found.append(
            picture(
                lambda term=term: plots.group_effects(fit, factor, term=term),
                _file(name, f"group_effects_{len(found)}_{factor}"),
                f"{shown} by {label(factor, 60)}",
                "The levels that differ most, with 50% and 90% intervals. One whose interval "
                "spans zero may not differ at all. Point at a dot to see how many rows it has.",
                texts,
            )
        )
    return found


def made_with(fit: Fit) -> str:
    """Versions of the libraries and of Python."""
    found = {**versions(), "arviz-base": version("arviz-base")}
    known = ", ".join(f"{name} {number}" for name, number in found.items())
    return f"{known}; Python {platform.python_version()}."


def _file(name: str, figure: str) -> str:
    """The stem of a file name in ASCII letters, digits, "_" and "-"."""
    text = f"{name}_{figure}" if name else figure
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in text)[:80]


def _said(level: object) -> str:
    """A level's name as hover texts have it, cut off if it is long."""
    text = str(level)
    return text if len(text) <= _SAID else f"{text[:_SAID]}…"


def _rows_of(size: float) -> str:
    if np.isnan(size):
        return "rows unknown"
    return f"{size:,.0f} row{'' if size == 1 else 's'}"


def _rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (label(name, 80), *cells(row))
        for name, row in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]


def _capped(
    head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, words: bool = False
) -> Table:
    """A table of at most `_ROWS` rows; the caption says if some are left out."""
    if len(rows) > _ROWS:
        caption = f"{caption} The first {_ROWS} of {len(rows):,}."
    return Table(head, rows[:_ROWS], caption, words)
