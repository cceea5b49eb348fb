"""Base class of response distributions: `Family`.

A family is the distribution of the response y_i given its parameters. Each parameter theta has a
link function g and may have a linear predictor eta of its own: g(theta_i) = eta_i. The first
parameter is the location; the first part of a formula is its predictor.

To add a family, write a subclass in a file of its own under ``families/`` and register it in
``registry.FAMILIES``. The subclass states its `parameters` and implements the abstract methods.
It overrides `given` where the inverse-linked parameters lose digits, and `natural` or
`row_density` where the derivatives of the log density are known in closed form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Moments, Scale
from ranef.errors import DataError, OptionError
from ranef.families.exponential_family import ExponentialFamilyRows
from ranef.families.level_shifts import Codes, Levels, climbed
from ranef.families.links import INVERSE_LINKS, LINKS
from ranef.families.parameters import Component, FamilyParameter
from ranef.families.response_design import NormalResponse, ResponseDesign
from ranef.families.row_density import PerRow, RowDensity
from ranef.families.state import FamilyState, Measures, ResponseScan
from ranef.families.thinned_rows import ThinnedRows
from ranef.formula import transforms
from ranef.formula.equation import Line, Sub
from ranef.formula.expression import Expression, Operation, Sum
from ranef.formula.response import ResponseCall
from ranef.lazy import Array, ArrayLike, dist, jax, jnp
from ranef.priors import Prior

# Smallest size of a response, max(|location|, sd), unless it is zero: the squares of smaller
# numbers lose digits or underflow to zero.
_LEAST_SQUARED = 1e-140

# Largest absolute value of a response or companion; its inverse is the smallest companion. Squares
# and ratios of numbers between these limits stay within double precision.
_FARTHEST = 1e151

# Largest count. Double precision cannot distinguish neighbouring whole numbers above 2**53.
_MOST_COUNTED = 2.0**53

# Smallest working weight where the log density is not concave. It keeps the steps of the solver
# finite for rows whose log density is flat in the predictor.
_LEAST_WEIGHT = 1e-12


class Family(ABC):
    """Distribution of the response given its parameters, the first of which is the location.

    Attributes:
        name: registered name, as in `Model(..., family="gaussian")` and in files.
        parameters: parameters of the distribution, the location first.
        forms: forms of the left side that the family accepts, as in `ResponseDesign.form`.
        curvature: what `working_weights` returns for the location: "observed" (minus the second
            derivative of the log density, which is concave in the predictor), "expected" (Fisher
            information) or "em" (information of the complete data), where the log density need
            not be concave.
        text: whether the response may be a column of texts.
        discrete: whether the response takes whole numbers only.
        intercept: whether the predictor of the location may have an intercept.
        categorised: whether the parameters depend on the categories of the response.
        quadratic: whether the log density is quadratic in the predictor of the location.
        dispersion: name of the parameter at a limit of which the density concentrates on the
            location, such as sigma at 0; "" for none.
        unbounded_at: a value such that the likelihood has no maximum if every response equals
            it; None for none.
        on_scale: whether the response or its logarithm is on the scale of the location's
            predictor, so that a known part of that predictor, such as an offset, can be removed
            from the response.
    """

    name: ClassVar[str]
    parameters: tuple[FamilyParameter, ...]
    forms: ClassVar[tuple[str, ...]] = ("plain",)
    curvature: ClassVar[str] = "observed"
    text: ClassVar[bool] = False
    discrete: ClassVar[bool] = False
    intercept: ClassVar[bool] = True
    categorised: ClassVar[bool] = False
    quadratic: ClassVar[bool] = False
    on_scale: ClassVar[bool] = False
    dispersion: ClassVar[str] = ""
    unbounded_at: ClassVar[float | None] = None

    def __init__(self, response: ResponseCall) -> None:
        self.response = response
        if response.form not in self.forms:
            if self.forms == ("trials",):
                raise OptionError(
                    f"the family {self.name} takes a response of the form successes / trials, not "
                    f"{response}"
                )
            what = "successes / trials" if response.form == "trials" else f"{response.form}()"
            hint = "; use family='binomial'" if response.form == "trials" else ""
            raise OptionError(f"the family {self.name} has no response of the form {what}{hint}")

    def bind(self, state: FamilyState) -> Family:
        """The family with the parameters that follow from the categories of its response.

        Families whose parameters do not depend on categories return themselves.
        """
        return self

    def signature(self) -> Hashable:
        """Key of the log density: families with equal signatures share compiled programs."""
        return type(self), tuple((p.name, p.link, p.labels) for p in self.parameters)

    def free_parameters(self) -> tuple[FamilyParameter, ...]:
        """The parameters that are not given by the data, as sigma is by se(y, s)."""
        return self.parameters

    def dispersions(self) -> tuple[str, ...]:
        """Names of the free dispersion parameters; a mixture may have several."""
        free = {parameter.name for parameter in self.free_parameters()}
        return (self.dispersion,) if self.dispersion in free else ()

    def located(self, response: ResponseDesign) -> PerRow:
        """The response on the scale of the location's predictor, by the location's link.

        Callers use it only for families with a dispersion parameter.
        """
        value, link = np.asarray(response.value), self.parameters[0].link
        if link == "identity":
            return value
        with jax.enable_x64(True):
            return np.asarray(LINKS[link](jnp.asarray(value)))

    def expressions(self) -> tuple[Expression, ...]:
        """The expressions on the left side of the formula: the response and its companion."""
        both = (self.response.value, self.response.companion)
        return tuple(e for e in both if e is not None)

    def needs(self, *, response: bool = True, companion: bool = True) -> dict[str, str]:
        """Columns that the left side reads, and what each is used as.

        Args:
            response: whether to include the columns of the response.
            companion: whether to include the columns of its companion.

        Returns:
            column to use: for the response "category" if the family accepts texts, else
            "response", and "date" in days(); for the companion as `Expression.needs`.
        """
        own = "category" if self.text else "response"
        value, beside = self.response.value.needs(), self.response.companion
        out = {n: use if use == "date" else own for n, use in value.items()} if response else {}
        if companion and beside is not None:
            out.update(beside.needs())
        return out

    def scan(self, accumulator: ResponseScan | None, frame: Frame) -> ResponseScan:
        """The accumulator with one more batch of rows; `accumulator` is None at first."""
        seen = accumulator or ResponseScan()
        calls = transforms.stateful_calls(self.expressions())
        return replace(seen, statistics=transforms.accumulate(dict(seen.statistics), calls, frame))

    def finish(self, accumulator: ResponseScan) -> FamilyState:
        """The state after `scan` of all batches; its scale is only set by `measured`."""
        calls = transforms.stateful_calls(self.expressions())
        learned = transforms.finish(accumulator.statistics, calls)
        return FamilyState(learned, Scale(0.0, 1.0))

    def design(
        self, state: FamilyState, frame: Frame, *, known: bool = True, beside: bool = True
    ) -> ResponseDesign:
        """The response on the rows of `frame`.

        Args:
            state: the learned state.
            frame: the rows.
            known: whether to compute the response itself.
            beside: whether to compute its companion.

        Raises:
            DataError: for a response that is not a finite number or is outside the support, a
                companion that is not above zero, and numbers too large or small to be squared.
        """
        value = self.evaluated(state, frame) if known else None
        if value is not None:
            self._refuse_extreme(value, f"the response {self.response.value}", frame, least=0.0)
        companion = None
        if beside and self.response.companion is not None:
            companion = transforms.evaluate_single(self.response.companion, frame, state.learned)
            if (companion <= 0).any():
                row = frame.row_number(int(np.argmin(companion)))
                raise DataError(
                    f"{self.response.companion} in {self.response.form}() must be above zero and "
                    f"is {companion.min():g} in row {row}; correct or remove such rows"
                )
            self._refuse_extreme(
                companion, str(self.response.companion), frame, least=1 / _FARTHEST
            )
        if value is not None:
            self.refuse(value, companion, frame)
        return ResponseDesign(value, companion, self.response.form)

    def _refuse_extreme(self, values: PerRow, of: str, frame: Frame, *, least: float) -> None:
        """Refuse numbers whose squares overflow or underflow, and counts above 2**53.

        Raises:
            DataError: naming the first such number and its row.
        """
        size = np.abs(values)
        counted = self.discrete or self.response.form == "trials"
        most = _MOST_COUNTED if counted else _FARTHEST
        beyond = (size > most) | (size < least)
        if beyond.any():
            place = int(np.argmax(beyond))
            said = "large" if size[place] > most else "small"
            why = "counted" if counted else "squared"
            raise DataError(
                f"{of} is {values[place]:g} in row {frame.row_number(place)}, too {said} to be "
                f"{why}; correct the row, or rescale, as in scale(y)"
            )

    def evaluated(self, state: FamilyState, frame: Frame) -> PerRow:
        """The response as numbers; of categories, their numbers."""
        return transforms.evaluate_single(self.response.value, frame, state.learned)

    def refuse(  # noqa: B027, a family may take any number
        self, value: PerRow, companion: PerRow | None, frame: Frame
    ) -> None:
        """Refuse responses outside the support.

        Args:
            value: the response.
            companion: its companion, or None.
            frame: the rows.

        Raises:
            DataError: naming the first such response, its row and what was expected.
        """

    def without(self, design: ResponseDesign, known: PerRow) -> ResponseDesign:
        """The response minus a known part of its predictor; unchanged unless `on_scale`."""
        return replace(design, value=np.asarray(design.value) - known) if self.on_scale else design

    def beside(self, state: FamilyState, known: float) -> FamilyState:
        """The state where the location's predictor has a known part (offset) of mean `known`."""
        return state

    def measure(self, accumulator: Measures | None, design: ResponseDesign) -> Measures:
        """The accumulator with the responses of one more batch; `accumulator` is None at first."""
        assert not isinstance(accumulator, ThinnedRows)
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.asarray(design.value)[:, None]
            return (accumulator or Moments()).add(value, design.weights)

    def mean_weight(self, accumulator: Measures) -> float:
        """Mean precision weight of the rows that `measure` has gathered."""
        assert isinstance(accumulator, Moments)
        return accumulator.weight / accumulator.n

    def location_and_sd(self, accumulator: Measures) -> tuple[float, float]:
        """Mean and sd of the response, or what replaces them in a family."""
        assert isinstance(accumulator, Moments)
        measures = accumulator.measures()
        return float(measures.mean[0]), float(measures.sd[0])

    def measured(self, state: FamilyState, accumulator: Measures) -> FamilyState:
        """The state with the location, sd and mean weight of the response.

        For a response that is constant up to rounding, |location| takes the place of the sd, or 1
        if the location is zero.

        Raises:
            DataError: for a response that is too large or too small to be squared.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            location, sd = self.location_and_sd(accumulator)
            weight = self.mean_weight(accumulator)
        if not np.isfinite(location + sd):
            raise DataError(
                f"the response {self.response.value} is too large to be squared; rescale it, as in "
                "scale(y)"
            )
        if 0 < max(abs(location), sd) < _LEAST_SQUARED:
            raise DataError(
                f"the response {self.response.value} is too small to be squared; rescale it, as in "
                "scale(y)"
            )
        if sd <= 1e-12 * abs(location):
            sd = abs(location) or 1.0
        return replace(state, scale=Scale(location, sd), weight=weight)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        """Location and sd for the default priors of a parameter's predictor, on the link scale."""
        if parameter.name == "sigma":
            return Scale(float(np.log(self._residual_scale(state))), 1.0)
        return state.scale if parameter.link == "identity" else Scale(0.0, 1.0)

    def default(self, state: FamilyState, parameter: FamilyParameter) -> Prior | None:
        """Default prior of a parameter without a predictor; None if it must have a predictor."""
        scale = state.scale
        if parameter.name == "sigma":
            scale = replace(scale, sd=self._residual_scale(state))
        return parameter.default and parameter.default(scale)

    def _residual_scale(self, state: FamilyState) -> float:
        """Sd of the response times the root of the mean weight: the sd of a row of weight one."""
        return state.scale.sd * float(np.sqrt(state.weight))

    def row_scale(self, state: FamilyState) -> float:
        """Rough sd of one row around its predictor, on the link scale."""
        return state.scale.sd

    def start(
        self, state: FamilyState, parameter: FamilyParameter
    ) -> float | NDArray[np.float64] | None:
        """Starting value of a parameter without a predictor; None if the family has none."""
        return self._residual_scale(state) if parameter.name == "sigma" else None

    def on_own_scale(self, **predictors: Array) -> dict[str, Array]:
        """Parameters from predictors, by the inverse links."""
        links = {p.name: p.link for p in self.parameters}
        return {name: INVERSE_LINKS[links[name]](eta) for name, eta in predictors.items()}

    def values_on_own_scale(
        self, predictors: Mapping[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """`on_own_scale` for NumPy; callers enable double precision."""
        own = self.on_own_scale(**{name: jnp.asarray(eta) for name, eta in predictors.items()})
        return {name: np.asarray(value, np.float64) for name, value in own.items()}

    def on_link_scale(self, **parameters: ArrayLike) -> dict[str, Array]:
        """Predictors from parameters, by the links."""
        links = {p.name: p.link for p in self.parameters}
        return {name: LINKS[links[name]](jnp.asarray(v)) for name, v in parameters.items()}

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        """Distribution of each row's response given all parameters on their link scales.

        Args:
            response: the rows.
            **predictors: eta of each parameter, (n,), or () for one number for all rows; the
                elements of a vector-valued parameter are its last axis.
        """
        return self.distribution(response, **self.on_own_scale(**predictors))

    def log_density(self, response: ResponseDesign, **predictors: Array) -> Array:
        """Log density log p(y_i | eta_i) of each row, (n,), given `predictors` as in `given`."""
        distribution = self.given(response, **predictors)
        return jnp.asarray(distribution.log_prob(jnp.asarray(response.value)))

    def derivatives(
        self, response: ResponseDesign, name: str, **predictors: Array
    ) -> tuple[Array, Array]:
        """First and second derivatives of log p(y_i | eta_i) in the predictor of one parameter.

        Args:
            response: the rows.
            name: the parameter.
            **predictors: eta of each parameter, as in `given`.

        Returns:
            d log p / d eta and d2 log p / d eta2, (n,) each.
        """
        value = jnp.asarray(response.value)
        eta = jnp.broadcast_to(jnp.asarray(predictors[name], float), value.shape)

        def total(eta: Array) -> Array:
            return self.log_density(response, **{**predictors, name: eta}).sum()

        # The Hessian of the total is diagonal, since each row depends on its own predictor alone.
        # Its product with a vector of ones is therefore its diagonal.
        return jax.jvp(jax.grad(total), (eta,), (jnp.ones_like(eta),))

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """Working weights w_i >= 0 of one predictor, (n,), for which eta + slope / w ascends.

        For the location of a family with observed curvature, w = -d2 log p / d eta2. Otherwise
        the log density need not be concave, and w is the larger of -d2 log p / d eta2 and
        (d log p / d eta)^2. Both have the same expectation by the information equality.

        Args:
            response: the rows.
            name: the parameter.
            **predictors: eta of each parameter, as in `given`.
        """
        slope, second = self.derivatives(response, name, **predictors)
        if self.curvature != "observed" or name != self.parameters[0].name:
            return jnp.maximum(jnp.maximum(-second, slope**2), _LEAST_WEIGHT)
        return jnp.maximum(-second, 0.0)

    @abstractmethod
    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        """Distribution of each row's response, given parameters on their own scale.

        Args:
            response: the rows.
            **parameters: each parameter, (n,) or ().
        """

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        """One random response for each element of the parameters, which have a common shape.

        Families whose distribution JAX samples slowly override this with NumPy; the contract test
        compares them with `distribution`.
        """
        key = jax.random.key(int(rng.integers(2**32)))
        return np.asarray(self.distribution(response, **parameters).sample(key))

    def normal(self, response: ResponseDesign) -> NormalResponse | None:
        """The response as a `NormalResponse`; None for families other than the normal."""
        return None

    def natural(self, response: ResponseDesign) -> ExponentialFamilyRows | None:
        """The rows in the natural parameter of an exponential family, whose predictor eta is.

        Only families with one parameter return rows. None leaves the derivatives of the log
        density to `row_density` or automatic differentiation.
        """
        return None

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """The log density with derivatives in closed form.

        Args:
            response: the rows.
            predictors: names of the parameters that have predictors, in order.

        Returns:
            the density, or None if there is no closed form for these predictors; derivatives are
            then left to automatic differentiation.
        """
        return None

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Mean of the response of each row; the location where the mean need not exist."""
        return parameters[self.parameters[0].name]

    def shown(self, response: ResponseDesign) -> PerRow:
        """The responses on the scale of `mean` without a companion: successes / trials."""
        return np.asarray(response.value, np.float64)

    def probabilities(self, **parameters: Array) -> dict[str, Array]:
        """Probability of each category, by its name; empty for responses without categories."""
        return {}

    def responsibilities(self, response: ResponseDesign, **predictors: Array) -> dict[str, Array]:
        """P(component | y_i), (n,), by the component's name; empty for families without any."""
        return {}

    def parts(self) -> tuple[Component, ...]:
        """Components of a mixture, in order; empty for other families."""
        return ()

    @abstractmethod
    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Variance of the response of each row, which may be infinite."""

    @abstractmethod
    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        """The right side of "y_i ~ ..." in print.

        Args:
            symbols: the symbol of each free parameter, by its name.
        """

    def notes(self, state: FamilyState) -> tuple[str, ...]:
        """Short notes for the reader on how the response is coded."""
        return ()

    def companion(self) -> Line:
        """The companion (standard error, weight or trials) of row i in print."""
        companion = self.response.companion
        joined = isinstance(companion, (Operation, Sum))
        return (f"({companion})" if joined else str(companion), Sub("i"))

    def shifts(
        self,
        response: ResponseDesign,
        codes: Codes,
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> Levels | None:
        """Maximum likelihood estimate of a shift of the location's predictor in each level.

        The estimate for level j maximises sum_i log p(y_i | eta_i + shift_j) over the rows i of
        the level, with all predictors known.

        Args:
            response: the rows.
            codes: level of each row.
            levels: number of levels.
            **predictors: each parameter without the shift, on its link scale, (n,) or ().

        Returns:
            the estimates, NaN for a level without rows or whose likelihood has no
            maximum; None for families with several locations.
        """
        return climbed(self, response, codes, levels, predictors)

    @abstractmethod
    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """Residual variance on the scale of the location's predictor, as `share(g)` uses it.

        Args:
            state: the learned state.
            values: draws of the parameters that are one number for all rows, by name.

        Returns:
            the variance, for each draw or for all; None where the family has none.
        """
