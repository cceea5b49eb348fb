"""What a response distribution is: `Family`, its `Parameter`s, links, and the response's design.

How to add one: a class with `parameters` and `distribution` in a file of its own under
``families/``, and a line in ``registry.FAMILIES``. Where `distribution` of inverse-linked
parameters loses digits, `given` is written too; where the derivatives of the log density are known
in closed form, `natural` or `row_density` may give them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Moments, Scale
from ranef.errors import DataError, OptionError
from ranef.families.exponential_family import ExponentialFamilyRows
from ranef.families.links import INVERSE_LINKS, LINKS
from ranef.families.row_density import RowDensity
from ranef.formula import transforms
from ranef.formula.equation import Line, Sub
from ranef.formula.expression import Expression, Operation, Sum
from ranef.formula.formula import ResponseCall
from ranef.lazy import Array, dist, jax, jnp, pytree
from ranef.priors import Prior

# A response below this loses its digits, or all of itself, when it is squared.
_LEAST_SQUARED = 1e-140

# Numbers from 1 / this to this can be squared, and be divided by one another once.
_FARTHEST = 1e151
# Whole numbers beyond 2**53 are not told from their neighbours.
_MOST_COUNTED = 2.0**53

_GREEK = {
    **{"mu": "μ", "sigma": "σ", "nu": "ν"},
    **{"alpha": "α", "kappa": "κ", "psi": "ψ", "threshold": "τ"},
}

# The smallest working weight where the density is not concave: a row that says nothing of its
# predictor must not make a step of the solver infinite.
_LEAST_WEIGHT = 1e-12

# Newton steps and halvings of them; a level without a maximum takes as many as there are.
_CLIMB = 100


@pytree(data=["value", "companion"], meta=["form"])
@dataclass(frozen=True)
class ResponseDesign:
    """The response on each row, and what the left side names beside it.

    Attributes:
        value: (n,) the response; None where it is not known, as for new rows.
        companion: (n,) standard errors, weights or trials, or None.
        form: "plain", "se", "weights" or "trials".
    """

    value: Any
    companion: Any = None
    form: str = "plain"

    @property
    def weights(self) -> NDArray[np.float64] | None:
        """(n,) how many rows of weight one, or single trials, each stands for; None for one."""
        counted = self.form in ("weights", "trials") and self.companion is not None
        return np.asarray(self.companion, np.float64) if counted else None


@dataclass(frozen=True)
class FamilyParameter:
    """A parameter of the distribution.

    Attributes:
        name: as in the formula, `sigma ~ x`.
        link: name in `LINKS` of the link of its predictor.
        support: where it lives when it is one number for all rows.
        default: the prior of that number, given the scale of the response.
        labels: of its elements, for one that is a vector; it has no predictor then, and its
            elements are its last axis.
        predicted: whether the formula's first part is about it; the location always is.
        stem: the name under which a formula has it together with those of other components.
        implied: whether it has a predictor, an intercept, where the formula has none.
    """

    name: str
    link: str
    support: str
    default: Callable[[Scale], Prior] | None = None
    labels: tuple[str, ...] = ()
    predicted: bool = False
    stem: str = ""
    implied: bool = False

    @property
    def symbol(self) -> str:
        stem = self.stem or self.name
        return _GREEK.get(stem, stem) + self.name.removeprefix(stem)


@dataclass(frozen=True)
class Component:
    """A component of a response of several kinds.

    Attributes:
        kind: the name of its family.
        parameters: its parameters, by stem.
        share: the parameter that is its log odds against the first component; "" for that one.
    """

    kind: str
    parameters: Mapping[str, str]
    share: str


@dataclass(frozen=True)
class FamilyState:
    """What was learned of the response.

    Attributes:
        learned: numbers of its transforms.
        scale: where it lies and how far it spreads, or what stands for that in this family.
        categories: in order, of a family that has them; of texts, the levels.
        shares: of the rows that each category has.
        weight: the mean precision weight of a row.
    """

    learned: transforms.Learned
    scale: Scale
    categories: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class NormalResponse:
    """A response that is normal around its predictor: y_i ~ N(eta_i, sigma^2 / w_i).

    Attributes:
        value: (n,) the response.
        weights: (n,) w, or None where they are all one.
        sigma: the name of the residual sd; "" where it is known to be one.
    """

    value: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    sigma: str

    def keep(self, places: NDArray[Any]) -> NormalResponse:
        """Some of the rows."""
        weights = None if self.weights is None else self.weights[places]
        return NormalResponse(self.value[places], weights, self.sigma)


def weighted_means(
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    codes: NDArray[np.int32],
    levels: int,
) -> NDArray[np.float64]:
    """(levels,) weighted mean of each level's rows, NaN for a level without any."""
    total = np.bincount(codes, weights, levels)
    sums = np.bincount(codes, weights * values, levels)
    return np.divide(sums, total, out=np.full(levels, np.nan), where=total > 0)


class Family(ABC):
    """A distribution of the response given its parameters, the first being the location.

    Attributes:
        name: in formulas and files.
        parameters: of the distribution.
        forms: of the left side that it takes.
        curvature: what `working_weights` of the location are: "observed", where the log density
            is concave in the predictor; "expected" (Fisher's information) or "em" (of the
            complete data) where it is not everywhere.
        text: whether the response may be texts.
        discrete: whether it takes whole numbers only.
        intercept: whether the location's predictor may have one.
        categorised: whether the parameters depend on the categories of the response.
        quadratic: whether the log density is quadratic in the location's predictor.
        dispersion: the parameter at a limit of which the density collapses onto the location,
            "" for none.
        unbounded_at: the value that, in every row, the likelihood of no location is the largest
            for; None for none.
        on_scale: whether the response, or its logarithm, lies on the scale of the location's
            predictor.
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
            raise OptionError(f"the family {self.name} has no response of the form {what}")

    def bind(self, state: FamilyState) -> Family:
        """The family once its response is known: its parameters may depend on categories."""
        return self

    def signature(self) -> Hashable:
        """What its log density depends on; families with equal ones share compiled programs."""
        return type(self), tuple((p.name, p.link, p.labels) for p in self.parameters)

    def free_parameters(self) -> tuple[FamilyParameter, ...]:
        """The parameters that are not known from the data."""
        return self.parameters

    def dispersions(self) -> tuple[str, ...]:
        """The names of its free dispersions; a mixture may have several."""
        free = {parameter.name for parameter in self.free_parameters()}
        return (self.dispersion,) if self.dispersion in free else ()

    def located(self, response: ResponseDesign) -> NDArray[np.float64]:
        """(n,) the response on the scale of the location's predictor.

        Asked for only where the family has a dispersion.
        """
        value, link = np.asarray(response.value), self.parameters[0].link
        if link == "identity":
            return value
        with jax.enable_x64(True):
            return np.asarray(LINKS[link](value))

    def expressions(self) -> tuple[Expression, ...]:
        both = (self.response.value, self.response.companion)
        return tuple(e for e in both if e is not None)

    def needs(self, *, response: bool = True, companion: bool = True) -> dict[str, str]:
        """Columns it reads: "response" or "category" for the response, "number" beside it."""
        use = "category" if self.text else "response"
        out = dict.fromkeys(self.response.value.columns(), use) if response else {}
        if companion and self.response.companion is not None:
            out.update(dict.fromkeys(self.response.companion.columns(), "number"))
        return out

    def scan(self, accumulator: Any, frame: Frame) -> Any:
        calls = transforms.stateful_calls(self.expressions())
        return transforms.accumulate(accumulator, calls, frame)

    def finish(self, accumulator: Any) -> FamilyState:
        calls = transforms.stateful_calls(self.expressions())
        return FamilyState(transforms.finish(accumulator, calls), Scale(0.0, 1.0))

    def design(
        self, state: FamilyState, frame: Frame, *, known: bool = True, beside: bool = True
    ) -> ResponseDesign:
        """The response on the rows of `frame`, its value if `known`, its companion if `beside`.

        Raises:
            DataError: for a response that is not a finite number or outside the support, or a
                companion that is not above zero.
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

    def _refuse_extreme(
        self, values: NDArray[np.float64], of: str, frame: Frame, *, least: float
    ) -> None:
        """Refuse numbers that cannot be squared, and counts that have no neighbour.

        Raises:
            DataError: naming the first of them and its row.
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

    def evaluated(self, state: FamilyState, frame: Frame) -> NDArray[np.float64]:
        """(n,) the response as numbers."""
        return transforms.evaluate_single(self.response.value, frame, state.learned)

    def refuse(  # noqa: B027, a family may take any number
        self, value: NDArray[np.float64], companion: NDArray[np.float64] | None, frame: Frame
    ) -> None:
        """Refuse responses outside the support.

        Raises:
            DataError: naming the first of them, its row and what was expected.
        """

    def without(self, design: ResponseDesign, known: NDArray[np.float64]) -> ResponseDesign:
        """The response less a known part of its predictor (n,), where it is `on_scale`."""
        return replace(design, value=np.asarray(design.value) - known) if self.on_scale else design

    def beside(self, state: FamilyState, known: float) -> FamilyState:
        """The state of a response whose predictor has a known part with this mean."""
        return state

    def measure(self, accumulator: Any, design: ResponseDesign) -> Any:
        """Take in the responses of one batch; `accumulator` is None at first."""
        with np.errstate(over="ignore", invalid="ignore"):
            value = np.asarray(design.value)[:, None]
            return (accumulator or Moments()).add(value, design.weights)

    def mean_weight(self, accumulator: Any) -> float:
        """The mean precision weight of the rows."""
        return accumulator.weight / accumulator.n

    def location_and_sd(self, accumulator: Any) -> tuple[float, float]:
        """Mean and sd of the response, or what stands for them in this family."""
        measures = accumulator.measures()
        return float(measures.mean[0]), float(measures.sd[0])

    def measured(self, state: FamilyState, accumulator: Any) -> FamilyState:
        """The state with the response's scale. A constant response counts by its size."""
        with np.errstate(over="ignore", invalid="ignore"):
            location, spread = self.location_and_sd(accumulator)
            weight = self.mean_weight(accumulator)
        if not np.isfinite(location + spread):
            raise DataError(
                f"the response {self.response.value} is too large to be squared; rescale it, as in "
                "scale(y)"
            )
        if 0 < max(abs(location), spread) < _LEAST_SQUARED:
            raise DataError(
                f"the response {self.response.value} is too small to be squared; rescale it, as in "
                "scale(y)"
            )
        if spread <= 1e-12 * abs(location):
            spread = abs(location) or 1.0
        return replace(state, scale=Scale(location, spread), weight=weight)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        """Where the predictor of a parameter lies, on its link's scale."""
        if parameter.name == "sigma":
            return Scale(float(np.log(self._residual_scale(state))), 1.0)
        return state.scale if parameter.link == "identity" else Scale(0.0, 1.0)

    def default(self, state: FamilyState, parameter: FamilyParameter) -> Prior | None:
        """The prior of a parameter without a predictor; None for one that must have one."""
        scale = state.scale
        if parameter.name == "sigma":
            scale = replace(scale, sd=self._residual_scale(state))
        return parameter.default and parameter.default(scale)

    def _residual_scale(self, state: FamilyState) -> float:
        """The sd of a row of weight one that has the spread of the response."""
        return state.scale.sd * float(np.sqrt(state.weight))

    def row_scale(self, state: FamilyState) -> float:
        """The spread of one row about its predictor, on the link's scale, roughly."""
        return state.scale.sd

    def start(self, state: FamilyState, parameter: FamilyParameter) -> Any:
        """Where a search for a parameter without a predictor begins; None leaves it open."""
        return self._residual_scale(state) if parameter.name == "sigma" else None

    def on_own_scale(self, **predictors: Any) -> dict[str, Any]:
        """Each parameter by the inverse of its link."""
        links = {p.name: p.link for p in self.parameters}
        return {name: INVERSE_LINKS[links[name]](eta) for name, eta in predictors.items()}

    def on_link_scale(self, **parameters: Any) -> dict[str, Any]:
        """Each parameter by its link."""
        links = {p.name: p.link for p in self.parameters}
        return {name: LINKS[links[name]](value) for name, value in parameters.items()}

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        """The distribution of each row's response given every parameter on its link's scale.

        Args:
            response: the rows.
            predictors: eta of each parameter, (n,), or () for one number for all rows.
        """
        return self.distribution(response, **self.on_own_scale(**predictors))

    def log_density(self, response: ResponseDesign, **predictors: Any) -> Array:
        """Log p(y_i | eta_i), (n,)."""
        law = self.given(response, **predictors)
        return jnp.asarray(law.log_prob(jnp.asarray(response.value)))

    def derivatives(
        self, response: ResponseDesign, name: str, **predictors: Any
    ) -> tuple[Array, Array]:
        """D log p / d eta and d2 log p / d eta2 of the predictor of one parameter, both (n,)."""
        value = jnp.asarray(response.value)
        eta = jnp.broadcast_to(jnp.asarray(predictors[name], float), value.shape)

        def total(eta: Array) -> Array:
            return self.log_density(response, **{**predictors, name: eta}).sum()

        # Each row's density depends on its own predictor alone.
        return jax.jvp(jax.grad(total), (eta,), (jnp.ones_like(eta),))

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Any) -> Array:
        """Weights w_i >= 0 such that eta + slope / w is a step towards the maximum, (n,).

        -d2 log p / d eta2 where the density is concave in eta. In a parameter other than the
        location it need not be: where it is not, and where the squared slope is larger, that
        stands in, whose mean is the same by the information equality.
        """
        slope, second = self.derivatives(response, name, **predictors)
        if self.curvature != "observed" or name != self.parameters[0].name:
            return jnp.maximum(jnp.maximum(-second, slope**2), _LEAST_WEIGHT)
        return jnp.maximum(-second, 0.0)

    @abstractmethod
    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        """The distribution of each row's response."""

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        """One response for each element of the parameters, which have one shape.

        A family whose distribution JAX samples slowly may draw with NumPy instead; the
        contract test holds it to `distribution`.
        """
        key = jax.random.key(int(rng.integers(2**32)))
        return np.asarray(self.distribution(response, **parameters).sample(key))

    def normal(self, response: ResponseDesign) -> NormalResponse | None:
        """The response as a normal one, where the family is; None where it is not."""
        return None

    def natural(self, response: ResponseDesign) -> ExponentialFamilyRows | None:
        """The response in its natural parameter, where that is its only one and has the predictor.

        None leaves the derivatives of the log density to automatic differentiation.
        """
        return None

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """The log density with derivatives in closed form, where these parameters have predictors.

        None leaves the derivatives of the log density to automatic differentiation.
        """
        return None

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Its mean (the location, for a family without one)."""
        return parameters[self.parameters[0].name]

    def shown(self, response: ResponseDesign) -> NDArray[np.float64]:
        """(n,) the responses on the scale of a mean that knows no companion."""
        return np.asarray(response.value, np.float64)

    def probabilities(self, **parameters: Array) -> dict[str, Array]:
        """The probability of each category by its name; none for other responses."""
        return {}

    def responsibilities(self, response: ResponseDesign, **predictors: Any) -> dict[str, Array]:
        """P(component | y_i) by the component's name, (n,); none for a family without any."""
        return {}

    def parts(self) -> tuple[Component, ...]:
        """The components that a response may come from, in order; none for most families."""
        return ()

    @abstractmethod
    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Its variance, infinite where it is."""

    @abstractmethod
    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        """What follows "y_i ~" on paper; `symbols` holds each free parameter's."""

    def notes(self, state: FamilyState) -> tuple[str, ...]:
        """What a reader must know of how the response is coded, in a few words each."""
        return ()

    def companion(self) -> Line:
        """The standard error or weight of row i on paper."""
        companion = self.response.companion
        joined = isinstance(companion, (Operation, Sum))
        return (f"({companion})" if joined else str(companion), Sub("i"))

    def shifts(
        self,
        response: ResponseDesign,
        codes: NDArray[np.int32],
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> NDArray[np.float64] | None:
        """Maximum-likelihood shift of the location's predictor within each level.

        Args:
            response: the rows.
            codes: (n,) level of each row.
            levels: how many there are.
            predictors: each parameter without the shift, on its link's scale, (n,) or ().

        Returns:
            (levels,), or None for a family that does not say; NaN for a level without rows, or
            whose likelihood rises without end.
        """
        return climbed(self, response, codes, levels, predictors)

    @abstractmethod
    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """The residual's variance by draw on the scale of the predictor, or None."""


def climbed(
    family: Family,
    response: ResponseDesign,
    codes: NDArray[np.int32],
    levels: int,
    predictors: Mapping[str, Any],
) -> NDArray[np.float64]:
    """`Family.shifts` by damped Newton steps, all levels at once."""
    name = family.parameters[0].name
    eta = np.asarray(predictors[name], np.float64)
    with jax.enable_x64(True):
        known = {own: jnp.asarray(value, float) for own, value in predictors.items()}

    @jax.jit
    def slopes(shift: Array) -> tuple[Array, Array, Array]:
        here = {**known, name: eta + shift[codes]}
        slope, _ = family.derivatives(response, name, **here)
        weight = family.working_weights(response, name, **here)
        return family.log_density(response, **here), slope, weight

    def sums(values: Any) -> NDArray[np.float64]:
        return np.asarray(np.bincount(codes, np.asarray(values), levels), np.float64)

    shift, step = np.zeros(levels), np.zeros(levels)
    best, settled = np.full(levels, -np.inf), np.zeros(levels, bool)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        for _ in range(_CLIMB):
            density, slope, weight = (sums(each) for each in slopes(jnp.asarray(shift + step)))
            better = density >= best
            shift, best = np.where(better, shift + step, shift), np.where(better, density, best)
            step = np.where(better, slope / np.maximum(weight, 1e-300), step / 2)
            settled = np.abs(step) < 1e-6 * (1.0 + np.abs(shift))
            if settled.all():
                break
    return np.where((np.bincount(codes, minlength=levels) > 0) & settled, shift, np.nan)
