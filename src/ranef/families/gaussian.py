"""Normal responses: y_i ~ N(mu_i, sigma^2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.families.base import Family
from ranef.families.level_shifts import Codes, Levels, weighted_means
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import NormalResponse, ResponseDesign
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jnp


class Gaussian(Family):
    """Normal responses: y_i ~ N(mu_i, sigma^2), for any real y.

    Links: identity for mu, log for sigma.
    Default prior: sigma ~ HalfStudentT(4, s), with s the sd of the response.

    With weights(y, w) the variance of row i is sigma^2 / w_i, as in lme4, and s is multiplied by
    the root of the mean weight. With se(y, s) it is s_i^2, which is known, and there is no sigma.
    """

    name = "gaussian"
    dispersion = "sigma"
    parameters = (
        FamilyParameter("mu", "identity", "real"),
        FamilyParameter(
            "sigma", "log", "positive", lambda scale: priors.HalfStudentT(4.0, scale.sd)
        ),
    )
    forms = ("plain", "se", "weights")
    quadratic = True
    on_scale = True

    def free_parameters(self) -> tuple[FamilyParameter, ...]:
        return self.parameters[:1] if self.response.form == "se" else self.parameters

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.Normal(parameters["mu"], self._sd(response, parameters))

    def normal(self, response: ResponseDesign) -> NormalResponse:
        beside, known = response.companion, response.form == "se"
        return NormalResponse(
            response.value, beside**-2.0 if known else beside, "" if known else "sigma"
        )

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return self._sd(response, parameters) ** 2

    def _sd(self, response: ResponseDesign, parameters: Mapping[str, Array]) -> Array:
        """Residual sd of each row, (n,) or ()."""
        if response.form == "se":
            return jnp.asarray(response.companion)
        if response.form == "weights":
            return parameters["sigma"] / jnp.sqrt(jnp.asarray(response.companion))
        return parameters["sigma"]

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        if self.response.form == "se":
            variance: Line = (*self.companion(), "²")
        elif self.response.form == "weights":
            variance = (*symbols["sigma"], "² / ", *self.companion())
        else:
            variance = (*symbols["sigma"], "²")
        return ("Normal(", *symbols["mu"], ", ", *variance, ")")

    def shifts(
        self,
        response: ResponseDesign,
        codes: Codes,
        levels: int,
        **predictors: NDArray[np.float64],
    ) -> Levels:
        """In closed form: sum_i w_i (y_i - mu_i) / sum_i w_i with w_i = 1 / sd_i^2."""
        etas = {name: jnp.asarray(eta) for name, eta in predictors.items()}
        parameters = self.on_own_scale(**etas)
        away = np.asarray(response.value) - np.asarray(parameters["mu"], np.float64)
        sd = np.broadcast_to(self._sd(response, parameters), away.shape)
        return weighted_means(away, 1.0 / sd**2, codes, levels)

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """sigma^2; None where sigma has a predictor or is absent."""
        return np.asarray(values["sigma"]) ** 2 if "sigma" in values else None
