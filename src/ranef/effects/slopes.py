"""Slopes: derivatives of the response's mean with respect to numeric predictors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.row_labels import Table
from ranef.effects.columns import Predictors, posterior_of
from ranef.effects.comparing import COMPARISONS
from ranef.effects.contrasts import Variables, contrasts_of, named
from ranef.effects.estimation import Request, averaged, by_unit, scale_words
from ranef.effects.table import Settings
from ranef.effects.variants import OWN, Estimand, Quantity, Values, Variant, present
from ranef.errors import DataError, OptionError
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups
from ranef.terms.capabilities import HasNetwork

if TYPE_CHECKING:
    from ranef.fit import Fit

# Half the width of a central difference, in sds of the column. Its error is then below 1e-9 of the
# curvature's scale from truncation and 1e-12 from rounding.
_STEP = 1e-4
# The same for networks, which compute in single precision.
_NETWORK_STEP = 1e-2
# Half the width for a value x of a column of positive numbers is at most this share of x, so that
# functions such as the logarithm stay within their domain.
_SHARE = 1e-3
_NETWORK_SHARE = 1e-2

_KINDS = ("dydx", "eyex", "eydx", "dyex")
_SAID = {"dydx": "dY/dX", "eyex": "eY/eX", "eydx": "eY/dX", "dyex": "dY/eX"}


def slopes(
    fit: Fit,
    variables: Variables = None,
    newdata: object = None,
    by: object = None,
    hypothesis: object = None,
    groups: Groups = "all",
    interval: float = 0.95,
    *,
    slope: str = "dydx",
    type: str = "response",
    new_levels: NewLevels = "error",
    weights: str | None = None,
    rope: tuple[float, float] | None = None,
    seed: int = 0,
) -> Table:
    """Derivatives of the response's mean with respect to a predictor, at each row of `newdata`.

        d E[y_i] / d x = (E[y_i | x_i + h] - E[y_i | x_i - h]) / 2h

    with h = 1e-4 standard deviations of the column (1e-2 beside a network, which computes in
    single precision).

    Args:
        fit: the fit.
        variables: numeric predictors: a name, a list of names, or None for all predictors. For
            factors and logicals, which have no derivative, differences are taken as by
            `comparisons`.
        newdata: as for `avg_comparisons`.
        by: as for `avg_comparisons`.
        hypothesis: as for `avg_comparisons`.
        groups: as for `avg_comparisons`.
        interval: as for `avg_comparisons`.
        type: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        weights: as for `avg_comparisons`.
        rope: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.
        slope: "dydx", or an elasticity: "eyex" (percent per percent), "eydx" or "dyex".

    Returns:
        A table with a row for each predictor and row of `newdata`, or for each average where `by`
        is given, and the columns rowid, term, contrast, group (the category, for responses with
        categories), estimate, lower, upper and pd, followed by the predictors of the row.

    Raises:
        ColumnError, DataError, OptionError, FormulaError: as for `avg_comparisons`.
    """
    if slope not in _KINDS:
        raise OptionError(f"slope must be one of {', '.join(map(repr, _KINDS))}, not {slope!r}")
    request = Request(
        *(fit, newdata, by, weights, groups, new_levels, seed, type, hypothesis),
        Settings(interval, rope, 0.0),
        f"slope {_SAID[slope]} of the {scale_words(fit, type)}",
    )
    predictors = Predictors(posterior_of(fit))
    asked_for = named(predictors, variables)
    rows = request.rows_with(predictors, asked_for)
    estimands = []
    for name, asked in asked_for.items():
        if predictors.kind(name) == "level":
            label = COMPARISONS["difference"].label
            estimands += contrasts_of(predictors, {name: asked}, label)
        elif predictors.kind(name) == "date":
            raise OptionError(
                f"the column {name!r} holds dates, for which slopes are not defined; use "
                f"comparisons(), as in {{'{name}': ('2024-01-01', '2024-07-01')}}"
            )
        elif step := predictors.step_of(name):
            raise OptionError(
                f"{name!r} stands in {step}, a step without a derivative; use comparisons() for "
                f"it, as in {{'{name}': 'iqr'}}"
            )
        elif asked is not None:
            raise OptionError(
                f"a slope of {name!r} takes no contrast, such as {asked!r}; use comparisons()"
            )
        else:
            names = {"term": name, "contrast": _SAID[slope]}
            estimands.append(Estimand(names, _derivative(fit, predictors, name, slope)))
    if by is None or by is False:
        return by_unit(request, rows, estimands)
    return averaged(request, rows, estimands)


def avg_slopes(
    fit: Fit,
    variables: Variables = None,
    newdata: object = None,
    by: object = None,
    hypothesis: object = None,
    groups: Groups = "all",
    interval: float = 0.95,
    *,
    slope: str = "dydx",
    type: str = "response",
    new_levels: NewLevels = "error",
    weights: str | None = None,
    rope: tuple[float, float] | None = None,
    seed: int = 0,
) -> Table:
    """Average slopes: means of `slopes` over rows, at every draw (average marginal effects).

        (1/n) sum_i d E[y_i] / d x

    Args:
        fit: the fit.
        variables: as for `slopes`.
        slope: as for `slopes`.
        newdata: as for `avg_comparisons`.
        by: as for `avg_comparisons`.
        hypothesis: as for `avg_comparisons`.
        groups: as for `avg_comparisons`.
        interval: as for `avg_comparisons`.
        type: as for `avg_comparisons`.
        new_levels: as for `avg_comparisons`.
        weights: as for `avg_comparisons`.
        rope: as for `avg_comparisons`.
        seed: as for `avg_comparisons`.

    Returns:
        A table with a row for each predictor, category and cell of `by`: term, contrast, group,
        the columns of `by`, estimate, lower, upper and pd.

    Raises:
        ColumnError, DataError, OptionError, FormulaError: as for `avg_comparisons`.
    """
    by = True if by is None or by is False else by
    return slopes(
        *(fit, variables, newdata, by, hypothesis, groups, interval),
        slope=slope,
        type=type,
        new_levels=new_levels,
        weights=weights,
        rope=rope,
        seed=seed,
    )


def _derivative(fit: Fit, predictors: Predictors, name: str, slope: str) -> Quantity:
    """The derivative of a prediction, or an elasticity."""
    half = _half_width(fit, predictors, name)

    def moved(sign: float) -> Variant:
        def change(frame: Frame) -> dict[str, NDArray[np.float64]]:
            values = present(frame, name)
            return {name: values + sign * half(values)}

        return Variant(("slope", name, sign), change, name)

    def combine(values: list[Values], frame: Frame) -> Values:
        own = present(frame, name)
        # The width as rounding leaves it.
        width = (own + half(own)) - (own - half(own))
        out = values[0] - values[1]
        out /= width
        if slope in ("eyex", "dyex"):
            out = out * own
        if slope in ("eyex", "eydx"):
            with np.errstate(all="ignore"):
                out = out / values[2]
            if not np.isfinite(out).all():
                raise DataError(
                    f"the elasticity {slope} is not defined where a prediction is zero; use "
                    "slope='dydx'"
                )
        return out

    own = (OWN,) if slope in ("eyex", "eydx") else ()
    return Quantity((moved(1.0), moved(-1.0), *own), combine)


def _half_width(
    fit: Fit, predictors: Predictors, name: str
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Half the width of the central difference at each value of a column."""
    known = predictors.numbers(name)
    single = any(True for _ in fit.program.terms_with(HasNetwork))
    size = float(known.std()) or float(np.abs(known).max()) or 1.0
    # A column far from zero is rounded to its spacing, which must be small beside the width.
    spacing = float(np.spacing(np.abs(known).max()))
    width = max((_NETWORK_STEP if single else _STEP) * size, (spacing * size**2) ** (1 / 3))
    positive = bool((known > 0).all())

    def half(values: NDArray[np.float64]) -> NDArray[np.float64]:
        if not positive:
            return np.full(len(values), width)
        return np.minimum(
            width, np.where(values > 0, (_NETWORK_SHARE if single else _SHARE) * values, width)
        )

    return half
