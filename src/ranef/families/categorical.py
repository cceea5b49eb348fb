"""Unordered categories: P(y_i = k) = softmax(0, mu_i2, ..., mu_iK)_k."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef.data.moments import Scale
from ranef.families import densities
from ranef.families.categories import Categories
from ranef.families.category_densities import CategoricalDensity
from ranef.families.level_shifts import Codes
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import RowDensity
from ranef.families.state import FamilyState, ResponseScan
from ranef.formula.equation import Line, joined
from ranef.lazy import Array, ArrayLike, dist, jax, jnp
from ranef.numerics.shapes import Float


class Categorical(Categories):
    """Unordered categories: P(y_i = k) = exp(mu_ik) / sum_j exp(mu_ij), with mu_i1 = 0.

    Support: whole numbers or texts, whose distinct values in the training rows are the categories.
    Their order is the one that the column declares, or else the sorted order; the first category
    is the reference.
    Links: identity for mu_2, ..., mu_K. There are no other parameters.

    Each category c but the reference has a predictor of its own with the terms of the formula. Its
    coefficients are named as in brms: `muc_Intercept`, `muc_x`, and `muc_1|g` for `1|g`.
    """

    name = "categorical"
    parameters = (FamilyParameter("mu", "identity", "real", predicted=True),)

    def finish(self, accumulator: ResponseScan) -> FamilyState:
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
        """Location at the log odds of the category against the first, between -4 and 4; sd 1."""
        place = [p.name for p in self.parameters].index(parameter.name) + 1
        odds = state.shares[place] / state.shares[0] if state.shares else 1.0
        return Scale(float(np.clip(np.log(odds), -4.0, 4.0)), 1.0)

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the working response, 1 / sqrt(p (1 - p)), at p = 1/2."""
        return 2.0

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        distribution = self.distribution(response, **predictors)
        known = {f"eta{i}": predictors[p.name] for i, p in enumerate(self.parameters)}
        return densities.RowDistribution(distribution, densities.categorical, known)

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where `predictors` are those of all categories but the first, in order."""
        if list(predictors) != [p.name for p in self.parameters]:
            return None
        return CategoricalDensity.of(response.value, len(self.parameters))

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return densities.NumberedCategories(self.shares_of(parameters))

    def shares_of(self, parameters: Mapping[str, Array]) -> Float[Array, "*n k"]:
        """The softmax of (0, mu_2, ..., mu_K)."""
        etas = jnp.broadcast_arrays(*(jnp.asarray(parameters[p.name]) for p in self.parameters))
        return jax.nn.softmax(jnp.stack([jnp.zeros_like(etas[0]), *etas], axis=-1), axis=-1)

    def shifts(
        self,
        response: ResponseDesign,
        codes: Codes,
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> None:
        """None: every category but the first has a location of its own."""
        return

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        etas: list[Line] = [("0",), *symbols.values()]
        return ("Categorical(softmax(", *joined(etas, ", "), "))")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """None: the categories have different predictors, so there is no common residual."""
        return None
