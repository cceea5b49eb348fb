"""The beginning of a page about a fit: what was found, how far to rely on it, and the data."""

from __future__ import annotations

import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING

from ranef.plots.canvas import label
from ranef.report.effect_sentences import EffectSentences
from ranef.report.group_sentences import group_sentences
from ranef.report.parts import Part, Sentences, Table, Text

if TYPE_CHECKING:
    from ranef.fit import Fit

# Probability of the intervals of a page.
INTERVAL = 0.95
# Title of the section with the checks of the model.
CHECKS = "Does the model describe the data?"

_READING = (
    "Each line compares rows that differ in the named column alone, at the average of the group "
    "effects where it does not say otherwise. Given the model and its priors, the value lies in "
    "its interval with the probability that is stated. Whether a difference is an effect of the "
    "column, or of what goes with it, is for the design of the study to say."
)
_OF_THE_MODEL = (
    "The verdict is about the computation, and not about the model: whether the model describes "
    f'the data is for you to judge, by the checks under "{CHECKS}".'
)
_VERDICTS = {
    "trust": "the numbers on this page are those of the model, as far as a second opinion by "
    "another method can tell.",
    "unchecked": "nothing speaks against the computation, and there was no second opinion by "
    "another method.",
    "caution": "something may be off; the reasons stand below.",
    "distrust": "do not use these numbers as they are; the reasons stand below.",
}


def answer(fit: Fit) -> list[Part]:
    """What the fit has found: a sentence for each effect, and the verdict with its meaning.

    A verdict of "distrust" stands before the sentences.
    """
    sentences = [*EffectSentences(fit, INTERVAL).all(), *group_sentences(fit, INTERVAL)]
    check = fit.check(quick=True)
    found: list[Part] = [
        Sentences(sentences),
        *(Text(f"{note}.") for note in _coding(fit)),
        Text(_READING),
    ]
    verdict: list[Part] = [
        Text(f"Verdict: {check.verdict}. That is: {_VERDICTS[check.verdict]} {_OF_THE_MODEL}"),
        *(Text(f"{label(reason, 400)}.") for reason in check.reasons),
    ]
    return [*verdict, *found] if check.verdict == "distrust" else [*found, *verdict]


def _coding(fit: Fit) -> list[str]:
    """Notes on the coding of the response: which text is the success, the order of categories."""
    family, state = fit.program.family, fit.training.state.family
    notes = [f"For the response, {note}" for note in family.notes(state)]
    if family.categorised and family.name != "categorical":
        order = ", ".join(label(name, 40) for name in state.categories)
        notes.append(f"The categories of the response, from lowest to highest, are {order}")
    return notes


def data(fit: Fit) -> list[Part]:
    """How many rows were read, used and dropped; file, date and seed."""
    rows = fit.rows
    counts = f"{rows.read:,} rows were read and {rows.used:,} used."
    record = Text(
        f"{source(fit)} This page was made on {datetime.date.today().isoformat()}, of a fit with "
        f"the seed {fit.draws.seed}."
    )
    if not rows.dropped:
        return [Text(f"{counts} None had a gap in a column that the model uses."), record]
    dropped = [(label(name, 80), f"{count:,}") for name, count in rows.dropped.items()]
    return [
        Text(f"{counts} The others had a gap in a column that the model uses."),
        Table(("column", "rows with a gap"), dropped),
        record,
    ]


def source(fit: Fit) -> str:
    """A sentence on the file of the rows, which may have been a table in memory."""
    known = fit.training.sample.source
    if known[:1] in "'\"":
        return f"The rows are those of the file {label(PurePath(known[1:-1]).name, 120)}."
    return "The rows came from a table in memory."
