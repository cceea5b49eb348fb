"""Multiple imputation: draws of the missing values of a column in mi(), given all observed data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import ColumnError, suggestion
from ranef.inference.base import Draws
from ranef.lazy import Array, jax, jnp
from ranef.numerics.shapes import Float, Int, Shaped
from ranef.posterior.posterior import Posterior, tails_of
from ranef.priors import handlers
from ranef.program.training import Rows
from ranef.terms.base import RunOptions
from ranef.terms.capabilities import Incomplete

# Positions of the m missing values of a column among the training rows that are held.
Places = Int[NDArray[np.int64], "m"]
# The sites of one draw or of all draws, and completed columns, by name.
Arrays = dict[str, Array]

# Largest number of posterior draws that are used; more draws are thinned to this number.
_DRAWS = 1_000
# Largest value of draws x rows that is held at once.
_CELLS = 1_000_000


@dataclass(frozen=True)
class Imputation:
    """Posterior draws of the missing values of the training rows.

        p(x_mis | y, x_obs) = E[prod_i p(x_mis,i | y_i, x_obs,i, theta) | y, x_obs],

    where theta holds all parameters of the model. For every posterior draw of theta, the missing
    values of a row are drawn jointly from their conditional density.

    Attributes:
        posterior: the posterior of the fit.
        seed: seed of the draws.
    """

    posterior: Posterior
    seed: int

    def table(self, name: str, interval: float) -> Any:
        """The table of `Fit.imputed`.

        Raises:
            ColumnError: for a column that is in no mi().
            OptionError: if `interval` is not a probability.
        """
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

    def draws(self, name: str) -> tuple[Places, Float[NDArray[np.float64], "draws m"]]:
        """Draws of the missing values of a column.

        Returns:
            Positions of the missing values among the training rows that are held, and draws of
            the values.

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
                drawn = np.asarray(self._compiled(self._sites, self._rows(padded), key)[name])
                out[:, start : start + len(own)] = drawn[:, : len(own)]
        return places, out

    def observed(self, name: str) -> Float[NDArray[np.float64], "observed"]:
        """The observed values of a column, in the order of the rows."""
        column = self._column(name)
        return np.asarray(column["value"])[~np.asarray(column["missing"])]

    def _column(self, name: str) -> Mapping[str, Shaped[Array | NDArray, "n"]]:
        """The design arrays `value` and `missing` of a column in mi()."""
        terms = (term for _, term in self.posterior.program.terms_with(Incomplete))
        label = next(term.label for term in terms if term.column == name)
        return self.posterior.training.designs[label].arrays

    def _rows(self, places: Places) -> Rows:
        rows = self.posterior.training.in_memory
        return jax.tree.map(lambda a: jnp.asarray(a[places]), rows)

    def _row(self, places: Places) -> Places:
        """Positions in the fitted table of the training rows at `places`."""
        kept = self.posterior.training.rows.places
        return places if kept is None else np.asarray(kept)[places]

    @cached_property
    def _thinned(self) -> Draws:
        return self.posterior.draws.thinned(_DRAWS)

    @cached_property
    def _sites(self) -> Arrays:
        sites = self._thinned.sites
        return {name: jnp.asarray(sites[name][0]) for name in sites}

    @cached_property
    def _count(self) -> int:
        return next((len(value) for value in self._sites.values()), 1)

    @cached_property
    def _compiled(self) -> Callable[[Arrays, Rows, Array], Arrays]:
        """The compiled function from (sites, rows, key) to completed columns at every draw."""
        program, state = self.posterior.program, self.posterior.training.state
        draws = self._thinned
        known = {**draws.points, **{name: dict(v) for name, v in draws.carried.items()}}
        replay = RunOptions(training=False)

        def every(sites: Arrays, rows: Rows, key: Array) -> Arrays:
            def one(sites: Arrays, key: Array) -> Arrays:
                seeded = handlers.seeded(program.imputed, key)
                run = handlers.substituted(seeded, {**sites, **known})
                return run(state, rows.designs, rows.response, replay)

            return jax.vmap(one)(sites, jax.random.split(key, self._count))

        return jax.jit(every)
