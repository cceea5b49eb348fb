"""Overdispersed counts: y_i ~ NegativeBinomial(mu_i, alpha)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.families import densities, responses
from ranef.families.count_densities import NegativeBinomialDensity
from ranef.families.counts import Counts, inverse_mean
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import RowDensity
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist


class NegativeBinomial(Counts):
    """Overdispersed counts: y_i ~ NegativeBinomial(mu_i, alpha), for y = 0, 1, 2, ...

    Links: log for mu and alpha.
    Default prior: alpha ~ HalfCauchy(1).

    The mean is mu and the variance mu + mu^2 / alpha. alpha is called theta in R's MASS and shape
    in brms.
    """

    name = "negative_binomial"
    parameters = (
        FamilyParameter("mu", "log", "positive"),
        FamilyParameter("alpha", "log", "positive", lambda scale: priors.HalfCauchy(1.0)),
    )
    curvature = "expected"
    # `row_scale` takes alpha = 1.
    inverse_shape = 1.0

    def given(self, response: ResponseDesign, **predictors: Array) -> densities.CountDistribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        known = {"log_mean": predictors["mu"], "log_shape": predictors["alpha"]}
        return densities.CountDistribution(
            distribution, densities.negative_binomial, known, densities.negative_binomial_zero
        )

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """For mu the Fisher information, mu / (1 + mu / alpha)."""
        if name != "mu":
            return super().working_weights(response, name, **predictors)
        return responses.count_information(predictors["mu"], predictors["alpha"])

    def row_density(self, response: ResponseDesign, predictors: Sequence[str]) -> RowDensity | None:
        """Closed form where mu alone has a predictor."""
        return self.count_density(response.value) if list(predictors) == ["mu"] else None

    @classmethod
    def count_density(cls, value: ArrayLike) -> NegativeBinomialDensity:
        return NegativeBinomialDensity.of(value)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.NegativeBinomial2(parameters["mu"], parameters["alpha"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        """Poisson variates whose means are gamma variates of mean mu and shape alpha."""
        mean = responses.gamma_variates(rng, parameters["mu"], parameters["alpha"])
        return responses.poisson_variates(rng, mean)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["mu"] + parameters["mu"] ** 2 / parameters["alpha"]

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("NegativeBinomial(", *symbols["mu"], ", ", *symbols["alpha"], ")")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """log(1 + 1 / mean + 1 / alpha).

        This is the variance of log y for a lognormal y of equal mean and variance.
        Source: Nakagawa, Johnson and Schielzeth (2017), table 1.
        """
        if "alpha" not in values:
            return None
        return np.asarray(np.log1p(inverse_mean(state) + 1.0 / np.asarray(values["alpha"])))
