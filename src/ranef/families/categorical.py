"""Responses of several kinds without an order: P(y = k) = softmax(0, mu_2, ..., mu_K)_k."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.moments import Scale
from ranef.families import densities
from ranef.families.base import FamilyParameter, FamilyState, ResponseDesign
from ranef.families.categories import Categories
from ranef.families.category_densities import CategoricalDensity
from ranef.families.row_density import RowDensity
from ranef.formula.equation import Line
from ranef.lazy import Array, dist, jax, jnp


class Categorical(Categories):
    """P(y_i = k) proportional to exp(mu_ik), mu_i1 = 0 for the first category in order.

    Each other category c has a predictor of its own with the terms of the formula, its
    coefficients named as in brms, `muc_Intercept`, `muc_x`, `1|g` being `muc_1|g`.
    """

    name = "categorical"
    parameters = (FamilyParameter("mu", "identity", "real", predicted=True),)

    def finish(self, accumulator: Any) -> FamilyState:
        return self.counted(accumulator, least=2)

    def bind(self, state: FamilyState) -> "Categorical":
        out = Categorical(self.response)
        out.parameters = tuple(
            FamilyParameter(f"mu{name}", "identity", "real", predicted=True)
            for name in state.categories[1:]
        )
        out.categories = state.categories
        return out

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        """Around the log odds of the category against the first."""
        place = [p.name for p in self.parameters].index(parameter.name) + 1
        odds = state.shares[place] / state.shares[0] if state.shares else 1.0
        return Scale(float(np.clip(np.log(odds), -4.0, 4.0)), 1.0)

    def row_scale(self, state: FamilyState) -> float:
        """1 / sqrt(p (1 - p)) at p = 1/2."""
        return 2.0

    def given(self, response: ResponseDesign, **predictors: Any) -> dist.Distribution:
        law = self.distribution(response, **predictors)
        known = {f"eta{i}": predictors[p.name] for i, p in enumerate(self.parameters)}
        return densities.RowDistribution(law, densities.categorical, known)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Where all predictors are in their order."""
        if list(predictors) != [p.name for p in self.parameters]:
            return None
        return CategoricalDensity.of(response.value, len(self.parameters))

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return densities.NumberedCategories(self.shares_of(parameters))

    def shares_of(self, parameters: Mapping[str, Any]) -> Array:
        etas = jnp.broadcast_arrays(*(jnp.asarray(parameters[p.name]) for p in self.parameters))
        return jax.nn.softmax(jnp.stack([jnp.zeros_like(etas[0]), *etas], axis=-1), axis=-1)

    def shifts(
        self,
        response: ResponseDesign,
        codes: NDArray[np.int32],
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> None:
        """There are as many locations as categories but one."""
        return

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        inside: list[Any] = ["0"]
        for symbol in symbols.values():
            inside += [", ", *symbol]
        return ("Categorical(softmax(", *inside, "))")

    def residual(self, state: FamilyState, values: Mapping[str, Any]) -> Any:
        """There is none: each category has a predictor of its own."""
        return None
