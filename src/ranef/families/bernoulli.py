"""Binary responses: y_i ~ Bernoulli(p_i)."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.errors import DataError
from ranef.families import densities, responses
from ranef.families.base import Family
from ranef.families.exponential_family import ExponentialFamilyRows, LogisticRows
from ranef.families.parameters import FamilyParameter
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState, ResponseScan
from ranef.formula.equation import Line
from ranef.formula.expression import Column
from ranef.lazy import Array, ArrayLike, dist


class Bernoulli(Family):
    """Binary responses: y_i ~ Bernoulli(p_i).

    Support: 0 and 1, true and false, or two texts. The second text is the success (y = 1), in the
    order that the column declares, or else in sorted order.
    Link: logit for p. There are no other parameters.
    """

    name = "bernoulli"
    parameters = (FamilyParameter("p", "logit", "unit"),)
    text = True
    discrete = True

    def scan(self, accumulator: ResponseScan | None, frame: Frame) -> ResponseScan:
        """The accumulator with one more batch; texts are kept as levels."""
        seen = accumulator or ResponseScan()
        response = self.response.value
        if responses.is_text(response, frame) and isinstance(response, Column):
            frame.refuse_stray_texts(response.name)
            return replace(seen, levels=seen.levels.add(frame.levels(response.name)))
        return super().scan(seen, frame)

    def finish(self, accumulator: ResponseScan) -> FamilyState:
        """The state, whose categories are the two texts of a response of texts.

        Raises:
            DataError: for a response of texts that has more or fewer than two.
        """
        if not accumulator.levels.names:
            return super().finish(accumulator)
        names = accumulator.levels.ordered()
        if len(names) != 2:
            listed = ", ".join(map(repr, names[:6])) + (", ..." if len(names) > 6 else "")
            raise DataError(
                f"the response {self.response.value} has {len(names)} distinct texts ({listed}), "
                "and the family bernoulli takes two; state another family, such as 'ordinal' or "
                "'categorical', or convert it to numbers"
            )
        return FamilyState({}, Scale(0.0, 1.0), names)

    def evaluated(self, state: FamilyState, frame: Frame) -> PerRow:
        response = self.response.value
        if state.categories and isinstance(response, Column):
            return responses.places(response, state.categories, frame, self.name)
        return super().evaluated(state, frame)

    def refuse(self, value: PerRow, companion: PerRow | None, frame: Frame) -> None:
        inside = (value == 0) | (value == 1)
        expected = "0 or 1, true or false, or one of two texts"
        responses.refuse_outside(value, inside, frame, self.response.value, self.name, expected)

    def predictor_scale(self, state: FamilyState, parameter: FamilyParameter) -> Scale:
        return responses.logit_scale(state.scale.location)

    def row_scale(self, state: FamilyState) -> float:
        """Sd of the working response, 1 / sqrt(p (1 - p)), at p = 1/2."""
        return 2.0

    def given(self, response: ResponseDesign, **predictors: Array) -> dist.Distribution:
        distribution = dist.BernoulliLogits(predictors["p"])
        return densities.RowDistribution(
            distribution, densities.bernoulli, {"logit": predictors["p"]}
        )

    def distribution(self, response: ResponseDesign, **parameters: Array) -> dist.Distribution:
        return dist.BernoulliProbs(parameters["p"])

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        p = np.asarray(parameters["p"])
        return (rng.random(p.shape) < p).astype(np.float64)

    def natural(self, response: ResponseDesign) -> ExponentialFamilyRows:
        return LogisticRows.of(np.asarray(response.value, np.float64), None)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        return parameters["p"] * (1 - parameters["p"])

    def distribution_equation(self, symbols: Mapping[str, Line]) -> Line:
        return ("Bernoulli(", *symbols["p"], ")")

    def notes(self, state: FamilyState) -> tuple[str, ...]:
        """Says which of two texts is the success."""
        if not state.categories:
            return ()
        other, success = map(repr, state.categories)
        return (f"success is {self.response.value} = {success}, and not {other}",)

    def residual(
        self, state: FamilyState, values: Mapping[str, ArrayLike]
    ) -> NDArray[np.float64] | None:
        """pi^2 / 3, the variance of the latent logistic variable whose sign is the response."""
        return np.asarray(np.pi**2 / 3)
