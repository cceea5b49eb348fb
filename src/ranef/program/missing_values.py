"""The likelihood of rows with missing values, which are integrated out row by row.

Let u be the missing values of row i, and theta all parameters. Given theta, the log density of the
row as a function of u is

    f_i(u) = log p(y_i | u, theta) + sum_k log p(x_ik | u, theta)

where k runs over the incomplete columns. The row contributes log of the integral of exp f_i(u) du
to the log likelihood, and the missing values have the density exp f_i(u) up to this integral
(``missing_value_integrals``).

Inference methods therefore see no latent variable per missing value, and minibatches need no state
for them. Missing values are drawn after the fit from their conditional density given y_i and theta.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ranef.families.base import Family
from ranef.families.response_design import ResponseDesign
from ranef.lazy import Array, jax, jnp
from ranef.numerics.shapes import Bool, Float
from ranef.program.missing_value_integrals import IncompleteColumn, MissingRows, Selected
from ranef.terms.blocks import RowPlaces

# A number for each of n rows.
Vector = Float[Array, "n"]


@dataclass(frozen=True)
class ConditionalDensity:
    """The conditional density of the response, or of an incomplete column, given the other columns.

    Attributes:
        family: its family.
        at: function of the completed columns, by name, and the places of their rows among all
            rows. It returns each family parameter on the scale of its link.
        straight: whether incomplete columns enter the predictor of the location alone.
        response: design of the response on all rows; None for the density of a column, whose
            values are taken from the completed columns.
    """

    family: Family
    at: Callable[[Mapping[str, Selected], RowPlaces], dict[str, Array]]
    straight: bool
    response: ResponseDesign | None = None

    def log_density(
        self, name: str, completed: Mapping[str, Selected], rows: RowPlaces
    ) -> Selected:
        """Log density of column `name`, or of the response, at the rows `rows`."""
        own: ResponseDesign = (
            ResponseDesign(completed[name])
            if self.response is None
            else jax.tree.map(lambda a: jnp.asarray(a)[rows], self.response)
        )
        return self.family.log_density(own, **self.at(completed, rows))

    @property
    def is_quadratic(self) -> bool:
        """Whether the log density is quadratic in the incomplete columns."""
        return self.straight and self.family.quadratic


@dataclass(frozen=True)
class MissingDataLikelihood:
    """The likelihood of n rows, some of which have missing values.

    Attributes:
        columns: the incomplete columns.
        value: column name to its values; the entries of missing values are arbitrary.
        missing: column name to whether each value is missing.
        densities: column name to the conditional density of the column; "" to that of the
            response.
    """

    columns: tuple[IncompleteColumn, ...]
    value: Mapping[str, Vector]
    missing: Mapping[str, Bool[Array, "n"]]
    densities: Mapping[str, ConditionalDensity]

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(next(iter(self.value.values())))

    def without_response(self) -> "MissingDataLikelihood":
        """The joint density of the incomplete columns alone."""
        return replace(
            self, densities={name: density for name, density in self.densities.items() if name}
        )

    def density(self, completed: Mapping[str, Selected], rows: RowPlaces) -> Selected:
        """Values f_i of the rows `rows` at their completed columns."""
        each = [
            density.log_density(name, completed, rows) for name, density in self.densities.items()
        ]
        return jnp.sum(jnp.stack(each), axis=0)

    def log_likelihood(self, most: int) -> Float[Array, ""]:
        """Log likelihood sum_i log p(y_i, x_i observed | theta), missing values integrated out.

        Args:
            most: upper bound on the number of rows with a missing value. It fixes array shapes, so
                that only these rows are integrated within a compiled function.
        """
        gap = jnp.stack([self.missing[c.name] for c in self.columns]).any(axis=0)
        total = jnp.where(gap, 0.0, self.density(self.value, slice(None))).sum()
        if not most:
            return total
        size = min(most, self.n)
        rows = jnp.nonzero(gap, size=size, fill_value=0)[0]
        integral = self.at(rows).log_integral()
        return total + jnp.where(jnp.arange(size) < gap.sum(), integral, 0.0).sum()

    def log_density(self) -> Vector:
        """Log p(y_i | x_i observed, theta) of every row."""
        whole = slice(None)
        alone = self.without_response().at(whole).log_integral()
        return self.at(whole).log_integral() - alone

    def at(self, rows: RowPlaces) -> MissingRows:
        """The rows `rows`, ready to integrate over or draw their missing values."""
        return MissingRows(
            self.columns,
            {name: own[rows] for name, own in self.value.items()},
            {name: own[rows] for name, own in self.missing.items()},
            lambda completed: self.density(completed, rows),
            all(density.is_quadratic for density in self.densities.values()),
        )
