"""What the missing values of a column may have been: draws given all that was observed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import ColumnError, suggestion
from ranef.lazy import jax, jnp, numpyro
from ranef.posterior.posterior import Posterior, tails_of
from ranef.terms.base import RunOptions

# Draws of the posterior behind the values, and draws times rows held at once.
_DRAWS, _CELLS = 1_000, 1_000_000


@dataclass(frozen=True)
class Imputation:
    """Missing values of the training rows.

        p(x_mis | y, x_obs) = E[p(x_mis,i | y_i, x_obs,i, theta) | y, x_obs]

    Each draw of theta draws the missing values of a row together, from their density given it.

    Attributes:
        posterior: of the fit.
        seed: of what is drawn.
    """

    posterior: Posterior
    seed: int

    def table(self, name: str, interval: float) -> Any:
        """`Fit.imputed`."""
        tails = tails_of(interval)
        places, values = self.draws(name)
        lower, upper = np.quantile(values, tails, axis=0) if len(places) else np.zeros((2, 0))
        return self.posterior.training.rows.labels.at(places).table(
            {
                "row": self._row(places),
                "mean": values.mean(axis=0),
                "sd": values.std(axis=0, ddof=1),
                "lower": lower,
                "upper": upper,
            }
        )

    def draws(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places among the training rows that are held, (m,), and draws of their values, (S, m).

        Raises:
            ColumnError: for a column that is in no mi().
        """
        program = self.posterior.program
        if name not in program.columns:
            hint = suggestion(str(name), program.columns) if program.columns else "it has none"
            raise ColumnError(
                f"the formula has no mi({name}), whose missing values to tell; {hint}"
            )
        places = np.flatnonzero(self._column(name)["missing"])
        size = max(1, min(len(places), _CELLS // self._count))
        out = np.zeros((self._count, len(places)))
        with jax.enable_x64(True):
            for start in range(0, len(places), size):
                own = places[start : start + size]
                padded = np.pad(own, (0, size - len(own)), mode="edge")
                key = jax.random.fold_in(jax.random.key(self.seed), start)
                drawn = np.asarray(self._compiled(self._sites, *self._rows(padded), key)[name])
                out[:, start : start + len(own)] = drawn[:, : len(own)]
        return places, out

    def observed(self, name: str) -> NDArray[np.float64]:
        """The values that are not missing, in the order of the rows."""
        column = self._column(name)
        return np.asarray(column["value"])[~np.asarray(column["missing"])]

    def _column(self, name: str) -> Mapping[str, Any]:
        terms = (term for _, term in self.posterior.program.all_terms())
        label = next(term.label for term in terms if name in term.incomplete())
        return self.posterior.training.designs[label].arrays

    def _rows(self, places: NDArray[np.int64]) -> Any:
        training = self.posterior.training
        held = (training.designs, training.response)
        return jax.tree.map(lambda a: jnp.asarray(a[places]), held)

    def _row(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows that are used stand in the table."""
        kept = self.posterior.training.rows.places
        return places if kept is None else np.asarray(kept)[places]

    @cached_property
    def _thinned(self) -> Any:
        return self.posterior.draws.thinned(_DRAWS)

    @cached_property
    def _sites(self) -> dict[str, Any]:
        sites = self._thinned.sites
        return {name: jnp.asarray(sites[name][0]) for name in sites}

    @cached_property
    def _count(self) -> int:
        return next((len(value) for value in self._sites.values()), 1)

    @cached_property
    def _compiled(self) -> Any:
        program, state = self.posterior.program, self.posterior.training.state
        draws = self._thinned
        given = {**draws.points, **{name: dict(v) for name, v in draws.carried.items()}}
        replay = RunOptions(training=False)

        def every(sites: Any, designs: Any, response: Any, key: Any) -> dict[str, Any]:
            def one(sites: Any, key: Any) -> dict[str, Any]:
                seeded = numpyro.handlers.seed(program.imputed, key)
                run: Any = numpyro.handlers.substitute(seeded, data={**sites, **given})
                return run(state, designs, response, replay)

            return jax.vmap(one)(sites, jax.random.split(key, self._count))

        return jax.jit(every)
