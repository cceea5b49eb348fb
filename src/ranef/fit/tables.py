"""Tables of a fit: summaries, coefficients, effects of levels, imputed values, equations."""

from __future__ import annotations

import pandas as pd

from ranef.data.row_labels import Table
from ranef.errors import whole_number
from ranef.fit.base import FittedModel
from ranef.formula.printed_equations import Equations
from ranef.posterior.imputation import Imputation
from ranef.posterior.summary import Summary


class Tables(FittedModel):
    """The part of `Fit` that returns estimates as tables."""

    def summary(self, interval: float = 0.9) -> Summary:
        """Posterior mean, sd and central interval of every parameter.

        The effects of single levels are in `ranef`, and the weights of a network in `posterior`.

        Args:
            interval: probability of the central interval.

        Returns:
            A table by parameter with the columns mean, sd, lower, upper and kind. It prints the
            verdict of `check(quick=True)` below itself. `kind` is "posterior", "derived" for
            functions of other parameters, and "point estimate" or "fixed" for parameters without
            a posterior, whose sd is 0 and whose interval has no width. Rows named ``share(g)``
            hold the share of variance that the grouping g explains: the variance of its effects
            in the linear predictor, divided by the sum of the variances of the common effects,
            of all groupings and of the residual. These are means over rows; the residual
            variance is sigma^2 / w with weights(y, w), and the squared scale for student.

        Raises:
            OptionError: if `interval` is not a probability.
        """
        return Summary.of(self._known.summary(interval), self._verdict)

    def _verdict(self) -> str:
        """The lines below a summary: notes on the response, and the verdict with its symptoms."""
        check_ = self.check(quick=True)
        more = len(check_.symptoms) - 1
        first = f": {check_.symptoms[0].sign}" if check_.symptoms else ""
        rest = f", and {more} more" if more > 0 else ""
        if check_.verdict == "unchecked" and self._cache.check is None:
            rest += "; fit.check() takes a second opinion"
        elif more > 0:
            rest += "; see fit.check()"
        return "\n".join([*self._notes(), f"verdict: {check_.verdict}{first}{rest}"])

    def fixef(self) -> pd.DataFrame:
        """Posterior mean and sd of the common effects (fixed effects), by parameter."""
        return self._known.table("common")

    def varcorr(self) -> pd.DataFrame:
        """Posterior mean and sd of the sds and correlations of group effects, and of sigma."""
        residual = self._known.table("family")
        parts = [self._known.table("sd", "correlation"), residual.loc[residual.index == "sigma", :]]
        return pd.concat(parts)

    def ranef(self, factor: str) -> Table:
        """Group effects (random effects) of the levels of one grouping.

        Args:
            factor: the grouping as in the formula, such as "g" or "a:b".

        Returns:
            A table with one row for each level and term, and the columns term, mean and sd (of
            the posterior). It is a pandas table whose index holds the levels; for a fit of a
            polars table it is a polars table with the levels in its first column. Levels have
            the type of the grouping's column, such as integers or dates; levels read from a CSV
            file are texts, and so are combined levels of several columns, "a:b".

        Raises:
            ColumnError: if the model does not have the grouping.
        """
        return self._known.effects(factor)

    def imputed(self, column: str, interval: float = 0.9, seed: int = 0) -> Table:
        """Posterior of the missing values of a column in mi(), given all observed data.

        Args:
            column: name of the column.
            interval: probability of the central interval.
            seed: seed of the draws.

        Returns:
            A table with one row for each missing value of the training rows, and the columns row
            (position in the fitted table, from 0), mean, sd, lower and upper. For a fit of a
            pandas table it has the index of those rows; for a fit of a polars table it is a
            polars table. If the fit has read its rows in batches, positions refer to the sample
            of rows that it has kept.

        Raises:
            ColumnError: for a column that is in no mi().
            OptionError: if `interval` is not a probability.
        """
        seed = whole_number("seed", seed, least=0)
        return Imputation(self._known, seed).table(column, interval)

    def equations(self) -> Equations:
        """The model as equations, one text each, with subscripts written as ``_{...}``.

        The list prints one equation a line, and a notebook shows it as mathematics.
        """
        return Equations(self.program.equations(self.training.state))
