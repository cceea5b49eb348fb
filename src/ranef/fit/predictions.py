"""Predictions of a fit for any rows."""

from __future__ import annotations

from ranef.data.frame import Frame
from ranef.data.row_labels import ByRow, Table
from ranef.errors import OptionError, whole_number
from ranef.fit.base import FittedModel
from ranef.posterior.new_rows import (
    Groups,
    limited_program,
    naming_column,
    read_new_rows,
    read_with_gaps,
)
from ranef.posterior.posterior import tails_of
from ranef.posterior.recommend import RecommendationQuery, recommend
from ranef.program.training import Designs

_KINDS = ("mean", "response", "component")


class Predictions(FittedModel):
    """The part of `Fit` that predicts."""

    def predict(
        self,
        data: object,
        kind: str = "mean",
        interval: float = 0.9,
        new_levels: str = "error",
        seed: int = 0,
        groups: Groups = "all",
        missing: str = "error",
    ) -> Table:
        """Predictions for the rows of `data`, in their order and with their index.

        Args:
            data: a table or path, as for `Model.fit`. The response is needed for "component"
                alone. Missing values of a column in mi() are drawn from the column's model,
                given the row's other columns.
            kind: "mean" for the mean of the response (its location, for a family without a
                mean), "response" for a new response, "component" for the component of a mixture
                from which the row's response came.
            interval: probability of the central interval.
            new_levels: what to do with levels of a grouping that did not occur in training:
                "error" refuses them, "sample" draws their effects from the normal distribution
                of the grouping's effects, "zero" sets their effects to zero.
            seed: seed for whatever is sampled.
            groups: the groupings whose effects are included: "all", None for none of them (the
                population level), or a list such as ["school"]. The effects of all others are
                zero, and their columns need not be in `data`.
            missing: what to do with a row with a missing value in a column that the prediction
                needs: "error" refuses it, "keep" predicts NaN for it.

        Returns:
            A table with one row for each row of `data`. It is a pandas table, with the index of
            `data` if that is a pandas table, or a polars table if `data` is one.

            For "mean" and "response" the columns are mean, sd, lower and upper. The sd of a
            response is infinite if the response variance is infinite in some draw. For ordinal
            and categorical responses the columns refer to the category's number, 1, 2, ..., and a
            column `p[c]` holds the probability of each category c. For mixtures `p[c]` is the
            prior probability w_c of each component, without regard to the row's response. For
            binomial responses "mean" is the share of successes and "response" their number.

            For "component" the columns are `component`, the number of the most probable
            component, and `p[c]`, the probability of each component given the row's response,
            w_c p_c(y_i) / sum_k w_k p_k(y_i), averaged over draws.

        Raises:
            DataError: for a missing value in a predictor with missing="error", or a new level
                with new_levels="error".
            ColumnError: for a column that is not in `data`, and a grouping in `groups` that the
                model does not have.
            OptionError: for an invalid argument.
        """
        if kind not in _KINDS:
            raise OptionError(f"kind must be 'mean', 'response' or 'component', not {kind!r}")
        tails_of(interval)
        seed = whole_number("seed", seed, least=0)
        family, state = self.program.family, self.training.state.family
        known = kind == "component"
        if known and not family.parts():
            raise OptionError(
                f"the family {family.name} has no components; kind='component' takes a mixture, as "
                "of family=rf.Mixture('gaussian', k=2)"
            )
        program = limited_program(self._known, groups)
        beside = kind != "mean"
        rows = read_with_gaps(
            self._known, data, missing, response=known, companion=beside, program=program
        )
        frame, designs = read_new_rows(
            self._known,
            rows.frame,
            new_levels,
            response=known,
            companion=beside,
            program=program,
        )
        response = family.design(state, frame, known=known, beside=beside)
        predictive = self._predictive(new_levels, seed, program)
        with naming_column(self._known, frame):
            if known:
                found = predictive.components(designs, response, frame.n)
            else:
                found = predictive.summaries(designs, response, frame.n, kind, interval)
        return frame.labels.table(rows.without(found))

    def recommend(
        self,
        data: object,
        n: int = 10,
        candidates: object = None,
        exclude_seen: bool = True,
        interval: float = 0.9,
        new_levels: str = "error",
        seed: int = 0,
    ) -> Table:
        """Top-n recommendation with a matrix factorization term mf(user, item).

        For each given level of one column of mf(), ranks the levels of the other column by the
        posterior mean of the response's mean.

        Args:
            data: one level of the first column of mf(), or a list of levels; or a table with
                exactly one of the two columns, and with all other columns that the formula needs.
            n: largest number of recommendations for each row of `data`.
            candidates: a table of the levels to choose from; by default all levels that occurred
                in training.
            exclude_seen: whether to leave out pairs that occurred in training.
            interval: probability of the central interval.
            new_levels: as for `predict`.
            seed: seed for whatever is sampled.

        Returns:
            A table with a row for each recommendation and the columns of the given level, rank
            (from 1), the recommended level, and mean, sd, lower and upper as in `predict`. The
            recommendations for one row of `data` follow each other. Levels have the type of their
            column in training. If `data` is a pandas table, each row's index is repeated for its
            recommendations; if it is a polars table, so is the result.

        Raises:
            OptionError: for a model without mf(), and for a table with both or neither of the
                columns of mf().
            DataError: if nothing is left to recommend.
        """
        tails_of(interval)
        predictive = self._predictive(new_levels, whole_number("seed", seed, least=0))

        def designs(rows: Frame) -> Designs:
            return read_new_rows(self._known, rows, new_levels, response=False, companion=False)[1]

        wanted = RecommendationQuery(n, candidates, exclude_seen, interval)
        return recommend(self._known, predictive, designs, data, wanted)

    def log_score(
        self, data: object, new_levels: str = "error", seed: int = 0, groups: Groups = "all"
    ) -> ByRow:
        """Log predictive density of each row's response, log mean_s p(y_i | draw s), in nats.

        Missing values of columns in mi() are integrated out.

        Args:
            data: a table or path, as for `Model.fit`, with the response.
            new_levels: as for `predict`.
            seed: seed for the effects of new levels.
            groups: as for `predict`.

        Returns:
            The log densities, (n,): a pandas Series with the index of `data` if that is a pandas
            table, a polars Series if it is a polars table, and an array otherwise.

        Raises:
            DataError: for a row without a response, and otherwise as `predict`.
            ColumnError, OptionError: as `predict`.
        """
        seed = whole_number("seed", seed, least=0)
        program = limited_program(self._known, groups)
        frame, designs = read_new_rows(
            self._known, data, new_levels, response=True, companion=True, program=program
        )
        response = self.program.family.design(self.training.state.family, frame)
        predictive = self._predictive(new_levels, seed, program)
        with naming_column(self._known, frame):
            scores = predictive.log_scores(designs, response, frame.n)
        return frame.labels.series("log_score", scores)
