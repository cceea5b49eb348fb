"""Zero-inflated counts: y_i is a count with probability psi_i, else 0.

Source: Lambert (1992).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families import densities, responses
from ranef.families.base import Family
from ranef.families.count_densities import ZeroInflatedDensity
from ranef.families.counts import Counts
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow, RowDensity
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.formula.response import ResponseCall
from ranef.lazy import Array, ArrayLike, dist, jax, jnp

_Value = TypeVar("_Value")

# The probability that a row is a count.
_PSI = FamilyParameter("psi", "logit", "unit", lambda scale: priors.Beta(2.0, 2.0))


class ZeroInflated(Family):
    """Zero-inflated counts: y_i is a count with probability psi_i, else 0.

    Support: y = 0, 1, 2, ...
    Links: those of the counts, logit for psi.
    Default priors: those of the counts, psi ~ Beta(2, 2).

    The mean is psi times that of the counts. psi is the probability that a row is a count, as in
    bambi; the zi of brms is 1 - psi.

    Attributes:
        counted: the class of the counts' family, which `of` sets.
        counts: the counts' family.
    """

    name = "zero_inflated"
    counted: ClassVar[type[Counts]]
    curvature = "em"
    discrete = True

    @classmethod
    def of(cls, counted: type[Counts]) -> type["ZeroInflated"]:
        """The class of zero-inflated counts of one family."""
        return _zero_inflated(counted)

    def __init__(self, response: ResponseCall) -> None:
        super().__init__(response)
        self.counts = self.counted(response)

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        responses.refuse_other_than_counts(value, frame, self.response.value, self.name)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        if parameter is _PSI:
            return super().predictor_scale(state, parameter)
        return self.counts.predictor_scale(state, parameter)

    def row_scale(self, state: FamilyState) -> float:
        return self.counts.row_scale(state)

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        logit, own = _apart(predictors)
        known = {"counts": self.counts.given(response, **own), "logit": logit}
        return densities.RowDistribution(distribution, densities.zero_inflated, known)

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """Expected information of the complete data, as in EM.

        The complete data say in addition whether each row is a count. The weights are psi (1 - psi)
        for psi, and for mu P(count | y) times the information of a count. Source: Lambert (1992),
        section 3.
        """
        logit, own = _apart(predictors)
        if name == "psi":
            psi = jax.nn.sigmoid(logit)
            return jnp.broadcast_to(psi * (1 - psi), jnp.shape(response.value))
        if name != self.parameters[0].name:
            return super().working_weights(response, name, **predictors)
        log_zero = self.counts.given(response, **own).log_zero()
        count = densities.from_count(jnp.asarray(response.value), log_zero, logit)
        return count * self.counts.working_weights(response, name, **own)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu has a predictor, and psi either has one or is one number."""
        if list(predictors) not in (["mu"], ["mu", "psi"]):
            return None
        counts = self.counts.count_density(response.value)
        return ZeroInflatedDensity.of(counts, "psi" in predictors)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        psi, own = _apart(parameters)
        return dist.ZeroInflatedDistribution(
            self.counts.distribution(response, **own), gate=1 - psi
        )

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        psi, own = _apart(parameters)
        counts = self.counts.sample(rng, response, **own)
        return np.where(rng.random(counts.shape) < np.asarray(psi), counts, 0.0)

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        psi, own = _apart(parameters)
        return psi * self.counts.mean(response, **own)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """The variance psi (v + (1 - psi) m^2), with m and v those of the counts."""
        psi, own = _apart(parameters)
        mean, variance = self.counts.mean(response, **own), self.counts.variance(response, **own)
        return psi * (variance + (1 - psi) * mean**2)

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        """The counts' equation with psi before its parameters, as "ZeroInflatedPoisson(ψ, μ)"."""
        psi, own = _apart(symbols)
        opening, *rest = self.counts.distribution_equation(own)
        return (f"ZeroInflated{opening}", *psi, ", ", *rest)

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """None: the excess zeros have no variance on the scale of the predictor."""
        return None


def _apart(values: Mapping[str, _Value]) -> tuple[_Value, dict[str, _Value]]:
    """The value of psi, and those of the parameters of the counts."""
    own = dict(values)
    return own.pop("psi"), own


@cache
def _zero_inflated(counted: type[Counts]) -> type[ZeroInflated]:
    """`ZeroInflated.of`, cached so that the counts of one family have one class."""
    content = {
        "__doc__": ZeroInflated.__doc__,
        "name": f"{ZeroInflated.name}_{counted.name}",
        "counted": counted,
        "parameters": (*counted.parameters, _PSI),
        "forms": counted.forms,
    }
    return type("ZeroInflated", (ZeroInflated,), content)
