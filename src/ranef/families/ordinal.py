"""Ordinal responses by the cumulative logit model: P(y_i <= k) = logit^-1(threshold_k - mu_i)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.moments import Scale
from ranef.families import densities
from ranef.families.categories import Categories
from ranef.families.category_densities import OrdinalDensity
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import RowDensity
from ranef.families.state import FamilyState, ResponseScan
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jax, jnp
from ranef.numerics.shapes import Float
from ranef.priors import Prior

# Default prior sd of threshold k around the logit of the share of the rows up to category k.
_WIDTH = 2.5


class Ordinal(Categories):
    """Ordinal responses: P(y_i <= k) = logit^-1(threshold_k - mu_i) for categories 1, ..., K.

    Support: whole numbers or texts, whose distinct values in the training rows are the categories.
    Their order is the one that the column declares, or else the sorted order.
    Link: identity for mu.
    Default prior: threshold_k ~ Normal(l_k, 2.5) under the constraint that thresholds increase,
    with l_k the logit of the share of the rows in categories 1 to k. It holds at the means of the
    columns of the predictor.

    The predictor has no intercept; the K - 1 thresholds take its place. Source: McCullagh (1980).
    """

    name = "ordinal"
    intercept = False

    def finish(self, accumulator: ResponseScan) -> FamilyState:
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

    def start(
        self, state: FamilyState, parameter: FamilyParameter
    ) -> Float[NDArray[np.float64], "thresholds"]:
        """The thresholds at which each category has its share of the rows."""
        below = np.clip(np.cumsum(state.shares)[:-1], 1e-6, 1 - 1e-6)
        return state.scale.location + np.log(below / (1 - below))

    def default(self, state: FamilyState, parameter: FamilyParameter) -> Prior | None:
        if parameter.support != "ordered":
            return super().default(state, parameter)
        start = self.start(state, parameter)
        return priors.Normal(tuple(map(float, start)), _WIDTH)

    def beside(self, state: FamilyState, known: float) -> FamilyState:
        """The state with thresholds moved by the mean of the known part of the predictor."""
        return replace(state, scale=Scale(known, 1.0))

    def row_scale(self, state: FamilyState) -> float:
        """Sd of a standard logistic variable, pi / sqrt(3)."""
        return float(np.pi / np.sqrt(3))

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        distribution = self.distribution(response, **predictors)
        known = {"location": predictors["mu"], "thresholds": predictors["threshold"]}
        return densities.RowDistribution(distribution, densities.ordinal, known)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu has a predictor; thresholds never have one."""
        if list(predictors) != ["mu"]:
            return None
        return OrdinalDensity(np.asarray(response.value).astype(np.int64) - 1)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return densities.NumberedCategories(
            _probabilities(parameters["mu"], parameters["threshold"])
        )

    def shares_of(self, parameters: Mapping[str, Array]) -> Float[Array, "*n k"]:
        return _probabilities(parameters["mu"], parameters["threshold"])

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Ordered(logit⁻¹(", *symbols["threshold"], " - ", *symbols["mu"], "))")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """pi^2 / 3, the variance of the latent logistic variable that the thresholds divide."""
        return np.asarray(np.pi**2 / 3)


def _probabilities(
    mu: Float[Array, "*#n"], threshold: Float[Array, "*#n k"]
) -> Float[Array, "*n k+1"]:
    """Probabilities of the categories."""
    below = jax.nn.sigmoid(threshold - jnp.asarray(mu)[..., None])
    ends = below[..., :1]
    whole = jnp.concatenate([jnp.zeros_like(ends), below, jnp.ones_like(ends)], axis=-1)
    return jnp.maximum(jnp.diff(whole, axis=-1), 0.0)
