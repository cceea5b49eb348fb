"""Sums of the offset() terms of each predictor; default priors refer to the predictor without."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Moments
from ranef.families.parameters import FamilyParameter
from ranef.numerics.shapes import Float
from ranef.terms.capabilities import KnownSummand

Vector = Float[NDArray[np.float64], "n"]


class Offsets:
    """Running moments of the offsets of every predictor over batches of training rows.

    Args:
        terms: the offset terms, each with the family parameter that it predicts.
        states: states of the terms, by label.
    """

    def __init__(
        self, terms: Sequence[tuple[FamilyParameter, KnownSummand]], states: Mapping[str, object]
    ) -> None:
        self._states = states
        self._terms: dict[str, list[KnownSummand]] = {}
        self._links: dict[str, str] = {}
        for parameter, term in terms:
            self._terms.setdefault(parameter.name, []).append(term)
            self._links[parameter.name] = parameter.link
        self._moments = {name: Moments() for name in self._terms}
        # log sum_i w_i exp(o_i) of each predictor; used under a log link.
        self._logs = dict.fromkeys(self._terms, -np.inf)

    def rows(self, name: str, frame: Frame) -> Vector:
        """Sum of the offsets of a family parameter's predictor on the rows of `frame`."""
        out = np.zeros(frame.n)
        for term in self._terms.get(name, ()):
            out += term.values(self._states[term.label], frame)
        return out

    def add(self, frame: Frame, weights: Vector | None) -> None:
        """Add a batch of rows, with their weights or None."""
        with np.errstate(over="ignore", invalid="ignore"):
            for name in self._terms:
                known = self.rows(name, frame)
                self._moments[name] = self._moments[name].add(known[:, None], weights)
                logs = known if weights is None else known + np.log(weights)
                self._logs[name] = float(np.logaddexp.reduce([self._logs[name], *logs]))

    def mean(self, name: str) -> float:
        """Mean of the offsets of a predictor; 0 for one without an offset."""
        return float(np.ravel(self._moments[name].mean)[0]) if name in self._moments else 0.0

    def locations(self) -> dict[str, float]:
        """The typical offset of each predictor with offsets, by family parameter.

        It is the mean of the offsets, and under a log link the logarithm of the mean of their
        exponentials: the rate of counts is the sum of the counts over the sum of the exposures.
        """
        out = {}
        for name, moments in self._moments.items():
            log_mean = self._logs[name] - np.log(moments.weight)
            out[name] = float(log_mean) if self._links[name] == "log" else self.mean(name)
        return out
