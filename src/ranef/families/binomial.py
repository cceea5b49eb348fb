"""Numbers of successes among known numbers of trials: y_i ~ Binomial(n_i, p_i)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Moments, Scale
from ranef.errors import DataError
from ranef.families import densities, responses
from ranef.families.base import Family
from ranef.families.exponential_family import ExponentialFamilyRows, LogisticRows
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState, Measures
from ranef.families.thinned_rows import ThinnedRows
from ranef.formula.equation import Line
from ranef.lazy import Array, ArrayLike, dist, jnp


class Binomial(Family):
    """Successes among trials: y_i ~ Binomial(n_i, p_i), for y = 0, 1, ..., n.

    Link: logit for p. There are no other parameters.

    The left side of the formula is `y / n`, or `cbind(successes, failures)`. The mean is n p, or
    p for rows whose number of trials is unknown.
    """

    name = "binomial"
    parameters = (FamilyParameter("p", "logit", "unit"),)
    forms = ("trials",)
    discrete = True

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        assert companion is not None
        broken = ~responses.whole(companion)
        if broken.any():
            place = int(np.argmax(broken))
            raise DataError(
                f"the trials {self.response.companion} are {companion[place]:g} in row "
                f"{frame.row_number(place)}, and must be whole numbers; correct such rows"
            )
        inside = responses.whole(value) & (value <= companion)
        expected = f"whole numbers from 0 to the trials {self.response.companion} of the row"
        responses.refuse_outside(value, inside, frame, self.response.value, self.name, expected)

    def measure(self, accumulator: Measures | None, design: ResponseDesign) -> Measures:
        """Moments of successes and trials."""
        both = np.stack([np.asarray(design.value), np.asarray(design.companion)], axis=1)
        assert not isinstance(accumulator, ThinnedRows)
        return (accumulator or Moments()).add(both)

    def mean_weight(self, accumulator: Measures) -> float:
        """1, since trials are not precision weights."""
        return 1.0

    def location_and_sd(self, accumulator: Measures) -> tuple[float, float]:
        """Total successes / total trials, and the sd of y / n at p = 1/2 and the mean of n."""
        assert isinstance(accumulator, Moments)
        successes, trials = accumulator.measures().mean
        return float(successes / trials), float(0.5 / np.sqrt(trials))

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        return responses.logit_scale(state.scale.location)

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the working response, 1 / sqrt(n p (1 - p)), at p = 1/2 and the mean of n."""
        return 4.0 * state.scale.sd

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        trials = jnp.asarray(response.companion)
        distribution = dist.BinomialLogits(predictors["p"], trials)
        known = {"logit": predictors["p"], "trials": trials}
        return densities.RowDistribution(distribution, densities.binomial, known)

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.BinomialProbs(parameters["p"], jnp.asarray(response.companion))

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        trials = np.asarray(response.companion, np.int64)
        return rng.binomial(trials, np.asarray(parameters["p"], np.float64)).astype(np.float64)

    def natural(self, response: ResponseDesign) -> ExponentialFamilyRows:
        trials = np.asarray(response.companion, np.float64)
        return LogisticRows.of(np.asarray(response.value, np.float64), trials)

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        """The mean n p, or p where the numbers of trials are unknown."""
        if response.companion is None:
            return parameters["p"]
        return parameters["p"] * jnp.asarray(response.companion)

    def shown(self, response: ResponseDesign) -> PerRow:
        """Successes / trials."""
        return np.asarray(response.value) / np.asarray(response.companion)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return jnp.asarray(response.companion) * parameters["p"] * (1 - parameters["p"])

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Binomial(", *self.companion(), ", ", *symbols["p"], ")")

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """pi^2 / 3, the variance of the latent logistic variable of each trial."""
        return np.asarray(np.pi**2 / 3)
