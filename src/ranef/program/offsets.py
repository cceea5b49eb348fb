"""What offset() terms add to each predictor, so that default priors are about what is left."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Moments
from ranef.families.base import FamilyParameter
from ranef.terms.base import Term

Array = NDArray[np.float64]


class Offsets:
    """The known parts of every predictor, summed over the training rows batch by batch.

    Args:
        terms: the offset terms with the family parameters that they predict.
        states: of the terms, by label.
    """

    def __init__(
        self, terms: Sequence[tuple[FamilyParameter, Term]], states: Mapping[str, Any]
    ) -> None:
        self._states = states
        self._terms: dict[str, list[Term]] = {}
        self._links: dict[str, str] = {}
        for parameter, term in terms:
            self._terms.setdefault(parameter.name, []).append(term)
            self._links[parameter.name] = parameter.link
        self._moments = {name: Moments() for name in self._terms}
        # log sum_i w_i exp(o_i), of predictors under a log link.
        self._logs = dict.fromkeys(self._terms, -np.inf)

    def rows(self, name: str, frame: Frame) -> Array:
        """(n,) what is known of a family parameter's predictor on the rows of `frame`."""
        out = np.zeros(frame.n)
        for term in self._terms.get(name, ()):
            out += term.columns(self._states[term.label], frame)[:, 0]
        return out

    def add(self, frame: Frame, weights: Array | None) -> None:
        """Take in one batch of rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            for name in self._terms:
                known = self.rows(name, frame)
                self._moments[name] = self._moments[name].add(known[:, None], weights)
                logs = known if weights is None else known + np.log(weights)
                self._logs[name] = float(np.logaddexp.reduce([self._logs[name], *logs]))

    def mean(self, name: str) -> float:
        """The mean of what is known of a predictor; 0 for one without an offset."""
        return float(np.ravel(self._moments[name].mean)[0]) if name in self._moments else 0.0

    def locations(self) -> dict[str, float]:
        """By predictor, the one number that stands for its offsets.

        Under a log link it is the logarithm of the mean of their exponentials: sums of counts
        by sums of exposures are the rate.
        """
        out = {}
        for name, moments in self._moments.items():
            log_mean = self._logs[name] - np.log(moments.weight)
            out[name] = float(log_mean) if self._links[name] == "log" else self.mean(name)
        return out
