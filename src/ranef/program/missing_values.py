"""Rows with missing values, which are integrated over, row by row.

A row's missing values u have, given all parameters theta, the density

    exp f_i(u),   f_i(u) = log p(y_i | u, theta) + sum_k log p(x_ik | u, theta)

up to its integral, which is what row i adds to the likelihood of theta. Each u belongs to one row
alone, so the integrals are of few dimensions, whatever the number of rows:

- where f_i is quadratic (normal responses and columns) in closed form;
- else by Gauss-Hermite quadrature about the mode (Liu and Pierce, 1994), a product rule over the
  columns that are missing;
- over a binary column or a count by summing.

So no method meets a latent for every missing value, minibatches need no state for them, and
values are drawn afterwards from their conditional given y_i and theta.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.families.base import Family, ResponseDesign
from ranef.lazy import Array, jax, jnp
from ranef.numerics.gauss_hermite import rule
from ranef.numerics.jax_cholesky import cholesky, solve

# Nodes along each of so many columns without an enumerated support.
_NODES = {1: 15, 2: 9, 3: 6, 4: 4, 5: 3, 6: 3}
_MOST = max(_NODES)
# Newton steps to the mode, and how far one may go in sds of the column.
_STEPS, _FARTHEST = 8, 2.0
# The least precision of a proposal, in sds of the column: wider than this a column is not.
_LEAST = 0.25
# Candidates of which a value is drawn, and how much wider than the mode's curvature they lie.
_CANDIDATES, _WIDER = 64, 1.2

# What a column with missing values may be: any number, 0 or 1, or a count.
FAMILIES = ("gaussian", "student", "bernoulli", "poisson", "negative_binomial")
# The largest count that may be observed: a missing one is summed up to twice that, and some.
_LARGEST_COUNT = 500


@dataclass(frozen=True)
class IncompleteColumn:
    """A column with missing values.

    Attributes:
        name: of the column.
        unit: its sd over the training rows.
        support: the values that it may have, (S,); None for any number.
    """

    name: str
    unit: float
    support: NDArray[np.float64] | None = None


def column(name: str, family: str, unit: float, largest: float) -> IncompleteColumn:
    """The column of a family, `largest` being the largest value observed.

    Raises:
        DataError: for counts too large to be summed over.
    """
    if family in ("gaussian", "student"):
        return IncompleteColumn(name, unit)
    if family == "bernoulli":
        return IncompleteColumn(name, unit, np.array([0.0, 1.0]))
    if largest > _LARGEST_COUNT:
        raise DataError(
            f"mi({name}, family={family}) sums over the counts that a missing one may be, and "
            f"{largest:,.0f} is more than {_LARGEST_COUNT}; leave the family out, or put the "
            "logarithm into a column and take that"
        )
    return IncompleteColumn(name, unit, np.arange(2.0 * largest + 11.0))


@dataclass(frozen=True)
class ConditionalDensity:
    """What the response, or a column, is distributed as.

    Attributes:
        family: of it.
        at: columns, by name and without gaps, (m,), and the places of these rows, to each
            parameter on its link's scale.
        straight: whether only the location depends on columns with missing values.
        response: the rows of the response; None for a column, whose values are among the columns.
    """

    family: Family
    at: Callable[[Mapping[str, Array], Any], dict[str, Array]]
    straight: bool
    response: ResponseDesign | None = None

    def log_density(self, name: str, completed: Mapping[str, Array], rows: Any) -> Array:
        """(m,) of the column of that name, or of the response."""
        own: ResponseDesign = (
            ResponseDesign(completed[name])
            if self.response is None
            else jax.tree.map(lambda a: jnp.asarray(a)[rows], self.response)
        )
        return self.family.log_density(own, **self.at(completed, rows))

    @property
    def is_quadratic(self) -> bool:
        """Whether the log density is quadratic in the columns."""
        return self.straight and self.family.quadratic


@dataclass(frozen=True)
class MissingDataLikelihood:
    """Rows of which some have missing values.

    Attributes:
        columns: with missing values.
        value: of each column, by name, (n,); anything where it is missing.
        missing: of each column, by name, (n,).
        densities: of each column, by name, and of the response, by "".
    """

    columns: tuple[IncompleteColumn, ...]
    value: Mapping[str, Array]
    missing: Mapping[str, Array]
    densities: Mapping[str, ConditionalDensity]

    @property
    def n(self) -> int:
        return len(next(iter(self.value.values())))

    def without_response(self) -> "MissingDataLikelihood":
        """The same rows, as far as their columns say."""
        return replace(
            self, densities={name: density for name, density in self.densities.items() if name}
        )

    def density(self, completed: Mapping[str, Array], rows: Any) -> Array:
        """F of some rows, (m,), with these values of the columns."""
        each = [
            density.log_density(name, completed, rows) for name, density in self.densities.items()
        ]
        return jnp.sum(jnp.stack(each), axis=0)

    def log_likelihood(self, most: int) -> Array:
        """Sum over the rows of log p(y_i, x_i observed | theta), the missing integrated out.

        Args:
            most: how many rows with a gap there are at most.
        """
        gap = jnp.stack([self.missing[c.name] for c in self.columns]).any(axis=0)
        total = jnp.where(gap, 0.0, self.density(self.value, slice(None))).sum()
        if not most:
            return total
        size = min(most, self.n)
        rows = jnp.nonzero(gap, size=size, fill_value=0)[0]
        integral = self.at(rows).log_integral()
        return total + jnp.where(jnp.arange(size) < gap.sum(), integral, 0.0).sum()

    def log_density(self) -> Array:
        """Log p(y_i | x_i observed, theta), (n,)."""
        whole = slice(None)
        alone = self.without_response().at(whole).log_integral()
        return self.at(whole).log_integral() - alone

    def at(self, rows: Any) -> "MissingRows":
        """Some of the rows, whose missing values can be integrated over or drawn."""
        return MissingRows(
            self.columns,
            {name: own[rows] for name, own in self.value.items()},
            {name: own[rows] for name, own in self.missing.items()},
            lambda completed: self.density(completed, rows),
            all(density.is_quadratic for density in self.densities.values()),
        )


@dataclass(frozen=True)
class MissingRows:
    """Rows at hand, (m,): as `MissingDataLikelihood`, f being a function of the values alone.

    Attributes:
        quadratic: whether f is quadratic in all columns.
    """

    columns: tuple[IncompleteColumn, ...]
    value: Mapping[str, Array]
    missing: Mapping[str, Array]
    density: Callable[[Mapping[str, Array]], Array]
    quadratic: bool

    @cached_property
    def _numbers(self) -> tuple[IncompleteColumn, ...]:
        return tuple(c for c in self.columns if c.support is None)

    @cached_property
    def _listed(self) -> tuple[tuple[IncompleteColumn, NDArray[np.float64]], ...]:
        return tuple((c, c.support) for c in self.columns if c.support is not None)

    def log_integral(self) -> Array:
        """Log of the integral of exp f over what is missing, (m,)."""
        if not self._listed:
            return self._over_numbers(self.value)
        return jax.scipy.special.logsumexp(self._by_choice(), axis=0)

    def drawn(self, key: Any) -> dict[str, Array]:
        """All columns, what is missing drawn from its density given the rest of the row."""
        choose, place, pick = jax.random.split(key, 3)
        value = dict(self.value)
        if self._listed:
            chosen = jax.random.categorical(choose, self._by_choice(), axis=0)
            for (column, _), own in zip(self._listed, self._choices.T, strict=True):
                value[column.name] = self._filled(column.name, jnp.asarray(own)[chosen])
        return self._drawn_numbers(value, place, pick) if self._numbers else value

    # Columns whose values are listed

    @cached_property
    def _choices(self) -> NDArray[np.float64]:
        """(C, D) every combination of their values."""
        return np.array(list(product(*(support for _, support in self._listed))))

    def _by_choice(self) -> Array:
        """Log integral over the numbers at each combination, (C, m).

        A column that is observed has its own value in all of them, and counts once.
        """

        def at(choice: Array) -> Array:
            value = dict(self.value)
            for k, (column, _) in enumerate(self._listed):
                value[column.name] = self._filled(column.name, choice[k])
            return self._over_numbers(value)

        repeated = sum(
            jnp.where(self.missing[column.name], 0.0, np.log(len(support)))
            for column, support in self._listed
        )
        return jax.vmap(at)(jnp.asarray(self._choices)) - repeated

    def _filled(self, name: str, value: Array) -> Array:
        return jnp.where(self.missing[name], value, self.value[name])

    # Numbers

    @property
    def _free(self) -> Array:
        """(m, D) whether each is missing."""
        return jnp.stack([self.missing[c.name] for c in self._numbers], axis=-1)

    @property
    def _unit(self) -> Array:
        return jnp.asarray([c.unit for c in self._numbers])

    def _function(self, value: Mapping[str, Array]) -> tuple[Callable[[Array], Array], Array]:
        """F of the numbers (m, D), and where they are."""

        def f(u: Array) -> Array:
            own = {c.name: u[:, k] for k, c in enumerate(self._numbers)}
            return self.density({**value, **own})

        return f, jnp.stack([jnp.asarray(value[c.name]) for c in self._numbers], axis=-1)

    def _slopes(self, f: Callable[[Array], Array], u: Array) -> tuple[Array, Array]:
        """Gradient (m, D) and negative Hessian (m, D, D) in what is missing; 0 and 1 elsewhere."""
        gradient = jax.grad(lambda u: f(u).sum())
        along = [jnp.zeros_like(u).at[:, k].set(1.0) for k in range(u.shape[1])]
        slopes, seconds = zip(*(jax.jvp(gradient, (u,), (a,)) for a in along), strict=True)
        second = -jnp.stack(seconds, axis=-1)
        free = self._free
        both = free[:, :, None] & free[:, None, :]
        return jnp.where(free, slopes[0], 0.0), jnp.where(both, second, jnp.eye(u.shape[1]))

    def _over_numbers(self, value: Mapping[str, Array]) -> Array:
        if not self._numbers:
            return self.density(value)
        f, u = self._function(value)
        constant = 0.5 * np.log(2 * np.pi) * self._free.sum(axis=-1)
        if self.quadratic:
            slope, curvature = self._slopes(f, u)
            root = cholesky(curvature)
            half = solve(root, slope)
            log_det = self._log_det(root)
            return f(u) + 0.5 * (half**2).sum(axis=-1) - log_det + constant
        # The nodes are a choice, on which the integral does not depend: no derivative goes
        # through them.
        if len(self._numbers) > _MOST:
            names = ", ".join(f"mi({c.name})" for c in self._numbers)
            raise DataError(
                f"{names} are {len(self._numbers)} columns with missing values, and beside a "
                f"response or a column that is not gaussian at most {_MOST} are integrated over; "
                "leave mi() out of some, which drops their rows, or take family='gaussian'"
            )
        mode, root = jax.lax.stop_gradient(self._mode(f, u))
        nodes, log_weights = _rule(len(self._numbers))

        def at(z: Array) -> Array:
            z = jnp.where(self._free, z, 0.0)
            return f(mode + solve(root, z, transposed=True)) + 0.5 * (z**2).sum(axis=-1)

        values = jax.vmap(at)(jnp.asarray(nodes)) + jnp.asarray(log_weights)[:, None]
        log_det = self._log_det(root)
        return jax.scipy.special.logsumexp(values, axis=0) - log_det + constant

    def _log_det(self, root: Array) -> Array:
        diagonal = jnp.diagonal(root, axis1=-2, axis2=-1)
        return jnp.where(self._free, jnp.log(diagonal), 0.0).sum(axis=-1)

    def _mode(self, f: Callable[[Array], Array], u: Array) -> tuple[Array, Array]:
        """The mode (m, D) by damped Newton steps, and the root (m, D, D) of the curvature there.

        A curvature that is negative, as it may be away from the mode and where f is not concave,
        is taken for a small positive one.
        """
        unit = self._unit

        def positive(curvature: Array) -> Array:
            scaled = curvature * unit * unit[:, None]
            if len(unit) == 1:
                scaled = jnp.maximum(scaled, _LEAST)
            else:
                values, vectors = jnp.linalg.eigh(scaled)
                values = jnp.maximum(values, _LEAST)
                scaled = (vectors * values[:, None, :]) @ jnp.swapaxes(vectors, -1, -2)
            return cholesky(scaled / unit / unit[:, None])

        def step(_: Any, u: Array) -> Array:
            slope, curvature = self._slopes(f, u)
            root = positive(curvature)
            away = solve(root, solve(root, slope), transposed=True)
            return u + jnp.where(self._free, jnp.clip(away, -_FARTHEST * unit, _FARTHEST * unit), 0)

        u = jax.lax.fori_loop(0, _STEPS, step, u)
        return u, positive(self._slopes(f, u)[1])

    def _drawn_numbers(self, value: Mapping[str, Array], place: Any, pick: Any) -> dict[str, Array]:
        f, u = self._function(value)
        if self.quadratic:
            slope, curvature = self._slopes(f, u)
            root = cholesky(curvature)
            mode = u + solve(root, solve(root, slope), transposed=True)
            z = jax.random.normal(place, u.shape)
            found = mode + solve(root, z, transposed=True)
        else:
            mode, root = self._mode(f, u)
            z = jax.random.normal(place, (_CANDIDATES, *u.shape))
            z = jnp.where(self._free, z, 0.0)
            each = mode + _WIDER * jax.vmap(lambda z: solve(root, z, transposed=True))(z)
            weights = jax.vmap(f)(each) + 0.5 * (z**2).sum(axis=-1)
            chosen = jax.random.categorical(pick, weights, axis=0)
            found = each[chosen, jnp.arange(len(u))]
        own = {c.name: self._filled(c.name, found[:, k]) for k, c in enumerate(self._numbers)}
        return {**value, **own}


def _rule(d: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes (Q, d) and log weights (Q,) of E[g(z)], z standard normal: a product of d rules."""
    nodes, weights = rule(d, _NODES[d])
    return nodes, np.log(weights)
