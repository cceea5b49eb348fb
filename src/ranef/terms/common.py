"""Common effects: eta = Intercept + x_1 beta_1 + ... + x_p beta_p."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from ranef import matrix, priors, sites
from ranef.equation import Line, Sub, Summand, joined
from ranef.frame import Frame
from ranef.moments import Measures, Scale
from ranef.priors import Prior
from ranef.terms.base import (
    Design,
    LinearBlock,
    LinearTerm,
    Parameter,
    Replay,
    Variable,
    clean_name,
)

INTERCEPT = "Intercept"


@dataclass(frozen=True)
class State:
    """The coding of the columns, their means and sds over the training rows."""

    matrix: matrix.Matrix
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]

    @property
    def slices(self) -> dict[str, slice]:
        """Variable name to its columns."""
        out, start = {}, 0
        for coding in self.matrix.codings:
            out[coding.name] = slice(start, start + coding.width)
            start += coding.width
        return out


class Common(LinearTerm):
    """Effects shared by all rows, each variable a site of its own with its own prior.

    Columns are held centred by their training means m, which adds m . beta back to the
    predictor: the same model, with less cancellation.
    """

    def needs(self) -> dict[str, str]:
        return matrix.needs(self.call.arguments)

    def scan(self, accumulator: Any, frame: Frame) -> matrix.Scan:
        return matrix.scan(accumulator, self.call.arguments, frame)

    def finish(self, accumulator: matrix.Scan) -> State:
        learned = matrix.finish(accumulator, self.call.arguments)
        width = sum(coding.width for coding in learned.codings)
        return State(learned, np.zeros(width), np.ones(width))

    def design(self, state: State, frame: Frame) -> Design:
        return Design({"columns": state.matrix.build(frame) - state.mean})

    def columns(self, state: State, frame: Frame) -> NDArray[np.float64]:
        return state.matrix.build(frame)

    def measured(self, state: State, measures: Measures) -> State:
        intercept = [coding.name == INTERCEPT for coding in state.matrix.codings]
        mean = measures.mean.copy()
        if intercept and intercept[0]:
            mean[0] = 0.0
        return replace(state, mean=mean, sd=measures.sd)

    def parameters(self, state: State, scale: Scale) -> dict[str, Parameter]:
        slopes = 2.5 * scale.spread / _spread(state)
        out = {}
        for name, columns in state.slices.items():
            if name == INTERCEPT:
                # What a prior of the same width at the columns' means implies at x = 0.
                away = state.mean / _spread(state)
                width = 2.5 * scale.spread * float(np.sqrt(1.0 + np.sum(away**2)))
                prior: Prior = priors.Normal(scale.location, width)
            else:
                sigma = tuple(float(s) for s in slopes[columns])
                prior = priors.Normal(0.0, sigma if self._is_vector(state, name) else sigma[0])
            alias = "common" if name != INTERCEPT and not self.prefix else ""
            size = columns.stop - columns.start
            out[self._site(name)] = Parameter(prior, alias=alias, size=size)
        return out

    def _is_vector(self, state: State, name: str) -> bool:
        return any(c.name == name and c.names for c in state.matrix.codings)

    def _site(self, name: str) -> str:
        return self.prefix + clean_name(name)

    def hyperparameters(
        self, state: State, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        return {}

    def block(
        self,
        state: State,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, Array],
    ) -> LinearBlock:
        """One vector of coefficients for all rows, on the columns as the formula has them."""
        columns = design.arrays["columns"] + state.mean
        means, sds, gaussian = [], [], True
        for name, place in state.slices.items():
            mean, sd, normal = _moments(priors_[self._site(name)])
            width = place.stop - place.start
            means.append(np.broadcast_to(mean, width))
            sds.append(np.broadcast_to(sd, width))
            gaussian &= normal
        return LinearBlock(
            columns,
            None,
            1,
            np.concatenate(means),
            np.concatenate(sds),
            gaussian,
            tuple((self._site(n), s.stop - s.start) for n, s in state.slices.items()),
            tuple(self._shape(state, name) for name in state.slices),
        )

    def _shape(self, state: State, name: str) -> tuple[int, ...]:
        """Of the site that holds the coefficients of one variable."""
        columns = state.slices[name]
        return (columns.stop - columns.start,) if self._is_vector(state, name) else ()

    def coefficients(
        self,
        state: State,
        block: LinearBlock,
        priors_: Mapping[str, Prior],
        scale: Scale,
        design: Design,
        replay: Replay,
    ) -> Array:
        units = scale.spread / _spread(state)
        parts = []
        for name, columns in state.slices.items():
            shape = self._shape(state, name)
            value = sites.parameter(
                self._site(name),
                priors_[self._site(name)],
                shape=shape,
                start=scale.start if name == INTERCEPT else 0.0,
                unit=units[columns].reshape(shape),
            )
            parts.append(jnp.atleast_1d(value))
        return jnp.concatenate(parts)

    def sample(
        self,
        state: State,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: Replay,
    ) -> Array:
        block = self.block(state, design, priors_, {})
        beta = self.coefficients(state, block, priors_, scale, design, replay)
        return design.arrays["columns"] @ beta + jnp.asarray(state.mean) @ beta

    def equation(self, state: State) -> Summand:
        """A factor's coefficient is indexed by the level of row i, a number's multiplies it."""
        parts: list[Line] = []
        for coding in state.matrix.codings:
            if coding.name == INTERCEPT:
                parts.append(("β", Sub(f"{self.prefix}0")))
            elif coding.names:
                parts.append(("β", Sub(f"{self.prefix}{coding.name}[i]")))
            else:
                name = self.prefix + coding.name
                parts.append(("β", Sub(name), f" {coding.name}", Sub("i")))
        return Summand(joined(parts, " + "))

    def variables(self, state: State) -> dict[str, Variable]:
        out = {}
        for coding in state.matrix.codings:
            name = self._site(coding.name)
            title = self.prefix + coding.name
            vector = Variable("common", (f"{name}_dim",), (coding.names,), title=title)
            out[name] = vector if coding.names else Variable(title=title)
        return out


def _spread(state: State) -> NDArray[np.float64]:
    """The sd of each column; a constant column (the intercept) counts by its size."""
    size = np.where(np.abs(state.mean) > 0, np.abs(state.mean), 1.0)
    return np.where(state.sd > 1e-12 * size, state.sd, size)


def _moments(prior: Prior) -> tuple[Any, Any, bool]:
    """Mean, sd and whether the prior is Gaussian; flat is a Gaussian of infinite sd."""
    match prior:
        case priors.Normal():
            return prior.mu, prior.sigma, True
        case priors.Flat():
            return 0.0, np.inf, True
        case priors.Fixed():
            return prior.value, 0.0, True
    return 0.0, np.inf, False
