"""Hypotheses about the rows of a table of effects, and about the parameters of a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.data.row_labels import Labels, Table
from ranef.effects.arithmetic import Stated, evaluated
from ranef.effects.columns import posterior_of
from ranef.effects.contrasts import pairs_of
from ranef.effects.table import Described, Draws, Kept, Settings, finite
from ranef.errors import ColumnError, DataError, OptionError, suggestion
from ranef.posterior.posterior import Posterior

if TYPE_CHECKING:
    from ranef.fit import Fit

_PAIRS = ("pairwise", "revpairwise", "reference", "revreference", "sequential", "revsequential")
# In words of pairs the first row comes first, as in emmeans and marginaleffects: "pairwise" is
# b1 - b2, while "reference" and "sequential" subtract the earlier row.
_FLIPPED = {"pairwise": "revpairwise", "revpairwise": "pairwise"}


@dataclass(frozen=True)
class Tested:
    """Draws of hypotheses.

    Attributes:
        names: the columns that identify the hypotheses.
        draws: draws of each, (draws, hypotheses).
        relations: "=", "<", ">" or "" of each.
    """

    names: Mapping[str, list[str]]
    draws: Draws
    relations: tuple[str, ...]


def tested(hypothesis: object, draws: Draws, names: Mapping[str, Sequence[object]]) -> Tested:
    """Hypotheses about rows of a table.

    Args:
        hypothesis: as for `avg_comparisons`.
        draws: draws of the rows, (draws, rows).
        names: columns that identify the rows.

    Raises:
        OptionError: for a hypothesis of another kind.
        FormulaError: for a text that is no hypothesis.
    """
    if callable(hypothesis):
        return _of_function(hypothesis, draws)
    if isinstance(hypothesis, str):
        word, _, within = (part.strip() for part in hypothesis.partition("|"))
        if word in _PAIRS:
            return _of_pairs(word, within, draws, names)
        return _of_texts([hypothesis], draws, names)
    if isinstance(hypothesis, (list, tuple)) and all(isinstance(h, str) for h in hypothesis):
        return _of_texts(hypothesis, draws, names)
    return _of_weights(hypothesis, draws)


def _of_function(function: Callable[..., object], draws: Draws) -> Tested:
    result = np.asarray(function(draws), np.float64)
    if result.ndim not in (1, 2) or len(result) != len(draws):
        raise OptionError(
            f"the function hypothesis= gets draws (draws, rows) = {draws.shape} and must return "
            f"({len(draws)},) or ({len(draws)}, k), not {result.shape}"
        )
    found = result.reshape(len(draws), -1)
    said = getattr(function, "__name__", "function").replace("<lambda>", "function")
    count = len(found.T)
    labels = [said] if count == 1 else [f"{said}[{i + 1}]" for i in range(count)]
    return Tested({"hypothesis": labels}, found, ("",) * len(labels))


def _of_weights(hypothesis: object, draws: Draws) -> Tested:
    rows = draws.shape[1]
    try:
        given = np.asarray(hypothesis, np.float64)
    except (TypeError, ValueError):
        given = np.zeros(0)
    if given.ndim not in (1, 2) or len(given) != rows or not np.isfinite(given).all():
        raise OptionError(
            f"hypothesis must be a text such as 'b1 = b2', one of {', '.join(map(repr, _PAIRS))}, "
            f"a function of draws, or weights of the {rows} rows with one column for each "
            f"hypothesis, not {hypothesis!r:.80}"
        )
    weights = given.reshape(rows, -1)
    labels = [f"weights {i + 1}" for i in range(len(weights.T))]
    return Tested({"hypothesis": labels}, draws @ weights, ("",) * len(labels))


def _of_texts(texts: Sequence[str], draws: Draws, names: Mapping[str, Sequence[object]]) -> Tested:
    labels = labels_of(names, draws.shape[1])
    place = {label: i for i, label in enumerate(labels) if labels.count(label) == 1}
    place |= {f"b{i + 1}": i for i in range(draws.shape[1])}

    def look_up(name: str) -> Draws | None:
        return draws[:, place[name]] if name in place else None

    stated = [evaluated(text, look_up, lambda: list(place)) for text in texts]
    return _together(stated, len(draws))


def _together(stated: Sequence[Stated], draws: int) -> Tested:
    values = np.stack([np.broadcast_to(s.difference, (draws,)) for s in stated], axis=1)
    return Tested(
        {"hypothesis": [s.text for s in stated]}, values, tuple(s.relation for s in stated)
    )


def labels_of(names: Mapping[str, Sequence[object]], rows: int) -> list[str]:
    """A name for each row: the values of the columns that differ between rows."""
    texts = {name: [str(value) for value in values] for name, values in names.items()}
    differing = [values for values in texts.values() if len(set(values)) > 1]
    if not differing:
        return [f"b{i + 1}" for i in range(rows)]
    return [", ".join(values[i] for values in differing) for i in range(rows)]


def _of_pairs(
    word: str, within: str, draws: Draws, names: Mapping[str, Sequence[object]]
) -> Tested:
    """Differences of pairs of rows; with `within`, of rows with the same values of columns."""
    columns = [name.strip() for name in within.split("+")] if within else []
    for name in columns:
        if name not in names:
            raise ColumnError(
                f"the table has no column {name!r} for hypothesis='{word} | {within}'; "
                f"{suggestion(name, names)}"
            )
    rows = range(draws.shape[1])
    kept = {name: [str(v) for v in values] for name, values in names.items()}
    cell = [tuple(kept[name][i] for name in columns) for i in rows]
    found: dict[str, list[str]] = {name: [] for name in columns} | {"hypothesis": []}
    values = []
    for own in dict.fromkeys(cell):
        members = [i for i in rows if cell[i] == own]
        if len(members) < 2:
            raise DataError(f"hypothesis={word!r} compares rows, and there is one alone")
        inside = {name: [names[name][i] for i in members] for name in names}
        labels = labels_of(inside, len(members))
        for high, low in pairs_of([str(i) for i in range(len(members))], _FLIPPED.get(word, word)):
            one, other = int(high), int(low)
            values.append(draws[:, members[one]] - draws[:, members[other]])
            first, second = (f"({n})" if " " in n else n for n in (labels[one], labels[other]))
            found["hypothesis"].append(f"{first} - {second}")
            for name, value in zip(columns, own, strict=True):
                found[name].append(value)
    return Tested(found, np.stack(values, axis=1), ("",) * len(values))


def columns_of(found: Tested, settings: Settings) -> dict[str, NDArray[np.float64]]:
    """Estimate, interval and probabilities; for < and > also how probable the hypothesis is."""
    out = settings.describe(finite(found.draws))
    if any(relation in ("<", ">") for relation in found.relations):
        sign = np.array([-1.0 if relation == "<" else 1.0 for relation in found.relations])
        share = (sign * found.draws > 0).mean(axis=0)
        two_sided = np.array([relation not in ("<", ">") for relation in found.relations])
        if not two_sided.any():
            out["probability"] = share
            with np.errstate(divide="ignore"):
                out["evidence_ratio"] = share / (1 - share)
    return out


def hypothesis(
    fit: Fit,
    *hypotheses: str,
    interval: float = 0.95,
    rope: tuple[float, float] | None = None,
) -> Table:
    """Hypotheses about the parameters of a fit, as brms's ``hypothesis()``.

        d = left side - right side

    Args:
        fit: the fit.
        *hypotheses: such as "x > 0", "x = z", "exp(x) > 1.5" or "f[b] - f[c] = 0". Parameters
            have their names in `fit.summary()` and `fit.posterior`; effects of levels are
            ``1|g[308]``. Names with other characters stand in backticks. Functions are exp, log,
            sqrt, abs, logit and expit.
        interval: probability of the equal-tailed interval.
        rope: region of practical equivalence of d, a lower and an upper limit.

    Returns:
        A table with a row for each hypothesis and the columns hypothesis, estimate (posterior
        median of d), lower, upper and pd, the probability of direction
        max(P(d > 0), P(d < 0)); with `rope` also in_rope, the probability that d lies in it. If
        all hypotheses have < or >, also probability, that of the hypothesis, and
        evidence_ratio, the odds of it (infinite if all draws agree).

    Raises:
        FormulaError: for a text that is no hypothesis, or a parameter that does not exist.
        OptionError: for an invalid argument.

    Source: Bürkner (2017); Makowski, Ben-Shachar and Lüdecke (2019) for pd.
    """
    if not hypotheses or not all(isinstance(text, str) for text in hypotheses):
        raise OptionError("hypothesis takes one or more texts, such as 'x > 0'")
    settings = Settings(interval, rope, 0.0)
    parameters = _Parameters(posterior_of(fit))
    stated = [evaluated(text, parameters.draws, parameters.names) for text in hypotheses]
    found = _together(stated, parameters.count)
    percent = f"{100 * interval:g}%"
    line = (
        f"estimate: posterior median of left side - right side; {percent} equal-tailed interval; "
        "pd: probability of direction"
    )
    return Described(
        found.names,
        columns_of(found, settings),
        line,
        Kept(found.draws),
        parameters.chains,
        Labels(fit._known.training.sample.labels.form),
    ).table()


@dataclass
class _Parameters:
    """Draws of the parameters of a fit by the names of their elements."""

    posterior: Posterior

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self._shape[0]

    @property
    def count(self) -> int:
        """Number of draws of all chains."""
        return self._shape[0] * self._shape[1]

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.posterior.draws.shape

    def names(self) -> list[str]:
        """Names of all elements, those of common effects first."""
        variables = self.posterior.variables
        order = sorted(variables, key=lambda name: variables[name].role in ("group", "weight"))
        return [label for name in order for label, _ in variables[name].elements(name)]

    def draws(self, asked: str) -> Draws | None:
        """Draws of a parameter or element, (draws,)."""
        for name, variable in self.posterior.variables.items():
            title = variable.title or name
            if not asked.startswith((title, name)):
                continue
            for label, flat in variable.elements(name):
                if asked in (label, label.replace(title, name, 1)):
                    return self._element(name, flat)
        return None

    def _element(self, name: str, flat: int) -> Draws | None:
        constants = self.posterior.constants
        if name in constants:
            value = np.ravel(constants[name][0])
            return np.full(self.count, value[flat if len(value) > 1 else 0])
        # Effects of many levels are made only if one of them is asked for.
        ready = self.posterior.ready
        values = ready[name] if name in ready else self.posterior.values.get(name)
        return None if values is None else values.reshape(self.count, -1)[:, flat]
