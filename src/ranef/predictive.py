"""The program replayed on new rows with draws of its sites: never a second implementation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpy.typing import NDArray
from scipy.special import logsumexp

from ranef.errors import DataError
from ranef.families.base import ResponseDesign
from ranef.inference.base import Draws
from ranef.program import Designs, Program, State
from ranef.terms.base import Replay

# Draws times rows held at once.
_CELLS = 4_000_000


@dataclass(frozen=True)
class Predictive:
    """Parameters of the response on any rows, one set for each draw.

    Attributes:
        program, state: the model and what it learned.
        draws: of its sites.
        replay: how new levels are treated.
        seed: for coefficients of new levels and for response noise.
    """

    program: Program
    state: State
    draws: Draws
    replay: Replay
    seed: int

    @cached_property
    def _sites(self) -> dict[str, Array]:
        """Draws with chains and draws in one leading axis."""
        return {
            name: jnp.asarray(value.reshape(-1, *value.shape[2:]))
            for name, value in self.draws.sites.items()
        }

    def _size(self) -> int:
        return len(next(iter(self._sites.values()))) if self._sites else 1

    def over(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> Iterator[tuple[ResponseDesign, dict[str, Array], int]]:
        """Chunks of rows: response design, parameters (draws, rows), rows that count.

        Every chunk has the same number of rows, the last padded with its first row, so that
        one compiled program serves all.
        """
        size = max(1, min(n, _CELLS // self._size()))
        key = jax.random.key(self.seed)
        for start in range(0, n, size):
            stop = min(n, start + size)
            rows = np.r_[start:stop, np.full(size - (stop - start), start)]
            part, companion = jax.tree.map(lambda a, i=rows: jnp.asarray(a[i]), (designs, response))
            yield companion, self._run(part, key), stop - start

    @cached_property
    def _run(self) -> Any:
        """Designs and a key to each family parameter, (draws, rows)."""
        given = {**self.draws.points}
        carried = self.draws.carried

        def one(sites: Mapping[str, Array], key: Array, designs: Designs) -> dict[str, Array]:
            data = {**sites, **given, **{name: dict(v) for name, v in carried.items()}}
            seeded = numpyro.handlers.seed(self.program, key)
            run = numpyro.handlers.substitute(seeded, data=data)
            values: Any = run(self.state, designs, replay=self.replay)
            return {name: jnp.atleast_1d(v) for name, v in values.items()}

        @jax.jit
        def every(sites: dict[str, Array], designs: Designs, key: Array) -> dict[str, Array]:
            size = self._size()
            keys = jax.random.split(key, size)
            out = jax.vmap(one, in_axes=(0, 0, None))(sites, keys, designs)
            rows = jax.tree.leaves(designs)[0].shape[0]
            return {name: jnp.broadcast_to(v, (size, rows)) for name, v in out.items()}

        return lambda designs, key: every(self._sites, designs, key)

    def summaries(
        self, designs: Designs, response: ResponseDesign, n: int, kind: str, interval: float
    ) -> dict[str, NDArray[np.float64]]:
        """mean, sd, lower and upper of each row, of the mean or of a response."""
        with jax.enable_x64(True):
            return self._summaries(designs, response, n, kind, interval)

    def _summaries(
        self, designs: Designs, response: ResponseDesign, n: int, kind: str, interval: float
    ) -> dict[str, NDArray[np.float64]]:
        family = self.program.family
        tails = [(1 - interval) / 2, (1 + interval) / 2]
        parts: list[tuple[NDArray, ...]] = []
        rng = np.random.default_rng(self.seed)
        for companion, values, count in self.over(designs, response, n):
            shape = next(iter(values.values())).shape
            location = np.asarray(family.mean(companion, **values), dtype=np.float64)[:, :count]
            if not np.isfinite(location).all():
                raise DataError(
                    "the prediction of some rows is not a finite number; their columns lie too far "
                    "from the training rows"
                )
            variance = location.var(axis=0)
            cells = location
            if kind == "response":
                spread = family.variance(companion, **values)
                inner = np.asarray(jnp.broadcast_to(spread, shape), dtype=np.float64)
                variance = variance + inner.mean(axis=0)[:count]
                cells = np.asarray(family.sample(rng, companion, **values), np.float64)[:, :count]
            lower, upper = np.quantile(cells, tails, axis=0)
            parts.append((location.mean(axis=0), np.sqrt(variance), lower, upper))
        columns = [np.concatenate(c) for c in zip(*parts, strict=True)]
        return dict(zip(("mean", "sd", "lower", "upper"), columns, strict=True))

    def log_scores(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> list[NDArray[np.float64]]:
        """Log mean_s p(y_i | draw s), in chunks of rows."""
        out = []
        with jax.enable_x64(True):
            for companion, values, count in self.over(designs, response, n):
                density = self.program.family.distribution(companion, **values)
                each = np.asarray(density.log_prob(jnp.asarray(companion.value)))[:, :count]
                out.append(logsumexp(each, axis=0) - np.log(len(each)))
        return out
