"""Says in a sentence for each effect what a fit has found, with an interval.

Each sentence compares rows that differ in one column. Its form follows from the link of the
parameter: a difference (identity), how many times as many (log), odds and percentage points
(logit). Where the effect of a column depends on another column, or is a curve or a network, the
sentence says so and gives differences of predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ranef.data.frame import Frame
from ranef.errors import RanefError
from ranef.plots.canvas import label
from ranef.report.amounts import Amounts, plain
from ranef.report.changed_rows import ChangedRows, Draws, Matrix, date_text
from ranef.report.column_roles import Role, roles
from ranef.report.outcomes import Outcome, Outcomes

if TYPE_CHECKING:
    from ranef.fit import Fit

# Largest number of levels of a factor that are each compared with the reference, and at which an
# effect that depends on the factor is given.
_LEVELS = 6
_PARTNER_LEVELS = 4
# Largest number of levels among which the extremes are looked for, the most common ones.
_MOST_LEVELS = 30
# Share of the values of a column beyond each end of a curve, and points along it.
_TAIL = 0.05
_POINTS = 9
# Terms in which a column is multiplied by a coefficient.
_LINEAR = ("common", "mi", "group")
# Terms of several columns of which a sentence says the range.
_RANGED = ("nn", "mf", "gp")
# Largest departure from a straight line, relative to a step, that is rounding.
_STRAIGHT = 1e-6
# Columns whose sd lies between these are moved by one unit, others by a power of ten.
_UNIT = (0.5, 100.0)
# Largest number of characters of a column's name.
_NAME = 60


@dataclass(frozen=True)
class Comparison:
    """A column's change that a sentence is about.

    Attributes:
        column: the column.
        said: the change in words, such as "hours higher by 1".
        before: the value before the change.
        after: the value after it.
        move: what the change does to the value of each row; None for a change from the same
            value to the same value in all rows.
    """

    column: str
    said: str
    before: object
    after: object
    move: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class EffectSentences:
    """The sentences about the predictors of a fit.

    Attributes:
        fit: the fit.
        interval: probability of the intervals.
    """

    fit: Fit
    interval: float = 0.95

    def all(self) -> list[str]:
        """Sentences about the response's mean, and then about other parameters with predictors."""
        outcomes = self.outcomes.all()
        main = [outcome for outcome in outcomes if outcome.is_location]
        out = [*self._of(main), *self._ranges(main[0])] if main else []
        out = out or self._level(outcomes)
        for outcome in outcomes:
            if not outcome.is_location:
                out += self._of([outcome])
        return out

    @cached_property
    def outcomes(self) -> Outcomes:
        """What changes with the predictors, in words."""
        return Outcomes(self.fit, self._amounts)

    @cached_property
    def _amounts(self) -> Amounts:
        return Amounts(self.interval)

    @cached_property
    def _rows(self) -> ChangedRows:
        return ChangedRows(self.fit)

    def _of(self, outcomes: Sequence[Outcome]) -> Iterator[str]:
        """The sentences about each column of the predictors of `outcomes`."""
        each = {outcome.parameter: roles(self.fit, outcome.parameter) for outcome in outcomes}
        merged: dict[str, Role] = {}
        for found in each.values():
            for name, role in found.items():
                merged[name] = role.joined(merged[name]) if name in merged else role
        for name, role in merged.items():
            own = [outcome for outcome in outcomes if name in each[outcome.parameter]]
            if self._rows.is_array(name):
                continue
            try:
                yield from self._of_column(name, role, own)
            except RanefError as error:
                yield f"{label(name, _NAME)}: not computed, because {error}."

    def _of_column(self, name: str, role: Role, outcomes: Sequence[Outcome]) -> Iterator[str]:
        if len(self._values(name)) < 2:
            return
        changes = self._changes(name)
        linear = role.kinds <= set(_LINEAR)
        several = len(role.partners) > 1
        # Beside several partners the effect is averaged, if it is a straight line all the same.
        asked = Role() if several else role
        found = [self._constant(c, asked, outcomes) for c in changes] if linear else []
        if None in found:
            changes = self._doubled(name) or changes
            found = [self._constant(change, asked, outcomes) for change in changes]
        if found and None not in found and several:
            found = [self._averaged(change, outcomes) for change in changes]
        if not found or None in found:
            if not changes or changes[0].move is not None or len(self._values(name)) > _LEVELS:
                yield from self._along(name, role, outcomes)
                return
            found = [self._averaged(change, outcomes) for change in changes]
        depends = self._depends(name, role)
        yield from (f"{depends if i == 0 else ''}{text}." for i, text in enumerate(found))

    def _level(self, outcomes: Sequence[Outcome]) -> list[str]:
        """The level of a response whose mean has no predictors, where it has one level."""
        outcome = outcomes[0] if outcomes else None
        if outcome is None or outcome.link != "identity" or outcome.within:
            return []
        if not any(t.call.kind == "common" for t in self.fit.program.terms[outcome.parameter]):
            return []
        found = self._rows.predictor(self._rows.typical([{}]), outcome.parameter)
        level = self._amounts.size(found[:, 0])
        return [f"{outcome.name} is {level}, on average."]

    # Changes

    def _values(self, name: str) -> list:
        """The levels of a factor, or the distinct values of a column of numbers."""
        if self._rows.is_level(name):
            return self._rows.levels(name)
        return np.unique(self._rows.numbers(name)).tolist()

    def _changes(self, name: str) -> list[Comparison]:
        """The changes of a column that are compared.

        They are each level instead of the first, the larger of two numbers instead of the
        smaller, or one unit more. Empty for a factor of many levels.
        """
        shown, values = label(name, _NAME), self._values(name)
        if self._rows.is_level(name):
            reference, *others = values
            if len(values) > _LEVELS:
                return []
            return [
                Comparison(
                    name,
                    f"{shown} {label(v, _NAME)} instead of {label(reference, _NAME)}",
                    reference,
                    v,
                )
                for v in others
            ]
        low, high = values[0], values[-1]
        if len(values) == 2:
            said = f"{shown} {self._text(name, high)} instead of {self._text(name, low)}"
            return [Comparison(name, said, low, high)]
        numbers = self._rows.numbers(name)
        sd = float(numbers.std()) or 1.0
        step = 1.0 if _UNIT[0] <= sd < _UNIT[1] else float(10.0 ** np.floor(np.log10(sd)))
        middle = float(numbers.mean())
        if self._rows.is_date(name):
            middle = float(round(middle))
        said = f"{shown} higher by {plain(step)}"
        if self._rows.is_date(name):
            said = f"{shown} later by {plain(step)} day{'' if step == 1 else 's'}"
        return [Comparison(name, said, middle, middle + step, lambda values: values + step)]

    def _doubled(self, name: str) -> list[Comparison]:
        """The change of a column of positive numbers to twice its value; empty for others."""
        if self._rows.is_level(name) or (middle := float(self._rows.numbers(name).mean())) <= 0:
            return []
        if self._rows.numbers(name).min() <= 0:
            return []
        said = f"{label(name, _NAME)} doubled"
        return [Comparison(name, said, middle, 2 * middle, lambda values: 2 * values)]

    def _settings(self, partner: str) -> list[tuple[str, object]]:
        """Values of the column on which an effect depends, with their words."""
        shown, values = label(partner, _NAME), self._values(partner)
        if self._rows.is_level(partner):
            some = values
            if len(values) > _PARTNER_LEVELS:
                common = set(self._rows.common_levels(partner)[:_PARTNER_LEVELS])
                some = [v for v in values if v in common]
            return [(f"{shown} is {label(v, _NAME)}", v) for v in some]
        if len(values) > 2:
            ends = np.quantile(self._rows.numbers(partner), [0.1, 0.9])
            values = [float(v if self._rows.is_date(partner) else f"{v:.2g}") for v in ends]
        return [(f"{shown} is {self._text(partner, v)}", v) for v in values]

    def _text(self, name: str, value: float) -> str:
        """A value of a column of numbers or dates."""
        return date_text(value) if self._rows.is_date(name) else plain(value)

    def _depends(self, name: str, role: Role) -> str:
        """A sentence on what the effect of a column depends on; "" for nothing."""
        if not role.partners:
            return ""
        *first, last = (label(p, _NAME) for p in role.partners)
        listed = f"{', '.join(first)} and {last}" if first else last
        return f"The effect of {label(name, _NAME)} depends on {listed}. "

    # Sentences

    def _constant(self, change: Comparison, role: Role, outcomes: Sequence[Outcome]) -> str | None:
        """The effect of a change where it is a number, or one for each value of a partner.

        None where the predictor is no straight line in the column.
        """
        partner = next(iter(role.partners), None)
        settings = [("", None)] if partner is None else self._settings(partner)
        rows = []
        for _, value in settings:
            held = {} if partner is None else {partner: value}
            rows += [{**held, change.column: v} for v in (change.before, change.after)]
            if change.move is not None:
                rows.append({**held, change.column: change.move(change.after)})
        frame = self._rows.typical(rows)
        found = {o.parameter: self._rows.predictor(frame, o.parameter) for o in outcomes}
        width = len(rows) // len(settings)
        parts = []
        for place, (where, _) in enumerate(settings):
            phrases = []
            for outcome in outcomes:
                eta = found[outcome.parameter][:, place * width : (place + 1) * width]
                steps = np.diff(eta, axis=1)
                if width == 3 and not _is_straight(steps):
                    return None
                phrases.append(self._phrase(outcome, steps[:, 0]))
            said = "; ".join(filter(None, phrases))
            parts.append(f"where {where}, {said}" if where and said else said)
        parts = [part for part in parts if part]
        if outcomes[0].averaged:
            average = self._average(change)
            parts.append(f"on average over the rows {average}" if parts else average)
        return f"{change.said}: {'; '.join(parts)}"

    def _phrase(self, outcome: Outcome, difference: Draws) -> str:
        said = outcome.phrase(difference, self._amounts)
        unsure = said and self._amounts.is_open(difference)
        return f"{said} (its direction is uncertain)" if unsure else said

    def _both(self, change: Comparison) -> tuple[Frame, Frame]:
        """The training rows before and after a change."""
        rows = self._rows
        if change.move is not None:
            return rows.rows, rows.moved(change.column, change.move)
        before, after = (rows.with_value(change.column, v) for v in (change.before, change.after))
        return before, after

    def _average(self, change: Comparison) -> str:
        before, after = (self._rows.predicted(frame) for frame in self._both(change))
        return self.outcomes.average(before, after)

    def _level_on(self, outcome: Outcome, frame: Frame) -> Matrix:
        """What a curve shows: the response's mean or probability, or another parameter."""
        if not outcome.is_location:
            return self._rows.parameter(frame, outcome.parameter)
        return self.outcomes.level(self._rows.predicted(frame))

    def _averaged(self, change: Comparison, outcomes: Sequence[Outcome]) -> str:
        """The average effect of a change over the rows."""
        if outcomes[0].is_location:
            return f"{change.said}: on average over the rows {self._average(change)}"
        before, after = (self._level_on(outcomes[0], frame) for frame in self._both(change))
        moved = (after - before).mean(axis=1)
        said = f"{outcomes[0].name} {self._amounts.difference(moved)}"
        return f"{change.said}: on average over the rows {said}"

    def _along(self, name: str, role: Role, outcomes: Sequence[Outcome]) -> Iterator[str]:
        """Where along a column, or among many levels, the mean is lowest and highest."""
        shown, outcome, rows = label(name, _NAME), outcomes[0], self._rows
        if rows.is_level(name):
            points = rows.common_levels(name)[:_MOST_LEVELS]
            texts = [label(point, _NAME) for point in points]
            opening = f"Among the {len(self._values(name)):,} levels of {shown}"
        else:
            ends = np.quantile(rows.numbers(name), [_TAIL, 1 - _TAIL])
            grid = np.linspace(ends[0], ends[1], _POINTS)
            points = [float(round(v) if rows.is_date(name) else f"{v:.3g}") for v in grid]
            plainly = [self._text(name, point) for point in points]
            texts = [f"{shown} = {text}" for text in plainly]
            opening = f"Along {shown} from {plainly[0]} to {plainly[-1]}"
        if self.outcomes.is_unordered:
            change = Comparison(name, f"{texts[-1]} instead of {texts[0]}", points[0], points[-1])
            yield f"{self._depends(name, role)}{self._averaged(change, outcomes)}."
            return
        level = np.stack(
            [
                self._level_on(outcome, rows.with_value(name, point)).mean(axis=1)
                for point in points
            ],
            axis=1,
        )
        low, high = (int(f(level.mean(axis=0))) for f in (np.argmin, np.argmax))
        if low == high:
            yield f"{shown}: {self.outcomes.level_name(outcome)} does not change along it."
            return
        if {low, high} == {0, len(points) - 1} and not rows.is_level(name):
            gain = self.outcomes.changed(outcome, level[:, -1] - level[:, 0])
            yield (
                f"{self._depends(name, role)}{texts[-1]} instead of "
                f"{texts[0].rpartition(' = ')[2]}: on average over the rows {gain}, along a curve."
            )
            return
        apart = self.outcomes.apart(outcome, level[:, high] - level[:, low])
        yield (
            f"{self._depends(name, role)}{opening}, {self.outcomes.level_name(outcome)} is on "
            f"average over the rows lowest at {texts[low]} and highest at {texts[high]}; the two "
            f"differ by {apart}."
        )

    def _ranges(self, outcome: Outcome) -> Iterator[str]:
        """How far the mean varies with each network, factorization and surface."""
        for term in self.fit.program.terms.get(outcome.parameter, ()):
            names = list(dict.fromkeys(n for e in term.call.expressions() for n in e.columns()))
            if term.call.kind not in _RANGED or self.outcomes.is_unordered:
                continue
            if len(names) < 2 and not self._rows.is_array(names[0]):
                continue
            level = self._level_on(outcome, self._rows.only(names))
            low, high = np.quantile(level, [0.1, 0.9], axis=1)
            text = (
                f"{label(term.label, _NAME)}: as its columns vary over the rows and all else is "
                f"typical, the middle 80% of {self.outcomes.level_name(outcome)} span "
                f"{self.outcomes.apart(outcome, high - low)}."
            )
            if term.label in self.fit.program.point_networks:
                text += (
                    " The weights of the network are point estimates, whose uncertainty the "
                    "interval leaves out."
                )
            yield text


def _is_straight(steps: np.ndarray) -> bool:
    """Whether two steps of equal length, (draws, 2), change a predictor equally."""
    size = np.abs(steps).max()
    return bool(np.abs(steps[:, 1] - steps[:, 0]).max() <= _STRAIGHT * size)
