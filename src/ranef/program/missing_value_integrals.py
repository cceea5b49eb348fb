"""Integrals of a density over the missing values of each row, and draws of these values from it.

Let f_i(u) be the log density of row i as a function of its missing values u. Each u belongs to one
row, so the dimension of an integral of exp f_i(u) is the number of values that one row lacks,
however many rows there are. It is computed

- in closed form where f_i is quadratic (normal response and normal columns),
- otherwise by adaptive Gauss-Hermite quadrature about the mode (Liu and Pierce, 1994), as a product
  rule over the real-valued columns,
- by summing over all values of a binary or count column.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.lazy import Array, jax, jnp
from ranef.numerics.gauss_hermite import rule
from ranef.numerics.jax_cholesky import cholesky, solve
from ranef.numerics.shapes import Bool, Float

# A number for each of m rows.
Selected = Float[Array, "m"]
# Values of the d real-valued columns.
Matrix = Float[Array, "m d"]

# Gauss-Hermite nodes along each axis, by the number of real-valued columns with missing values. The
# product rules have 15, 81, 216, 256, 243 and 729 points.
_NODES = {1: 15, 2: 9, 3: 6, 4: 4, 5: 3, 6: 3}
# The largest number of real-valued columns with missing values that quadrature covers.
_MOST = max(_NODES)
# Newton steps towards the mode of f.
_STEPS = 8
# Largest change of one value in one Newton step, in sds of its column.
_FARTHEST = 2.0
# Lower bound on the eigenvalues of the negative Hessian in units of 1 / sd^2 of the columns. The
# value .25 lets the Gaussian approximation of u be at most two column sds wide.
_LEAST = 0.25
# Proposals per row of sampling importance resampling.
_CANDIDATES = 64
# Factor on the sds of the Gaussian approximation at the mode, to widen the proposal.
_WIDER = 1.2

# Families of a column with missing values: real-valued, binary, or a count.
FAMILIES = ("gaussian", "student", "bernoulli", "poisson", "negative_binomial")
# The largest observed count that is allowed. The sum over a missing count runs from 0 to twice the
# largest observed one plus 10.
_LARGEST_COUNT = 500


@dataclass(frozen=True)
class IncompleteColumn:
    """A column with missing values.

    Attributes:
        name: name of the column.
        unit: sd of its observed values over the training rows.
        support: the values that it can take; None for a real-valued column.
    """

    name: str
    unit: float
    support: Float[NDArray[np.float64], "support"] | None = None


def column(name: str, family: str, unit: float, largest: float) -> IncompleteColumn:
    """Describe a column with missing values by its family.

    Args:
        name: name of the column.
        family: one of `FAMILIES`.
        unit: sd of the observed values over the training rows.
        largest: the largest observed value.

    Returns:
        The column. Its support is {0, 1} for a Bernoulli column and 0, 1, ..., 2 `largest` + 10
        for a count.

    Raises:
        DataError: if the largest count is above 500, so that the sum over a missing count would
            be too long.
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
class MissingRows:
    """A selection of m rows whose missing values are integrated out or drawn.

    Attributes:
        columns: the incomplete columns.
        value: column name to its values; the entries of missing values are arbitrary.
        missing: column name to whether each value is missing.
        density: function of the completed columns that returns f_i of each row.
        quadratic: whether f is quadratic in all incomplete columns.
    """

    columns: tuple[IncompleteColumn, ...]
    value: Mapping[str, Selected]
    missing: Mapping[str, Bool[Array, "m"]]
    density: Callable[[Mapping[str, Selected]], Selected]
    quadratic: bool

    @cached_property
    def _numbers(self) -> tuple[IncompleteColumn, ...]:
        """The d real-valued columns."""
        return tuple(c for c in self.columns if c.support is None)

    @cached_property
    def _listed(self) -> tuple[tuple[IncompleteColumn, NDArray[np.float64]], ...]:
        """The binary and count columns, each with its support."""
        return tuple((c, c.support) for c in self.columns if c.support is not None)

    def log_integral(self) -> Selected:
        """Log of the integral of exp f over the missing values of each row."""
        if not self._listed:
            return self._over_numbers(self.value)
        return jax.scipy.special.logsumexp(self._by_choice(), axis=0)

    def drawn(self, key: Array | None) -> dict[str, Selected]:
        """Draw the missing values given the rest of each row.

        Draws are exact where f is quadratic, or where only binary and count columns have missing
        values. Other real-valued columns are drawn by sampling importance resampling.

        Args:
            key: PRNG key, as a handler with one supplies it.

        Returns:
            Column name to its completed values.
        """
        assert key is not None, "values are drawn within a handler with a PRNG key"
        choose, place, pick = jax.random.split(key, 3)
        value = dict(self.value)
        if self._listed:
            chosen = jax.random.categorical(choose, self._by_choice(), axis=0)
            for (column, _), own in zip(self._listed, self._choices.T, strict=True):
                value[column.name] = self._filled(column.name, jnp.asarray(own)[chosen])
        return self._drawn_numbers(value, place, pick) if self._numbers else value

    # Binary and count columns: sums over their support

    @cached_property
    def _choices(self) -> Float[NDArray[np.float64], "choices columns"]:
        """All combinations of values of the binary and count columns."""
        return np.array(list(product(*(support for _, support in self._listed))))

    def _by_choice(self) -> Float[Array, "choices m"]:
        """Log integral over the real-valued columns at each combination of the others.

        Where a binary or count column is observed, all values of its support yield the same
        integral, so log S is subtracted for a support of S values: it then counts once in the sum.
        """

        def at(choice: Float[Array, "columns"]) -> Selected:
            value = dict(self.value)
            for k, (column, _) in enumerate(self._listed):
                value[column.name] = self._filled(column.name, choice[k])
            return self._over_numbers(value)

        repeated = sum(
            jnp.where(self.missing[column.name], 0.0, np.log(len(support)))
            for column, support in self._listed
        )
        return jax.vmap(at)(jnp.asarray(self._choices)) - repeated

    def _filled(self, name: str, value: Selected | Float[Array, ""]) -> Selected:
        """Column `name` with its missing entries taken from `value`."""
        return jnp.where(self.missing[name], value, self.value[name])

    # Real-valued columns: closed form or quadrature

    @property
    def _free(self) -> Bool[Array, "m d"]:
        """Whether each real-valued column is missing."""
        return jnp.stack([self.missing[c.name] for c in self._numbers], axis=-1)

    @property
    def _unit(self) -> Float[Array, "d"]:
        """Sds of the real-valued columns."""
        return jnp.asarray([c.unit for c in self._numbers])

    def _function(
        self, value: Mapping[str, Selected]
    ) -> tuple[Callable[[Matrix], Selected], Matrix]:
        """Return f as a function of the real-valued columns, and their values in `value`."""

        def f(u: Matrix) -> Selected:
            own = {c.name: u[:, k] for k, c in enumerate(self._numbers)}
            return self.density({**value, **own})

        return f, jnp.stack([jnp.asarray(value[c.name]) for c in self._numbers], axis=-1)

    def _slopes(
        self, f: Callable[[Matrix], Selected], u: Matrix
    ) -> tuple[Matrix, Float[Array, "m d d"]]:
        """Gradient and negative Hessian of f in the missing values.

        Observed values have gradient zero and the rows and columns of an identity matrix.
        """
        gradient = jax.grad(lambda u: f(u).sum())
        along = [jnp.zeros_like(u).at[:, k].set(1.0) for k in range(u.shape[1])]
        slopes, seconds = zip(*(jax.jvp(gradient, (u,), (a,)) for a in along), strict=True)
        second = -jnp.stack(seconds, axis=-1)
        free = self._free
        both = free[:, :, None] & free[:, None, :]
        return jnp.where(free, slopes[0], 0.0), jnp.where(both, second, jnp.eye(u.shape[1]))

    def _over_numbers(self, value: Mapping[str, Selected]) -> Selected:
        """Log integral of exp f over the real-valued missing values.

        With gradient g and negative Hessian H = L L' at any u, a quadratic f has the integral
        exp(f(u) + g' H^-1 g / 2) (2 pi)^(d/2) / det L, d being the number of missing values.
        """
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
        # The integral does not depend on where the nodes are, up to quadrature error, so its
        # derivatives in theta leave out those of the mode and the curvature.
        if len(self._numbers) > _MOST:
            names = ", ".join(f"mi({c.name})" for c in self._numbers)
            raise DataError(
                f"{names} are {len(self._numbers)} columns with missing values, and beside a "
                f"response or a column that is not gaussian at most {_MOST} are integrated over; "
                "leave mi() out of some, which drops their rows, or take family='gaussian'"
            )
        mode, root = jax.lax.stop_gradient(self._mode(f, u))
        nodes, log_weights = _rule(len(self._numbers))

        def at(z: Float[Array, "d"]) -> Selected:
            each = jnp.where(self._free, z, 0.0)
            return f(mode + solve(root, each, transposed=True)) + 0.5 * (each**2).sum(axis=-1)

        values = jax.vmap(at)(jnp.asarray(nodes)) + jnp.asarray(log_weights)[:, None]
        log_det = self._log_det(root)
        return jax.scipy.special.logsumexp(values, axis=0) - log_det + constant

    def _log_det(self, root: Float[Array, "m d d"]) -> Selected:
        """Log determinant of the Cholesky factors over the missing values."""
        diagonal = jnp.diagonal(root, axis1=-2, axis2=-1)
        return jnp.where(self._free, jnp.log(diagonal), 0.0).sum(axis=-1)

    def _mode(
        self, f: Callable[[Matrix], Selected], u: Matrix
    ) -> tuple[Matrix, Float[Array, "m d d"]]:
        """The mode of f by damped Newton steps, and the curvature there.

        Eigenvalues of the negative Hessian are raised to at least `_LEAST`, because f need not be
        concave.

        Returns:
            The mode, and the Cholesky factor of the negative Hessian there.
        """
        unit = self._unit

        def positive(curvature: Array) -> Array:
            """Cholesky factor of the curvature with its eigenvalues bounded from below."""
            scaled = curvature * unit * unit[:, None]
            if len(unit) == 1:
                scaled = jnp.maximum(scaled, _LEAST)
            else:
                values, vectors = jnp.linalg.eigh(scaled)
                values = jnp.maximum(values, _LEAST)
                scaled = (vectors * values[:, None, :]) @ jnp.swapaxes(vectors, -1, -2)
            return cholesky(scaled / unit / unit[:, None])

        def step(_: object, u: Matrix) -> Matrix:
            slope, curvature = self._slopes(f, u)
            root = positive(curvature)
            away = solve(root, solve(root, slope), transposed=True)
            return u + jnp.where(self._free, jnp.clip(away, -_FARTHEST * unit, _FARTHEST * unit), 0)

        u = jax.lax.fori_loop(0, _STEPS, step, u)
        return u, positive(self._slopes(f, u)[1])

    def _drawn_numbers(
        self, value: Mapping[str, Selected], place: Array, pick: Array
    ) -> dict[str, Selected]:
        """The columns with real-valued missing entries drawn from exp f.

        Draws are exact where f is quadratic. Otherwise one of `_CANDIDATES` draws of the widened
        Gaussian approximation is chosen with its importance weight (Rubin, 1987).
        """
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


def _rule(
    d: int,
) -> tuple[Float[NDArray[np.float64], "nodes _"], Float[NDArray[np.float64], "nodes"]]:
    """Nodes (nodes, d) and log weights of a product rule for E[g(z)], z ~ N(0, I_d)."""
    nodes, weights = rule(d, _NODES[d])
    return nodes, np.log(weights)
