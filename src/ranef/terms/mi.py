"""A column with missing values: eta_i = beta x_i, where a missing x_i is integrated out.

The column has a distribution of its own in every row, observed or missing, by default

    x_i ~ N(nu_i, sigma_x^2).

Its predictor nu_i is a further part of the formula, ``mi(x) ~ z + (1 | g)``; without one, nu is one
number for all rows. This term holds the coefficient beta. The program integrates over missing
values, whose density combines this model of the column and that of the response
(``program.missing_values``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import ColumnMoments, Scale
from ranef.errors import DataError
from ranef.formula.equation import Sub, Summand
from ranef.lazy import Array
from ranef.numerics.shapes import Float
from ranef.priors import Prior, sites
from ranef.terms.base import Design, Parameter, Run, Term, Variable, clean_name
from ranef.terms.blocks import LinearBlock
from ranef.terms.capabilities import (
    Centred,
    Columns,
    Constant,
    Curve,
    Incomplete,
    Measured,
    PerDraw,
    Reparametrized,
    Sites,
)


@dataclass(frozen=True)
class MissingState:
    """Moments of the column over the training rows.

    Attributes:
        mean: mean of the observed values.
        sd: sd of the observed values; for a constant column its absolute value, or 1 if that is 0.
        largest: the largest observed value.
        centre: value that is subtracted from the column in the predictor: the mean if an intercept
            with a default prior absorbs it, and 0 otherwise.
    """

    mean: float
    sd: float
    largest: float
    centre: float = 0.0


class MissingColumn(
    Term[float, MissingState],
    Measured[MissingState],
    Reparametrized[MissingState],
    Centred[MissingState],
    Incomplete[MissingState],
):
    """The term mi(x) for a numeric column x, which the parser of formulas has checked."""

    models_column = True

    @property
    def column(self) -> str:
        """Name of the incomplete column."""
        return self.call.arguments[0].columns()[0]

    @property
    def _site(self) -> str:
        return f"{self.prefix}mi({clean_name(self.column)})"

    def needs(self) -> dict[str, str]:
        return {self.column: "gaps"}

    def scan(self, accumulator: float | None, frame: Frame) -> float:
        """The largest observed value so far, minus infinity where there is none."""
        values = self._numbers(frame)
        seen = float(np.nanmax(values, initial=-np.inf)) if frame.n else -np.inf
        return seen if accumulator is None else max(accumulator, seen)

    def finish(self, accumulator: float) -> MissingState:
        if accumulator == -np.inf:
            raise DataError(
                f"column {self.column!r} in mi({self.column}) has no value in any row, so nothing "
                "says what its missing values may be; leave it out"
            )
        return MissingState(0.0, 1.0, accumulator)

    def _numbers(self, frame: Frame) -> Float[NDArray[np.float64], "n"]:
        """The values of the column, NaN where missing.

        Raises:
            DataError: for infinite values, and for cells that hold arrays.
        """
        values = frame.numbers(self.column)
        if values.ndim > 1:
            raise DataError(f"column {self.column!r} holds arrays, and mi() takes single numbers")
        if np.isinf(values).any():
            row = frame.row_number(int(np.argmax(np.isinf(values))))
            raise DataError(
                f"column {self.column!r} is infinite in row {row}; correct it, or leave the cell "
                "empty for a missing value"
            )
        return values

    def design(self, state: MissingState, frame: Frame) -> Design:
        values = self._numbers(frame)
        missing = np.isnan(values)
        return Design({"value": np.where(missing, state.mean, values), "missing": missing})

    def columns(self, state: MissingState, frame: Frame) -> Columns:
        return self._numbers(frame)[:, None]

    def measured(self, state: MissingState, measures: ColumnMoments) -> MissingState:
        mean, sd = float(measures.mean[0]), float(measures.sd[0])
        size = abs(mean) or 1.0
        return replace(state, mean=mean, sd=sd if sd > 1e-12 * size else size)

    def placed(
        self, state: MissingState, has_prior: Callable[[str, str], bool], constant: Constant
    ) -> MissingState:
        # Centring moves beta times the mean into the intercept. A prior by the user refers to
        # x = 0, so it rules centring out.
        named = has_prior(self._site, self._alias) or has_prior(f"{self.prefix}Intercept", "")
        centred = constant is Constant.PREDICTOR and not named
        return replace(state, centre=state.mean) if centred else state

    def as_written(self, state: MissingState) -> MissingState:
        return replace(state, centre=0.0)

    def taken_off(self, state: MissingState, sites: Sites) -> PerDraw | None:
        if not state.centre or self._site not in sites:
            return None
        return state.centre * np.asarray(sites[self._site])

    @property
    def _alias(self) -> str:
        return "common" if self.main else ""

    def parameters(self, state: MissingState, scale: Scale) -> dict[str, Parameter]:
        prior = priors.Normal(0.0, 2.5 * scale.sd / state.sd)
        return {self._site: Parameter(prior, alias=self._alias)}

    def _coefficient(
        self, state: MissingState, priors_: Mapping[str, Prior], scale: Scale
    ) -> Array:
        return sites.parameter(self._site, priors_[self._site], start=0.0, unit=scale.sd / state.sd)

    def eta(self, run: Run[MissingState]) -> Float[Array, "n"]:
        """Sample beta and return eta, with missing values at the mean of the column."""
        value = run.design.arrays["value"]
        return self._coefficient(run.state, run.priors, run.scale) * (value - run.state.centre)

    def sample_given(self, run: Run[MissingState]) -> Curve:
        beta, centre = self._coefficient(run.state, run.priors, run.scale), run.state.centre
        return lambda completed, rows: beta * (completed[self.column] - centre)

    def linear_block(self, run: Run[MissingState]) -> LinearBlock:
        """The block of `eta`, in which missing values are at the mean of the column.

        It is an approximation, so `structure` does not return it as part of the model.
        """
        prior = run.priors[self._site]
        normal = isinstance(prior, priors.Normal)
        return LinearBlock(
            run.design.arrays["value"][:, None] - run.state.centre,
            None,
            1,
            np.array([prior.mu if isinstance(prior, priors.Normal) else 0.0]),
            np.array([prior.sigma if isinstance(prior, priors.Normal) else np.inf]),
            normal or isinstance(prior, priors.Flat),
            ((self._site, 1),),
            ((),),
        )

    def equation(self, state: MissingState) -> Summand:
        name = f"{self.prefix}{self.column}"
        return Summand(("β", Sub(name), f" {self.column}", Sub("i")))

    def variables(self, state: MissingState) -> dict[str, Variable]:
        return {self._site: Variable()}
