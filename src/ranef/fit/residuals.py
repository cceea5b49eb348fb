"""Residuals of a fit, and tests of them."""

from __future__ import annotations

from ranef.data.row_labels import ByRow
from ranef.errors import OptionError, whole_number
from ranef.fit.base import FittedModel
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups
from ranef.posterior.predictive import Predictive
from ranef.posterior.residuals import pearson_residuals, quantile_residuals, response_residuals
from ranef.posterior.row_draws import PredictedRows
from ranef.posterior.simulated_residuals import (
    SIMULATIONS,
    SimulatedResiduals,
    refuse_unordered,
    some_rows,
)
from ranef.posterior.summary import Summary

_KINDS = ("response", "pearson", "quantile", "scaled")


class Residuals(FittedModel):
    """The part of `Fit` that compares responses with their predictions, row by row."""

    def residuals(
        self,
        kind: str = "response",
        data: object = None,
        groups: Groups = "all",
        new_levels: NewLevels = "error",
        seed: int = 0,
    ) -> ByRow:
        """Residuals of the training rows, or of the rows of `data`.

        With mu_is the mean of the response of row i at draw s, v_is its variance and F_i the
        predictive distribution function as in `pit`,

            response:  y_i - mean_s mu_is,
            pearson:   mean_s (y_i - mu_is) / sqrt(v_is),
            quantile:  Phi^-1(F_i(y_i)).

        Quantile residuals are standard normal if the model is right, whatever the family. For
        discrete responses F_i(y_i) is drawn at random between P(Y_i < y_i) and P(Y_i <= y_i) (Dunn
        and Smyth, 1996). They are at most 8.2 in size.

        "scaled" is the rank of y_i among simulated responses, between 0 and 1, with all group
        effects drawn anew, as R's package DHARMa simulates; `residual_checks` tests these. The
        other kinds keep the group effects of the posterior, which the row itself has shaped:
        with few rows for each level they are nearer to zero than those of new rows.

        Args:
            kind: "response", "pearson", "quantile" or "scaled".
            data: a table or path with the response, as for `Model.fit`; None for the training
                rows.
            groups: as for `predict`.
            new_levels: as for `predict`.
            seed: seed for whatever is sampled.

        Returns:
            The residuals, (n,), as `log_score` returns its numbers. Responses of a binomial are
            shares of successes; those of an ordinal are the numbers 1, 2, ... of the categories.

        Raises:
            OptionError: for an invalid argument, for categories without an order, for
                kind="pearson" where the variance of the response is infinite, and for the
                training rows if the fit has read its rows in batches.
            DataError, ColumnError: as `predict`.
        """
        if kind not in _KINDS:
            raise OptionError(f"kind must be one of {', '.join(map(repr, _KINDS))}, not {kind!r}")
        refuse_unordered(self.program.family, "residuals")
        seed = whole_number("seed", seed, least=0)
        rows = PredictedRows.of(
            self._known, data, groups=groups, new_levels=new_levels, response=True, companion=True
        )
        predictive = self._predictive(new_levels, seed, rows.program)
        with rows.naming_column():
            if kind == "scaled":
                simulated = self._simulated(rows, None, seed)
                values = SimulatedResiduals.of(rows, simulated).scaled
            elif kind == "quantile":
                values = quantile_residuals(rows, predictive, seed)
            elif kind == "pearson":
                values = pearson_residuals(rows, predictive)
            else:
                values = response_residuals(rows, predictive)
        return rows.labels.series("residual", values)

    def residual_checks(
        self,
        data: object = None,
        simulations: int | None = None,
        seed: int = 0,
    ) -> Summary:
        """Tests of scaled residuals, as in R's package DHARMa (Hartig, 2024).

        Tables of responses are simulated from the posterior predictive distribution. Each test
        compares a statistic of the observed table with its values in the simulated ones. With
        group effects drawn anew in each table, as DHARMa does:

        - uniformity: the Kolmogorov-Smirnov distance of the scaled residuals from the uniform
          distribution;
        - outliers: the number of responses beyond all those of the same row in other tables.

        With the group effects of the posterior, so that rows within levels are tested:

        - dispersion: the variance over rows of y_i - mu_is, with mu_is the mean of row i at draw
          s, over that of simulated responses (Gelman, Meng and Stern, 1996). Above 1 is
          overdispersion;
        - zeros: the number of zeros; for counts alone.

        A p value is the share of tables, the observed one among them, whose statistic is at least
        as extreme, of both sides for all but the first test. So it takes account of rows of one
        level being alike, which the tests of Kolmogorov-Smirnov and of binomial counts do not. The
        least is 1 / (simulations + 1). On the training rows p values are somewhat too large, as
        the same rows have shaped the posterior.

        Args:
            data: as for `residuals`; levels that did not occur in training may be among them.
            simulations: number of simulated tables; None for 250, or the number of draws if there
                are fewer.
            seed: seed of the simulations.

        Returns:
            A table by test with the columns statistic, expected (under the model) and p, which
            prints below itself what stands out. At most 20,000 evenly spaced rows are tested.

        Raises:
            OptionError: for an invalid argument, and for categories without an order.
            DataError, ColumnError: as `predict`.
        """
        refuse_unordered(self.program.family, "residual checks")
        seed = whole_number("seed", seed, least=0)
        rows = some_rows(self._known, data)
        simulated = self._simulated(rows, simulations, seed)
        with rows.naming_column():
            found = SimulatedResiduals.of(rows, simulated)
        table, line = found.table()
        return Summary.of(table, lambda: line)

    def _simulated(self, rows: PredictedRows, simulations: int | None, seed: int) -> Predictive:
        """Predictions with as many draws as tables are to be simulated.

        Raises:
            OptionError: for less than 20 simulations, or more than there are draws.
        """
        chains, each = self.draws.shape
        if simulations is None:
            simulations = min(SIMULATIONS, chains * each)
        elif whole_number("simulations", simulations, least=20) > chains * each:
            raise OptionError(
                f"simulations must be at most {chains * each:,}, the number of draws of the fit, "
                f"not {simulations:,}; refit with more draws"
            )
        return self._predictive("sample", seed, rows.program, self.draws.thinned(simulations))
