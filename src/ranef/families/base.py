"""What a response distribution is: `Family`, its `Parameter`s, links, and the response's design.

How to add one: a class with `parameters` and `distribution` in a file of its own under
``families/``, and a line in ``registry.FAMILIES``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

from ranef import transforms
from ranef.equation import Line, Sub
from ranef.errors import DataError, OptionError
from ranef.expression import Expression
from ranef.formula import ResponseCall
from ranef.frame import Frame
from ranef.moments import Moments, Scale
from ranef.priors import Prior

# A response below this loses its digits, or all of itself, when it is squared.
_LEAST_SQUARED = 1e-140

_GREEK = {"mu": "μ", "sigma": "σ", "nu": "ν"}

# Link to its inverse: the predictor eta to the parameter.
INVERSE_LINKS: dict[str, Callable[[Any], Any]] = {"identity": lambda eta: eta, "log": jnp.exp}


@partial(jax.tree_util.register_dataclass, data_fields=["value", "companion"], meta_fields=["form"])
@dataclass(frozen=True)
class ResponseDesign:
    """The response on each row, and what the left side names beside it.

    Attributes:
        value: (n,) the response; None where it is not known, as for new rows.
        companion: (n,) standard errors or weights, or None.
        form: "plain", "se" or "weights".
    """

    value: Any
    companion: Any = None
    form: str = "plain"


@dataclass(frozen=True)
class FamilyParameter:
    """A parameter of the distribution.

    Attributes:
        name: as in the formula, `sigma ~ x`.
        link: name in `INVERSE_LINKS` of the link of its predictor.
        support: where it lives when it is one number for all rows.
        default: the prior of that number, given the scale of the response.
    """

    name: str
    link: str
    support: str
    default: Callable[[Scale], Prior] | None = None

    @property
    def symbol(self) -> str:
        return _GREEK.get(self.name, self.name)


@dataclass(frozen=True)
class State:
    """What was learned of the response: numbers of its transforms, and its scale."""

    learned: transforms.Learned
    scale: Scale


@dataclass(frozen=True)
class Normal:
    """A response that is normal around its predictor: y_i ~ N(eta_i, sigma^2 / w_i).

    Attributes:
        value: (n,) the response.
        weights: (n,) w, or None where they are all one.
        sigma: the name of the residual sd; "" where it is known to be one.
    """

    value: NDArray[np.float64]
    weights: NDArray[np.float64] | None
    sigma: str

    def keep(self, places: NDArray[Any]) -> "Normal":
        """Some of the rows."""
        weights = None if self.weights is None else self.weights[places]
        return Normal(self.value[places], weights, self.sigma)


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
    """A distribution of the response given its parameters, the first being the location."""

    name: ClassVar[str]
    parameters: ClassVar[tuple[FamilyParameter, ...]]
    forms: ClassVar[tuple[str, ...]] = ("plain",)

    def __init__(self, response: ResponseCall) -> None:
        self.response = response
        if response.form not in self.forms:
            what = "successes / trials" if response.form == "trials" else f"{response.form}()"
            raise OptionError(f"the family {self.name} has no response of the form {what}")

    def free_parameters(self) -> tuple[FamilyParameter, ...]:
        """The parameters that are not known from the data."""
        return self.parameters

    def expressions(self) -> tuple[Expression, ...]:
        both = (self.response.value, self.response.companion)
        return tuple(e for e in both if e is not None)

    def needs(self, *, response: bool = True, companion: bool = True) -> dict[str, str]:
        """Columns it reads: "response" for the response itself, "number" beside it."""
        out = dict.fromkeys(self.response.value.columns(), "response") if response else {}
        if companion and self.response.companion is not None:
            out.update(dict.fromkeys(self.response.companion.columns(), "number"))
        return out

    def scan(self, accumulator: Any, frame: Frame) -> Any:
        calls = transforms.stateful_calls(self.expressions())
        return transforms.accumulate(accumulator, calls, frame)

    def finish(self, accumulator: Any) -> State:
        calls = transforms.stateful_calls(self.expressions())
        return State(transforms.finish(accumulator, calls), Scale(0.0, 1.0))

    def design(
        self, state: State, frame: Frame, *, known: bool = True, beside: bool = True
    ) -> ResponseDesign:
        """The response on the rows of `frame`, its value if `known`, its companion if `beside`.

        Raises:
            DataError: for a response that is not a finite number, or a companion below zero.
        """
        value = (
            transforms.evaluate_single(self.response.value, frame, state.learned) if known else None
        )
        companion = None
        if beside and self.response.companion is not None:
            companion = transforms.evaluate_single(self.response.companion, frame, state.learned)
            if (companion <= 0).any():
                row = frame.row_number(int(np.argmin(companion)))
                raise DataError(
                    f"{self.response.companion} in {self.response.form}() must be above zero and "
                    f"is {companion.min():g} in row {row}; correct or remove such rows"
                )
        return ResponseDesign(value, companion, self.response.form)

    def measure(self, accumulator: Any, design: ResponseDesign) -> Any:
        """Take in the responses of one batch; `accumulator` is None at first."""
        with np.errstate(over="ignore", invalid="ignore"):
            return (accumulator or Moments()).add(np.asarray(design.value)[:, None])

    def location_and_spread(self, accumulator: Any) -> tuple[float, float]:
        """Mean and sd of the response, or what stands for them in this family."""
        measures = accumulator.measures()
        return float(measures.mean[0]), float(measures.sd[0])

    def measured(self, state: State, accumulator: Any) -> State:
        """The state with the response's scale. A constant response counts by its size."""
        with np.errstate(over="ignore", invalid="ignore"):
            location, spread = self.location_and_spread(accumulator)
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
        return State(state.learned, Scale(location, spread))

    def predictor_scale(self, state: State, parameter: FamilyParameter) -> Scale:
        """Where the predictor of a parameter lies, on its link's scale."""
        if parameter.link == "log":
            return Scale(float(np.log(state.scale.spread)), 1.0)
        return state.scale

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

    def normal(self, response: ResponseDesign) -> Normal | None:
        """The response as a normal one, where the family is; None where it is not."""
        return None

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Its mean (the location, for a family without one)."""
        return parameters[self.parameters[0].name]

    @abstractmethod
    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Its variance, infinite where it is."""

    @abstractmethod
    def law(self, symbols: Mapping[str, Line]) -> Line:
        """What follows "y_i ~" on paper; `symbols` holds each free parameter's."""

    def companion(self) -> Line:
        """The standard error or weight of row i on paper."""
        return (str(self.response.companion), Sub("i"))

    def shifts(
        self,
        response: ResponseDesign,
        codes: NDArray[np.int32],
        levels: int,
        **parameters: NDArray[np.float64],
    ) -> NDArray[np.float64] | None:
        """Maximum-likelihood shift of the location within each level, all levels at once.

        Args:
            response: the rows.
            codes: (n,) level of each row.
            levels: how many there are.
            parameters: each parameter without the shift, (n,) or ().

        Returns:
            (levels,), or None for a family that does not say; NaN for a level without rows.
        """
        return None

    @abstractmethod
    def residual(self, values: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """The residual's share of variance by draw, on the scale of the predictor, or None."""
