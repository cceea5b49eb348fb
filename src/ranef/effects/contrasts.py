"""Contrasts of a predictor: which values are compared, and what the comparison is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, pairwise
from numbers import Real
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.effects.columns import Predictors
from ranef.effects.grids import level_text
from ranef.effects.variants import Estimand, Quantity, Variant, constant, present, shifted
from ranef.errors import ColumnError, DataError, OptionError, suggestion

# One name, several, or name to the contrast of it; None for all predictors.
Variables: TypeAlias = object

_NUMERIC = ("sd", "2sd", "iqr", "minmax")
_FACTOR = (
    *("reference", "sequential", "pairwise", "all", "minmax"),
    *("revreference", "revsequential", "revpairwise"),
)


def contrasts_of(
    predictors: Predictors, variables: Variables, label: Callable[[str, str], str]
) -> list[Estimand]:
    """The contrasts of each variable.

    Args:
        predictors: the predictors of the fit.
        variables: as for `avg_comparisons`.
        label: maps the names of the two sides to the name of the comparison.

    Raises:
        ColumnError: for a column that is not behind a predictor.
        OptionError: for a contrast that a column of its kind does not have.
    """
    out = []
    for name, asked in named(predictors, variables).items():
        out.extend(_contrasts(predictors, name, asked, label))
    return out


def named(predictors: Predictors, variables: Variables) -> dict[str, object]:
    """Name to the contrast that is asked for; None for the default one."""
    if variables is None:
        own = [name for name in predictors.common if predictors.kind(name) != "array"]
        if not own:
            raise OptionError("the model has no predictor to vary; name a column in variables=")
        return {name: None for name in own}
    if isinstance(variables, str):
        asked: dict[str, object] = {variables: None}
    elif isinstance(variables, Mapping):
        asked = {str(name): value for name, value in variables.items()}
    elif isinstance(variables, (list, tuple)):
        asked = {str(name): None for name in variables}
    else:
        raise OptionError(
            f"variables must be a column, a list of columns or a dict such as {{'x': 10}}, not "
            f"{variables!r}"
        )
    if not asked:
        raise OptionError("variables names no column; give one or more, or None for all")
    for name in asked:
        if predictors.kind(name) == "array":
            raise ColumnError(
                f"column {name!r} holds an array in each row, which cannot be varied as a whole"
            )
    return asked


def _contrasts(
    predictors: Predictors, name: str, asked: object, label: Callable[[str, str], str]
) -> list[Estimand]:
    if predictors.kind(name) == "level":
        return _of_factor(predictors, name, asked, label)
    return [_of_number(predictors, name, 1.0 if asked is None else asked, label)]


def _of_number(
    predictors: Predictors, name: str, asked: object, label: Callable[[str, str], str]
) -> Estimand:
    """The contrast of a numeric column."""
    values = predictors.numbers(name)
    if isinstance(asked, Real) and not isinstance(asked, bool):
        return _centred(name, _step(name, float(asked)), f"{float(asked):+.4g}")
    if isinstance(asked, str) and asked in ("sd", "2sd"):
        step = values.std(ddof=1) * (2 if asked == "2sd" else 1)
        return _centred(name, _step(name, float(step)), "+2 sd" if asked == "2sd" else "+1 sd")
    if isinstance(asked, str) and asked in ("iqr", "minmax"):
        low, high = np.quantile(values, [0.25, 0.75] if asked == "iqr" else [0.0, 1.0])
        said = ("Q3", "Q1") if asked == "iqr" else ("Max", "Min")
        return _pair(name, label(*said), *(constant({name: np.array([v])}) for v in (high, low)))
    if callable(asked):
        return _mapped(name, asked, label)
    pair = _numbers(asked)
    if pair is None:
        raise OptionError(
            f"the contrast of the numeric column {name!r} must be a number, a pair of numbers, a "
            f"function or one of {', '.join(map(repr, _NUMERIC))}, not {asked!r}"
        )
    low, high = pair
    said = label(f"{high:.6g}", f"{low:.6g}")
    return _pair(name, said, *(constant({name: np.array([v])}) for v in (high, low)))


def _step(name: str, step: float) -> float:
    if not np.isfinite(step) or step == 0:
        raise DataError(
            f"the contrast of column {name!r} changes it by {step:g}; give a finite number other "
            "than zero"
        )
    return step


def _centred(name: str, step: float, said: str) -> Estimand:
    return _pair(name, said, shifted(name, step / 2), shifted(name, -step / 2))


def _mapped(
    name: str, function: Callable[..., object], label: Callable[[str, str], str]
) -> Estimand:
    """The contrast of a function that returns the low and the high value of each row."""

    def side(place: int) -> Callable[[Frame], dict[str, NDArray[np.float64]]]:
        def change(frame: Frame) -> dict[str, NDArray[np.float64]]:
            found = function(present(frame, name))
            if not isinstance(found, (list, tuple)) or len(found) != 2:
                raise OptionError(
                    f"the function for column {name!r} must return a pair: the low and the high "
                    "value of each row"
                )
            values = np.broadcast_to(np.asarray(found[place], np.float64), frame.n)
            return {name: np.array(values)}

        return change

    high, low = (Variant((name, id(function), place), side(place)) for place in (1, 0))
    return _pair(name, label("high", "low"), high, low)


def _pair(name: str, said: str, high: Variant, low: Variant) -> Estimand:
    return Estimand({"term": name, "contrast": said}, Quantity((high,)), Quantity((low,)))


def _numbers(asked: object) -> tuple[float, float] | None:
    """A pair of finite numbers, or None for anything else."""
    if not isinstance(asked, (list, tuple, np.ndarray)) or len(asked) != 2:
        return None
    try:
        low, high = (float(value) for value in asked)
    except (TypeError, ValueError):
        return None
    return (low, high) if np.isfinite([low, high]).all() else None


def _of_factor(
    predictors: Predictors, name: str, asked: object, label: Callable[[str, str], str]
) -> list[Estimand]:
    """The contrasts of a factor or a logical column."""
    levels = predictors.levels(name)
    if asked is None:
        asked = "reference"
    if isinstance(asked, str):
        if asked not in _FACTOR:
            raise OptionError(
                f"the contrast of the factor {name!r} must be a pair of levels or one of "
                f"{', '.join(map(repr, _FACTOR))}, not {asked!r}"
            )
        if len(levels) < 2:
            raise DataError(f"column {name!r} has one level, {levels[0]!r}, and no contrast")
        pairs = pairs_of(levels, asked)
    else:
        if not isinstance(asked, (list, tuple)) or len(asked) != 2:
            raise OptionError(
                f"the contrast of the factor {name!r} must be a pair of levels or one of "
                f"{', '.join(map(repr, _FACTOR))}, not {asked!r}"
            )
        low, high = map(level_text, asked)
        for level in (low, high):
            if level not in levels:
                raise DataError(
                    f"column {name!r} has no level {level!r}; {suggestion(level, levels)}"
                )
        pairs = [(high, low)]
    set_to = {level: constant({name: predictors.held(name, [level])}) for level in levels}
    return [_pair(name, label(high, low), set_to[high], set_to[low]) for high, low in pairs]


def pairs_of(levels: list[str], how: str) -> list[tuple[str, str]]:
    """The pairs of levels that are compared, the minuend first."""
    if how.startswith("rev"):
        return [(low, high) for high, low in pairs_of(levels, how[3:])]
    if how == "reference":
        return [(level, levels[0]) for level in levels[1:]]
    if how == "sequential":
        return [(high, low) for low, high in pairwise(levels)]
    if how == "minmax":
        return [(levels[-1], levels[0])]
    pairs = [(high, low) for low, high in combinations(levels, 2)]
    return pairs if how == "pairwise" else [*pairs, *((low, high) for high, low in pairs)]
