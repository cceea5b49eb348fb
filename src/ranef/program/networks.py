"""Outputs and features of networks at known point estimates, computed in batches of rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, jax, jnp, lazily, numpyro
from ranef.program.training import Designs, length
from ranef.terms.base import RunOptions

# Largest number of rows in one forward pass outside of training.
_FORWARD = 65_536


@dataclass(frozen=True)
class ForwardPass:
    """A NumPyro program of networks, which is compiled once for all point estimates.

    Attributes:
        program: takes designs and run options, and returns columns (n, k) by term label.
    """

    program: Callable[[Designs, RunOptions], dict[str, Array]]

    @cached_property
    def compiled(self) -> Any:
        """The compiled function from (points, carried, designs) to columns in inference mode."""

        def columns(points: Any, carried: Any, designs: Designs) -> dict[str, Array]:
            replay = RunOptions(training=False, rows=length(designs))
            known = Networks(self, points, carried)
            run: Any = numpyro.handlers.seed(known.within(lambda: self.program(designs, replay)), 0)
            return run()

        return lazily(lambda f: jax.jit(f))(columns)


@dataclass(frozen=True)
class Networks:
    """The networks of a program, with or without known point estimates.

    Attributes:
        shape: the forward pass to the columns (n, k) that depend on point estimates.
        points: point estimates by site; empty while they are unknown.
        carried: state that the program updates as it runs, such as batch-norm statistics, by site.
        inner: the forward pass to the inputs of the last layer of each network that ends with a
            linear one; None for no such pass.
    """

    shape: ForwardPass
    points: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    inner: ForwardPass | None = None

    def at(self, points: Mapping[str, Any], carried: Mapping[str, Any]) -> "Networks":
        """The networks at other point estimates; compiled functions are kept."""
        return replace(self, points=points, carried=carried)

    def within(self, program: Callable[[], Any]) -> Callable[[], Any]:
        """The program with known estimates and state substituted and hidden from its trace."""
        data = {**self.points, **{name: dict(v) for name, v in self.carried.items()}}
        if not data:
            return program
        given = numpyro.handlers.substitute(program, data=data)
        return numpyro.handlers.block(given, hide=list(data))

    def bases(self, designs: Designs) -> dict[str, NDArray[np.float64]]:
        """Columns (n, k) in inference mode, by term label; empty while estimates are unknown."""
        return self._by_label(self.shape, designs)

    def features(self, designs: Designs) -> dict[str, NDArray[np.float64]]:
        """Inputs (n, k) of the last layers in inference mode, by term label."""
        return {} if self.inner is None else self._by_label(self.inner, designs)

    def _by_label(self, forward: ForwardPass, designs: Designs) -> dict[str, NDArray[np.float64]]:
        """Run a forward pass over all rows in batches of equal size, the last one padded."""
        if not self.points:
            return {}
        n, parts = length(designs), []
        size = _share(n)
        for start in range(0, n, size):
            rows = np.arange(start, start + size).clip(max=n - 1)
            chunk = jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), designs)
            parts.append(forward.compiled(self.points, self.carried, chunk))
        return {
            label: np.concatenate([np.asarray(part[label], np.float64) for part in parts])[:n]
            for label in parts[0]
        }


def _share(n: int) -> int:
    """Rows per batch: equal shares of n, rounded up to few sizes, as each size is compiled."""
    even = -(-n // max(1, -(-n // _FORWARD)))
    unit = 2 ** max(0, even.bit_length() - 4)
    return -(-even // unit) * unit
