"""Predictions of a fit for any rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranef.data.frame import Frame
from ranef.data.row_labels import ByRow, Table
from ranef.errors import OptionError, suggestion, whole_number
from ranef.fit.prediction_draws import PredictionDraws
from ranef.names import NewLevels, PredictionKind
from ranef.posterior.new_rows import Groups, limited_program, read_new_rows, read_with_gaps
from ranef.posterior.posterior import tails_of
from ranef.posterior.recommend import RecommendationQuery, recommend
from ranef.program.training import Designs

_KINDS = ("mean", "response", "component")


class Predictions(PredictionDraws):
    """The part of `Fit` that predicts."""

    def predict(
        self,
        data: object,
        kind: PredictionKind = "mean",
        interval: float = 0.9,
        new_levels: NewLevels = "error",
        seed: int = 0,
        groups: Groups = "all",
        quantiles: Sequence[float] | None = None,
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
            quantiles: probabilities of quantiles to add, such as [0.1, 0.5, 0.9].
            missing: what to do with a row with a missing value in a column that the prediction
                needs: "error" refuses it, "keep" predicts NaN for it.

        Returns:
            A table with one row for each row of `data`. It is a pandas table, with the index of
            `data` if that is a pandas table, or a polars table if `data` is one.

            For "mean" and "response" the columns are mean, sd, lower and upper, and `q[p]` for each
            p of `quantiles`. The sd of a response is infinite if the response variance is infinite
            in some draw. Its lower and upper are quantiles of one sampled response for each draw,
            its `q[p]` those of the predictive distribution F(y) = mean_s F(y | draw s), the least y
            with F(y) >= p, without sampling. For ordinal
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
        return self._table(
            data, kind, interval, new_levels, seed, groups, _probabilities(quantiles), missing
        )

    def fitted(
        self,
        kind: str = "mean",
        interval: float = 0.9,
        groups: Groups = "all",
        quantiles: Sequence[float] | None = None,
        seed: int = 0,
    ) -> Table:
        """Predictions for the training rows, with their index: fitted values.

        Rows with a missing value, which the fit has dropped, are not in the table.

        Args:
            kind: as for `predict`.
            interval: as for `predict`.
            groups: as for `predict`.
            quantiles: as for `predict`.
            seed: as for `predict`.

        Returns:
            The table of `predict`, with one row for each row that the fit has used.

        Raises:
            OptionError: for an invalid argument, and if the fit has read its rows in batches.
            ColumnError: for a grouping in `groups` that the model does not have.
        """
        return self._table(None, kind, interval, "error", seed, groups, _probabilities(quantiles))

    def _table(
        self,
        data: object,
        kind: str,
        interval: float,
        new_levels: str,
        seed: int,
        groups: Groups,
        quantiles: tuple[float, ...],
        missing: str = "error",
    ) -> Table:
        """The table of `predict`; `data` is None for the training rows."""
        if kind not in _KINDS:
            raise OptionError(f"kind must be 'mean', 'response' or 'component', not {kind!r}")
        tails_of(interval)
        seed = whole_number("seed", seed, least=0)
        family, known = self.program.family, kind == "component"
        if known and not family.parts():
            raise OptionError(
                f"the family {family.name} has no components; kind='component' takes a mixture, as "
                "of family=rf.Mixture('gaussian', k=2)"
            )
        if known and quantiles:
            raise OptionError("kind='component' has no quantiles; leave quantiles= out")
        if quantiles:
            self._refuse_unordered("quantiles")
        beside = kind != "mean"
        filled = None
        if data is not None:
            filled = read_with_gaps(
                self._known,
                data,
                missing,
                response=known,
                companion=beside,
                program=limited_program(self._known, groups),
            )
            data = filled.frame
        rows = self._rows(data, groups, new_levels, response=known, companion=beside)
        predictive = self._predictive(new_levels, seed, rows.program)
        with rows.naming_column():
            if known:
                found = predictive.components(rows.designs, rows.response, rows.n)
            else:
                found = predictive.summaries(
                    rows.designs, rows.response, rows.n, kind, interval, quantiles
                )
        return rows.labels.table(found if filled is None else filled.without(found))

    def cdf(
        self,
        data: object = None,
        at: float | str | Sequence[float | str] | None = None,
        groups: Groups = "all",
        new_levels: NewLevels = "error",
        seed: int = 0,
    ) -> ByRow | Table:
        """Predictive probability that a new response of each row is at most y.

            F_i(y) = P(Y_i <= y) = mean_s F(y | draw s),

        a mean over the posterior draws of the family's distribution function, without sampled
        responses.

        Args:
            data: a table or path, as for `Model.fit`; None for the training rows.
            at: y, on the scale of the left side of the formula: a number, the name of a category,
                or a list of either. None for the response of each row.
            groups: as for `predict`.
            new_levels: as for `predict`.
            seed: seed for the effects of new levels and for missing values of columns in mi().

        Returns:
            The probabilities, (n,), as `log_score` returns its numbers; for a list a table with a
            column `cdf[y]` for each y.

        Raises:
            OptionError: for an invalid argument, and for categories without order.
            DataError: for a row without a response with at=None, and otherwise as `predict`.
            ColumnError: as `predict`.
        """
        self._refuse_unordered("cdf")
        asked: list[object] = [] if at is None else [at]
        listed = isinstance(at, Sequence | np.ndarray) and not isinstance(at, str)
        if isinstance(at, Sequence | np.ndarray) and not isinstance(at, str):
            asked = list(at)
        if listed and not asked:
            raise OptionError("at must be a number, or a list of at least one, not an empty list")
        values = [self._as_number(y) for y in asked]
        seed = whole_number("seed", seed, least=0)
        rows = self._rows(data, groups, new_levels, response=at is None, companion=True)
        predictive = self._predictive(new_levels, seed, rows.program)
        with rows.naming_column():
            found = predictive.cumulative(rows.designs, rows.response, rows.n, values)
        if listed:
            named = {f"cdf[{y}]": p for y, p in zip(asked, found.T, strict=True)}
            return rows.labels.table(named)
        return rows.labels.series("cdf", np.ascontiguousarray(found[:, 0]))

    def pit(
        self,
        data: object = None,
        limits: bool = False,
        groups: Groups = "all",
        new_levels: NewLevels = "error",
        seed: int = 0,
    ) -> ByRow | Table:
        """Probability integral transform of each row's response, F_i(y_i) as by `cdf`.

        If the model is right, the transforms of new rows are uniform between 0 and 1. For discrete
        responses they are drawn at random between the limits P(Y_i < y_i) and P(Y_i <= y_i), which
        makes them uniform too (Czado, Gneiting and Held, 2009). Transforms of the training rows are
        too near to one half, because these rows have shaped the posterior.

        Args:
            data: a table or path with the response; None for the training rows.
            limits: whether to return both limits, which are equal for continuous responses.
            groups: as for `predict`.
            new_levels: as for `predict`.
            seed: as for `cdf`, and seed of the transforms of discrete responses.

        Returns:
            The transforms, (n,), as `log_score` returns its numbers; with `limits` a table with
            the columns lower and upper.

        Raises:
            OptionError: for an invalid argument, and for categories without order.
            DataError: for a row without a response, and otherwise as `predict`.
            ColumnError: as `predict`.
        """
        self._refuse_unordered("pit")
        seed = whole_number("seed", seed, least=0)
        rows = self._rows(data, groups, new_levels, response=True, companion=True)
        predictive = self._predictive(new_levels, seed, rows.program)
        with rows.naming_column():
            found = predictive.transform_limits(rows.designs, rows.response, rows.n)
        if limits:
            return rows.labels.table(found)
        share = np.random.default_rng(seed).random(rows.n)
        each = found["lower"] + share * (found["upper"] - found["lower"])
        return rows.labels.series("pit", each)

    def _refuse_unordered(self, what: str) -> None:
        """Refuse what needs an order of responses for categories without one.

        Raises:
            OptionError: naming `what` was asked for.
        """
        family = self.program.family
        if family.name == "categorical":
            raise OptionError(
                f"the categories of {family.response.value} have no order, so there is no {what}; "
                "fit.epred() has draws of their probabilities, and family='ordinal' is for ordered "
                "ones"
            )

    def _as_number(self, y: object) -> float:
        """A response for `cdf` as the model has it; categories become their numbers.

        Raises:
            OptionError: for anything but a finite number or the name of a category.
        """
        names, first = self.training.state.family.categories, self.program.family.categorised
        name = str(y)
        # Categories that are whole numbers may be given as 2.0.
        if isinstance(y, (float, np.floating)) and float(y).is_integer():
            name = str(int(y))
        if name in names:
            return float(names.index(name) + (1 if first else 0))
        if names and (first or isinstance(y, str)):
            raise OptionError(
                f"at must be a category of the response, not {y!r}; {suggestion(name, names)}"
            )
        number = isinstance(y, (int, float, np.integer, np.floating)) and not isinstance(y, bool)
        value = float(name) if number else np.nan
        if not np.isfinite(value):
            raise OptionError(f"at must be a finite number or a list of them, not {y!r}")
        return value

    def recommend(
        self,
        data: object,
        n: int = 10,
        candidates: object = None,
        exclude_seen: bool = True,
        interval: float = 0.9,
        new_levels: NewLevels = "error",
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
        self, data: object, new_levels: NewLevels = "error", seed: int = 0, groups: Groups = "all"
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
        rows = self._rows(data, groups, new_levels, response=True, companion=True)
        predictive = self._predictive(new_levels, seed, rows.program)
        with rows.naming_column():
            scores = predictive.log_scores(rows.designs, rows.response, rows.n)
        return rows.labels.series("log_score", scores)


def _probabilities(quantiles: Sequence[float] | None) -> tuple[float, ...]:
    """The probabilities of quantiles.

    Raises:
        OptionError: for anything but a list of numbers between 0 and 1.
    """
    if quantiles is None:
        return ()
    listed = isinstance(quantiles, Sequence | np.ndarray) and not isinstance(quantiles, str)
    each = list(quantiles) if listed else [quantiles]
    numbers = [q for q in each if isinstance(q, (int, float, np.floating, np.integer))]
    if not listed or len(numbers) < len(each) or not all(0 < q < 1 for q in numbers):
        raise OptionError(
            "quantiles must be a list of probabilities between 0 and 1, such as [0.1, 0.5, 0.9], "
            f"not {quantiles!r}"
        )
    return tuple(float(q) for q in numbers)
