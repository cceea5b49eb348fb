"""An offset, a known part of the predictor without a coefficient: eta_i = o_i."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.errors import FormulaError
from ranef.formula import transforms
from ranef.lazy import Array, jnp
from ranef.numerics.shapes import Float
from ranef.priors import Prior
from ranef.terms.base import Design, Run, Term
from ranef.terms.blocks import LinearBlock
from ranef.terms.capabilities import KnownSummand

# What stateful transforms inside offset() have accumulated, by canonical text.
Triangles = dict[str, NDArray]


class Offset(Term[Triangles, transforms.Learned], KnownSummand[transforms.Learned]):
    """The term offset(o) for a numeric expression o."""

    def needs(self) -> dict[str, str]:
        if len(self.call.arguments) != 1 or self.call.options:
            raise FormulaError(f"{self.call.label}: offset() takes one numeric column")
        if transforms.width(self.call.arguments[0]) is not None:
            what = f"{self.call.arguments[0]} is several columns"
            raise FormulaError(f"{self.call.label}: {what}, and offset() takes one")
        return self.call.arguments[0].needs()

    def scan(self, accumulator: Triangles | None, frame: Frame) -> Triangles:
        calls = transforms.stateful_calls(self.call.arguments)
        return transforms.accumulate(accumulator, calls, frame)

    def finish(self, accumulator: Triangles) -> transforms.Learned:
        return transforms.finish(accumulator, transforms.stateful_calls(self.call.arguments))

    def design(self, state: transforms.Learned, frame: Frame) -> Design:
        return Design({"values": self.values(state, frame)})

    def values(self, state: transforms.Learned, frame: Frame) -> Float[NDArray[np.float64], "n"]:
        return transforms.evaluate_single(self.call.arguments[0], frame, state)

    def structure(
        self, state: transforms.Learned, design: Design, priors_: Mapping[str, Prior]
    ) -> LinearBlock:
        column = design.arrays["values"][:, None]
        return LinearBlock(column, None, 1, np.ones(1), np.zeros(1))

    def eta(self, run: Run[transforms.Learned]) -> Float[Array, "n"]:
        return jnp.asarray(run.design.arrays["values"])
