"""Tables of a fit: summaries, coefficients, effects of levels, imputed values, equations."""

from __future__ import annotations

import pandas as pd

from ranef.data.row_labels import Table
from ranef.errors import OptionError, whole_number
from ranef.fit.base import FittedModel
from ranef.formula.printed_equations import Equations
from ranef.posterior.coefficient_tables import CoefficientTables
from ranef.posterior.imputation import Imputation
from ranef.posterior.summary import Summary
from ranef.posterior.variance_explained import VarianceExplained


class Tables(FittedModel):
    """The part of `Fit` that returns estimates as tables."""

    @property
    def _tables(self) -> CoefficientTables:
        return CoefficientTables(self._known)

    def summary(self, interval: float = 0.9, exp: bool = False) -> Summary:
        """Posterior mean, sd and central interval of every parameter.

        The effects of single levels are in `ranef`, and the weights of a network in `posterior`.

        Args:
            interval: probability of the central interval.
            exp: whether to show exp(b) for each common effect b of a predictor that is a
                logarithm, log odds or log hazard. The column `scale` then says what it is: an
                "odds ratio", "rate ratio" (counts), "mean ratio" (other log links), "median
                ratio" (lognormal), "hazard ratio" (complementary log-log), or of an intercept
                "odds", "rate", ...; for ordinal responses the odds are those of a category above
                any threshold, for categorical ones those against the first category. The limits
                are the exponentials of those of b; mean and sd are those of exp(b). Rows with an
                empty `scale`, such as sds, are as without `exp`.

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
            OptionError: if `interval` is not a probability, or for `exp` with a model of which
                no predictor is on such a scale, as with the identity link.
        """
        if not isinstance(exp, bool):
            raise OptionError(f"exp must be True or False, not {exp!r}")
        return Summary.of(self._tables.summary(interval, exp), self._verdict)

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

    def fixef(self, interval: float | None = None) -> pd.DataFrame:
        """Posterior mean and sd of the common effects (fixed effects), by parameter.

        Args:
            interval: probability of the central interval, whose limits are the columns lower and
                upper; None for no interval.

        Raises:
            OptionError: if `interval` is neither None nor a probability.
        """
        return self._tables.table("common", interval=interval)

    def varcorr(self, interval: float | None = None) -> pd.DataFrame:
        """Posterior mean and sd of the sds and correlations of group effects, and of sigma.

        Args:
            interval: as for `fixef`.

        Raises:
            OptionError: if `interval` is neither None nor a probability.
        """
        residual = self._tables.table("family", interval=interval)
        groups = self._tables.table("sd", "correlation", interval=interval)
        return pd.concat([groups, residual.loc[residual.index == "sigma", :]])

    def ranef(self, factor: str, interval: float | None = None) -> Table:
        """Group effects (random effects) of the levels of one grouping.

        Args:
            factor: the grouping as in the formula, such as "g" or "a:b".
            interval: as for `fixef`. The limits are quantiles of draws, which are made for some
                levels at a time where there are very many.

        Returns:
            A table with one row for each level and term, and the columns term, mean and sd (of
            the posterior). It is a pandas table whose index holds the levels; for a fit of a
            polars table it is a polars table with the levels in its first column. Levels have
            the type of the grouping's column, such as integers or dates; levels read from a CSV
            file are texts, and so are combined levels of several columns, "a:b".

        Raises:
            ColumnError: if the model does not have the grouping.
            OptionError: if `interval` is neither None nor a probability.
        """
        return self._tables.effects(factor, interval)

    def coef(self, factor: str, interval: float = 0.9) -> Table:
        """Coefficients of each level: common plus group effects, as lme4's `coef`.

        The coefficient of column k in level j is beta_k + b_jk, where beta_k is the common effect
        and b_jk the effect of the level; either is zero where the model does not have it. Effects
        of other groupings are left out. The sd and the interval are those of the draws of the
        sum, since beta_k and b_jk are correlated.

        Args:
            factor: the grouping as in the formula, such as "g" or "a:b".
            interval: probability of the central interval.

        Returns:
            A table with one row for each level and coefficient, and the columns term (named as in
            `fixef`), mean, sd, lower and upper. It has the form of the table of `ranef`. It holds
            the coefficients of every predictor in which the grouping occurs.

        Raises:
            ColumnError: if the model does not have the grouping.
            OptionError: if `interval` is not a probability, or a factor is coded in one way among
                the common effects and in another among the group effects.
        """
        return self._tables.coefficients(factor, interval)

    def r2(self, kind: str | None = None, interval: float = 0.9, seed: int = 0) -> Summary:
        """Bayesian R2: the share of the variance of the response that the model explains.

        By draw, with mu_i the mean of the response of row i, mu0_i that with all group effects
        zero, V the variance over rows and s2 the residual variance, the mean over rows of the
        variance of y_i given all parameters,

            conditional = V(mu) / (V(mu) + s2),
            marginal    = V(mu0) / (V(mu0) + V(mu - mu0) + s2),
            loo         = 1 - V(y - m) / V(y),    m_i = E[y_i | y_-i].

        conditional is that of Gelman, Goodrich, Gabry and Vehtari (2019). marginal counts common
        effects alone, and group effects as unexplained. loo is how much leave-one-out predictions
        explain (Vehtari and others, 2019); its distribution is that of the Bayesian bootstrap.
        Each trial of a binomial response counts as a row, so s2 is the mean of p (1 - p), and
        for student s2 is the squared scale. For gaussian it is sigma^2.

        With kind="nakagawa" all is on the scale of the predictor (Nakagawa, Johnson and
        Schielzeth, 2017):

            marginal    = V_f / (V_f + V_g + V_e),
            conditional = (V_f + V_g) / (V_f + V_g + V_e).

        V_f is the variance over rows of common effects, curves and networks, without offsets.
        V_g sums the variances of the groupings, the mean over rows of z_i' Sigma z_i where slopes
        vary (Johnson, 2014). V_e is sigma^2 for gaussian and lognormal, the squared scale for
        student, pi^2 / 3 for a logit link, log(1 + 1 / m) for poisson and log(1 + 1 / m + 1 /
        alpha) for negative_binomial with m the mean of the response, log(1 + 1 / alpha) for gamma
        and log 2 for exponential. The effect of a grouping of which every row is a level is part
        of V_e.

        Args:
            kind: "bayes" for marginal and conditional, "loo", or "nakagawa". None for "bayes"
                and "loo", the latter up to 100,000 rows; for ordinal responses "nakagawa".
            interval: probability of the central interval.
            seed: seed of the bootstrap.

        Returns:
            A table with a row for each R2 and the columns estimate (the mean), sd, lower and
            upper. It prints the residual variance below itself. Of more than 200 million draws x
            rows "bayes" uses fewer draws, but at least 200.

        Raises:
            OptionError: for an unknown kind, or one that is not defined for this model, such as
                any R2 of categories without an order.
        """
        found = VarianceExplained(self._known)
        return found.r2(kind, interval, whole_number("seed", seed, least=0))

    def icc(self, interval: float = 0.9) -> Summary:
        """Intraclass correlations: the share of variance that lies between levels of a grouping.

        By draw, with V_f, V_g and V_e as in `r2` with kind="nakagawa", and sums over groupings h,

            adjusted   = V_g / (sum_h V_h + V_e),
            unadjusted = V_g / (V_f + sum_h V_h + V_e).

        These are the adjusted and unadjusted ICC of R's package performance (Nakagawa, Johnson
        and Schielzeth, 2017). With random slopes the correlation of two rows depends on their
        columns, and V_g is the mean over rows of z_i' Sigma z_i (Johnson, 2014).

        Args:
            interval: probability of the central interval.

        Returns:
            A table by grouping, "all" being their sum if there are several, with the columns kind
            ("adjusted" or "unadjusted"), estimate (the mean), sd, lower and upper. It prints the
            residual variance below itself.

        Raises:
            OptionError: for a model without groupings, or without a residual variance on the
                scale of the predictor.
        """
        return VarianceExplained(self._known).icc(interval)

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
