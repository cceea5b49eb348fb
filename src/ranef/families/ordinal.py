"""Responses in an order: P(y <= k) = logit^-1(threshold_k - mu)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ranef import priors
from ranef.data.moments import Scale
from ranef.families import densities
from ranef.families.base import FamilyParameter, FamilyState, ResponseDesign
from ranef.families.categories import Categories
from ranef.families.category_densities import OrdinalDensity
from ranef.families.row_density import RowDensity
from ranef.formula.equation import Line
from ranef.lazy import Array, dist, jax, jnp
from ranef.priors import Prior

# The prior sd of a threshold about the logit of the share of the rows below it.
_WIDTH = 2.5


class Ordinal(Categories):
    """P(y_i <= k) = logit^-1(threshold_k - mu_i), mu_i = eta_i, for categories 1, ..., K.

    Categories are whole numbers, or texts in the order that the column declares, else sorted, as
    training has them. The predictor
    has no intercept, which the thresholds are; they increase, and by default each has the prior
    Normal(l_k, 2.5) at the means of the predictors, l_k being the logit of the share of the rows
    in categories 1 to k. Source: McCullagh (1980).
    """

    name = "ordinal"
    intercept = False

    def finish(self, accumulator: Any) -> FamilyState:
        return self.counted(accumulator, least=2)

    def bind(self, state: FamilyState) -> "Ordinal":
        out = Ordinal(self.response)
        labels = tuple(str(k) for k in range(1, len(state.categories)))
        threshold = FamilyParameter(
            "threshold", "identity", "ordered", lambda scale: priors.Normal(0.0, _WIDTH), labels
        )
        out.parameters = (FamilyParameter("mu", "identity", "real"), threshold)
        out.categories = state.categories
        return out

    parameters = (FamilyParameter("mu", "identity", "real"),)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        return Scale(0.0, 1.0)

    def start(self, state: FamilyState, parameter: FamilyParameter) -> Any:
        """The thresholds that give each category its share of the rows."""
        below = np.clip(np.cumsum(state.shares)[:-1], 1e-6, 1 - 1e-6)
        return state.scale.location + np.log(below / (1 - below))

    def default(self, state: FamilyState, parameter: FamilyParameter) -> Prior | None:
        if parameter.support != "ordered":
            return super().default(state, parameter)
        start = self.start(state, parameter)
        return priors.Normal(tuple(map(float, start)), _WIDTH)

    def beside(self, state: FamilyState, known: float) -> FamilyState:
        return replace(state, scale=Scale(known, 1.0))

    def row_scale(self, state: FamilyState) -> float:
        """The sd of a logistic variable."""
        return float(np.pi / np.sqrt(3))

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        law = self.distribution(response, **predictors)
        known = {"location": predictors["mu"], "thresholds": predictors["threshold"]}
        return densities.RowDistribution(law, densities.ordinal, known)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Where mu alone has a predictor, as thresholds never have."""
        if list(predictors) != ["mu"]:
            return None
        return OrdinalDensity(np.asarray(response.value).astype(np.int64) - 1)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return densities.NumberedCategories(
            _probabilities(parameters["mu"], parameters["threshold"])
        )

    def shares_of(self, parameters: Mapping[str, Any]) -> Array:
        return _probabilities(parameters["mu"], parameters["threshold"])

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Ordered(logit⁻¹(", *symbols["threshold"], " - ", *symbols["mu"], "))")

    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """pi^2 / 3, of the logistic variable that the thresholds cut."""
        return np.asarray(np.pi**2 / 3)


def _probabilities(mu: Any, threshold: Any) -> Array:
    """(..., K) probabilities of the categories."""
    below = jax.nn.sigmoid(threshold - jnp.asarray(mu)[..., None])
    ends = below[..., :1]
    whole = jnp.concatenate([jnp.zeros_like(ends), below, jnp.ones_like(ends)], axis=-1)
    return jnp.maximum(jnp.diff(whole, axis=-1), 0.0)
