"""Poisson counts: y_i ~ Poisson(mu_i)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.families import densities, responses
from ranef.families.count_densities import PoissonDensity
from ranef.families.counts import Counts, inverse_mean
from ranef.families.exponential_family import CountRows, ExponentialFamilyRows
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.state import FamilyState
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jnp


class Poisson(Counts):
    """Poisson counts: y_i ~ Poisson(mu_i), for y = 0, 1, 2, ...

    Link: log for mu. There are no other parameters.

    Mean and variance are mu. With a term offset(log(n)) the remaining predictor is the log rate
    per unit of the exposure n.
    """

    name = "poisson"
    parameters = (FamilyParameter("mu", "log", "positive"),)

    def given(self, response: ResponseDesign, **predictors: Array) -> densities.CountDistribution:
        distribution = self.distribution(response, **self.on_own_scale(**predictors))
        known = {"log_mean": predictors["mu"]}
        return densities.CountDistribution(
            distribution, densities.poisson, known, densities.poisson_zero
        )

    def working_weights(self, response: ResponseDesign, name: str, **predictors: Array) -> Array:
        """The information mu."""
        return jnp.broadcast_to(jnp.exp(predictors["mu"]), jnp.shape(response.value))

    @classmethod
    def count_density(cls, value: ArrayLike) -> PoissonDensity:
        return PoissonDensity.of(value)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.Poisson(parameters["mu"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        return responses.poisson_variates(rng, np.asarray(parameters["mu"]))

    def natural(self, response: ResponseDesign) -> ExponentialFamilyRows:
        return CountRows.of(np.asarray(response.value, np.float64))

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["mu"]

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Poisson(", *symbols["mu"], ")")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """log(1 + 1 / mean): the variance of log y for a lognormal y of equal mean and variance.

        Source: Nakagawa, Johnson and Schielzeth (2017), table 1.
        """
        return np.asarray(np.log1p(inverse_mean(state)))
