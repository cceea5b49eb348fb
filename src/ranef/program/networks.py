"""Outputs and features of networks at known point estimates, computed in batches of rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, ArrayLike, jax, jnp, lazily
from ranef.numerics.shapes import Float
from ranef.priors import handlers
from ranef.program.training import Designs, length
from ranef.terms.base import RunOptions
from ranef.terms.capabilities import MutableState

# Point estimates by site.
Points = Mapping[str, ArrayLike]
# Columns of networks by term label: within the program, and computed.
Columns = dict[str, Float[Array, "n _"]]
Computed = dict[str, Float[NDArray[np.float64], "n _"]]

_Result = TypeVar("_Result")

# Largest number of rows in one forward pass outside of training.
_FORWARD = 65_536


@dataclass(frozen=True)
class ForwardPass:
    """A NumPyro program of networks, which is compiled once for all point estimates.

    Attributes:
        program: takes designs and run options, and returns columns by term label.
    """

    program: Callable[[Designs, RunOptions], Columns]

    @cached_property
    def compiled(self) -> Callable[[Points, MutableState, Designs], Columns]:
        """The compiled function from (points, mutable, designs) to columns in inference mode."""

        def columns(points: Points, mutable: MutableState, designs: Designs) -> Columns:
            replay = RunOptions(training=False, rows=length(designs))
            known = Networks(self, points, mutable)
            return handlers.seeded(known.within(lambda: self.program(designs, replay)), 0)()

        return lazily(lambda f: jax.jit(f))(columns)


@dataclass(frozen=True)
class Networks:
    """The networks of a program, with or without known point estimates.

    Attributes:
        shape: the forward pass to the columns that depend on point estimates.
        points: point estimates by site; empty while they are unknown.
        mutable: by site, state that the program updates as it runs, as batch-norm statistics.
        inner: the forward pass to the inputs of the last layer of each network that ends with a
            linear one; None for no such pass.
    """

    shape: ForwardPass
    points: Points = field(default_factory=dict)
    mutable: MutableState = field(default_factory=dict)
    inner: ForwardPass | None = None

    def at(self, points: Points, mutable: MutableState) -> "Networks":
        """The networks at other point estimates; compiled functions are kept."""
        return replace(self, points=points, mutable=mutable)

    def within(self, program: Callable[[], _Result]) -> Callable[[], _Result]:
        """The program with known estimates and state substituted and hidden from its trace."""
        values = {**self.points, **{name: dict(v) for name, v in self.mutable.items()}}
        if not values:
            return program
        return handlers.hidden(handlers.substituted(program, values), values)

    def bases(self, designs: Designs) -> Computed:
        """Columns in inference mode, by term label; empty while estimates are unknown."""
        return self._by_label(self.shape, designs)

    def features(self, designs: Designs) -> Computed:
        """Inputs of the last layers in inference mode, by term label."""
        return {} if self.inner is None else self._by_label(self.inner, designs)

    def _by_label(self, forward: ForwardPass, designs: Designs) -> Computed:
        """Run a forward pass over all rows in batches of equal size, the last one padded."""
        if not self.points:
            return {}
        n, found = length(designs), []
        size = _share(n)
        for start in range(0, n, size):
            rows = np.arange(start, start + size).clip(max=n - 1)
            chunk = jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), designs)
            found.append(forward.compiled(self.points, self.mutable, chunk))
        return {
            label: np.concatenate([np.asarray(each[label], np.float64) for each in found])[:n]
            for label in found[0]
        }


def _share(n: int) -> int:
    """Rows per batch: equal shares of n, rounded up to few sizes, as each size is compiled."""
    even = -(-n // max(1, -(-n // _FORWARD)))
    unit = 2 ** max(0, even.bit_length() - 4)
    return -(-even // unit) * unit
