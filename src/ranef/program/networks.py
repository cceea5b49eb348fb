"""What networks make of rows at known point estimates: columns, computed in batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, jax, jnp, lazily, numpyro
from ranef.program.training import Designs, length
from ranef.terms.base import RunOptions

# Rows that networks take at once where nothing is trained.
_FORWARD = 65_536


@dataclass(frozen=True)
class Networks:
    """The networks of a program, their estimates known or not.

    Attributes:
        shape: designs and how to run to the columns by term label, a NumPyro program.
        points: estimates by site; empty while they are not known.
        carried: what the program has updated, such as batch-norm statistics.
        inner: as `shape`, to the features before the last layer of each network that has some.
    """

    shape: Callable[[Designs, RunOptions], dict[str, Array]]
    points: Mapping[str, Any] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    inner: Callable[[Designs, RunOptions], dict[str, Array]] | None = None

    def at(self, points: Mapping[str, Any], carried: Mapping[str, Any]) -> "Networks":
        """The same at other estimates, without being compiled again."""
        out = Networks(self.shape, points, carried, self.inner)
        out.__dict__["_compiled"] = self._compiled
        out.__dict__["_compiled_inner"] = self._compiled_inner
        return out

    def within(self, program: Callable[[], Any]) -> Callable[[], Any]:
        """The NumPyro program in which what is known is no site any more."""
        data = {**self.points, **{name: dict(v) for name, v in self.carried.items()}}
        if not data:
            return program
        given = numpyro.handlers.substitute(program, data=data)
        return numpyro.handlers.block(given, hide=list(data))

    def bases(self, designs: Designs) -> dict[str, NDArray[np.float64]]:
        """By term label, (n, k) in inference mode; none while the estimates are not known."""
        return self._by_label(self._compiled, designs)

    def features(self, designs: Designs) -> dict[str, NDArray[np.float64]]:
        """By term label, (n, k) what the last layer of a network gets, in inference mode."""
        return {} if self.inner is None else self._by_label(self._compiled_inner, designs)

    def _by_label(self, compiled: Any, designs: Designs) -> dict[str, NDArray[np.float64]]:
        if not self.points:
            return {}
        n, parts = length(designs), []
        size = _share(n)
        for start in range(0, n, size):
            rows = np.arange(start, start + size).clip(max=n - 1)
            chunk = jax.tree.map(lambda a, rows=rows: jnp.asarray(a[rows]), designs)
            parts.append(compiled(self.points, self.carried, chunk))
        return {
            label: np.concatenate([np.asarray(part[label], np.float64) for part in parts])[:n]
            for label in parts[0]
        }

    @cached_property
    def _compiled(self) -> Any:
        return self._compile(self.shape)

    @cached_property
    def _compiled_inner(self) -> Any:
        return None if self.inner is None else self._compile(self.inner)

    def _compile(self, program: Callable[[Designs, RunOptions], dict[str, Array]]) -> Any:
        def columns(points: Any, carried: Any, designs: Designs) -> dict[str, Array]:
            replay = RunOptions(training=False, rows=length(designs))
            known = Networks(program, points, carried)
            run: Any = numpyro.handlers.seed(known.within(lambda: program(designs, replay)), 0)
            return run()

        return lazily(lambda f: jax.jit(f))(columns)


def _share(n: int) -> int:
    """Rows to take at once: even shares, of few sizes, since each size is compiled for."""
    even = -(-n // max(1, -(-n // _FORWARD)))
    unit = 2 ** max(0, even.bit_length() - 4)
    return -(-even // unit) * unit
