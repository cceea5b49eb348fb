"""Draws of predictions on any rows, and simulated responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.data.row_labels import Table
from ranef.errors import OptionError, suggestion, whole_number
from ranef.families.responses import is_boolean
from ranef.fit.base import FittedModel
from ranef.formula.expression import Column
from ranef.names import NewLevels
from ranef.posterior.new_rows import Groups
from ranef.posterior.predictive import Predictive
from ranef.posterior.row_draws import PredictedRows, labelled, refuse_large, thinning
from ranef.terms.base import clean_name

if TYPE_CHECKING:
    from ranef.data.array_columns import ArrowColumn
    from ranef.lazy import xr


class PredictionDraws(FittedModel):
    """The part of `Fit` that returns draws of predictions."""

    def epred(
        self,
        data: object = None,
        groups: Groups = "all",
        new_levels: NewLevels = "error",
        draws: int | None = None,
        seed: int = 0,
    ) -> xr.DataArray:
        """Draws of the response's mean, E(y_i | draw s): without the noise of a response.

        The mean of the draws is the column mean of `predict`. As there it is the location for a
        family without a mean, and the share of successes for binomial responses.

        Args:
            data: a table or path, as for `Model.fit`, without need of the response; None for the
                training rows.
            groups: as for `predict`.
            new_levels: as for `predict`.
            draws: number of draws, spaced evenly and the same for every chain (rounded up to a
                multiple of the number of chains); None for all.
            seed: seed for the effects of new levels and for missing values of columns in mi().

        Returns:
            An array with dims (chain, draw, row), named after the response. The coordinate row has
            the index of `data` if that is a pandas table, and otherwise numbers from 0; draw has
            the numbers of the draws in `posterior`. For ordinal and categorical responses the
            array holds the probability of each category, with the further dim category.

        Raises:
            OptionError: for an invalid argument, an array above 4 GiB, and for data=None if the fit
                has read its rows in batches.
            DataError: for a missing value in a predictor, or a new level with
                new_levels="error".
            ColumnError: for a column that is not in `data`, and a grouping in `groups` that the
                model does not have.
        """
        rows = self._rows(data, groups, new_levels, response=False, companion=False)
        named = self.program.family.categorised
        categories = self.training.state.family.categories if named else ()
        predictive, places = self._drawn(rows, new_levels, draws, seed, max(1, len(categories)))
        with rows.naming_column():
            if categories:
                values = predictive.category_shares(rows.designs, rows.response, rows.n)
            else:
                values = predictive.locations(rows.designs, rows.response, rows.n)
        name = self._response_name
        return labelled(values, self.draws, places, rows.labels, name, categories)

    def linpred(
        self,
        data: object = None,
        parameter: str | None = None,
        transform: bool = False,
        groups: Groups = "all",
        new_levels: NewLevels = "error",
        draws: int | None = None,
        seed: int = 0,
    ) -> xr.DataArray:
        """Draws of the linear predictor of a parameter of the family, eta_i = g(theta_i).

        Args:
            data: as for `epred`.
            parameter: a parameter with a predictor, such as "sigma" in `y ~ x; sigma ~ x`; None
                for the location.
            transform: whether to return the parameter itself, g^-1(eta_i), where g is its link
                function.
            groups: as for `predict`.
            new_levels: as for `predict`.
            draws: as for `epred`.
            seed: as for `epred`.

        Returns:
            An array with dims (chain, draw, row) as for `epred`, named after the parameter. For
            categorical responses the location is a predictor for each category but the first,
            with the further dim category.

        Raises:
            OptionError: for a parameter that the family does not have or that has no predictor,
                for a mixture without `parameter`, and otherwise as `epred`.
            DataError, ColumnError: as `epred`.
        """
        names = self._predicted(parameter)
        rows = self._rows(data, groups, new_levels, response=False, companion=False)
        predictive, places = self._drawn(rows, new_levels, draws, seed, len(names))
        with rows.naming_column():
            values = predictive.parameters(
                rows.designs, rows.response, rows.n, names, bool(transform)
            )
        several = self.program.family.categorised and parameter is None and len(names) > 1
        categories = self.training.state.family.categories[1:] if several else ()
        name = "mu" if several else names[0]
        shaped = values if several else values[:, :, 0]
        return labelled(shaped, self.draws, places, rows.labels, name, categories)

    def predictive(
        self,
        data: object = None,
        groups: Groups = "all",
        new_levels: NewLevels = "error",
        draws: int | None = None,
        seed: int = 0,
    ) -> xr.DataArray:
        """Draws of a new response of each row, one from p(y_i | draw s) for each draw.

        Args:
            data: as for `epred`; the model needs the trials, weights or standard errors beside the
                response, if it has some.
            groups: as for `predict`.
            new_levels: as for `predict`.
            draws: as for `epred`.
            seed: seed for whatever is sampled.

        Returns:
            An array with dims (chain, draw, row) as for `epred`, named after the response. It
            holds the response as the left side of the formula states it: the logarithm for
            `log(y) ~ x`, the number of successes for binomial responses, 1 for the success and 0
            for the other of two texts, and the number 1, 2, ... of a category, whose names are the
            attribute categories.

        Raises:
            OptionError, DataError, ColumnError: as `epred`.
        """
        rows = self._rows(data, groups, new_levels, response=False, companion=True)
        predictive, places = self._drawn(rows, new_levels, draws, seed, 1)
        with rows.naming_column():
            values = predictive.responses(rows.designs, rows.response, rows.n)
        out = labelled(values, self.draws, places, rows.labels, self._response_name)
        named = self.training.state.family.categories
        return out.assign_attrs(categories=list(named)) if named else out

    def simulate(
        self,
        data: object = None,
        n: int = 1,
        groups: Groups = "all",
        new_levels: NewLevels = "sample",
        seed: int = 0,
    ) -> Table:
        """Simulated responses for a design, such as that of a study that is planned.

        Each of the n data sets has parameters and effects of its own, those of one draw of the
        posterior that is chosen at random, and for every row a response drawn from
        p(y_i | that draw). Rows of one level share its effects, new levels included.

        Args:
            data: the design as a table or path, without need of the response; the trials, weights
                or standard errors beside it are needed. None for the training rows.
            n: number of data sets.
            groups: as for `predict`.
            new_levels: as for `predict`.
            seed: seed of the draws; the same seed gives the same data sets.

        Returns:
            A table with the columns sim_1, ..., sim_n, as of R's simulate(), and one row for each
            row of `data`; its kind and index are those of `predict`. Categories and texts are
            named, in the type of the response's column, and in its order if it declares one.
            Other responses are those of `predictive`.

        Raises:
            OptionError, DataError, ColumnError: as `epred`.
        """
        n = whole_number("n", n, least=1)
        seed = whole_number("seed", seed, least=0)
        rows = self._rows(data, groups, new_levels, response=False, companion=True)
        refuse_large(n, rows.n)
        chains, each = self.draws.shape
        rng = np.random.default_rng(seed)
        chosen = rng.choice(chains * each, n, replace=n > chains * each).astype(np.int64)
        predictive = self._predictive(new_levels, seed, rows.program, self.draws.chosen(chosen))
        with rows.naming_column():
            values = predictive.responses(rows.designs, rows.response, rows.n)
        return rows.labels.table({f"sim_{i + 1}": self._as_column(v) for i, v in enumerate(values)})

    # Helpers

    @property
    def _response_name(self) -> str:
        """The name of the response in `idata`."""
        return clean_name(str(self.program.formula.response))

    def _rows(
        self, data: object, groups: Groups, new_levels: str, *, response: bool, companion: bool
    ) -> PredictedRows:
        return PredictedRows.of(
            self._known,
            data,
            groups=groups,
            new_levels=new_levels,
            response=response,
            companion=companion,
        )

    def _drawn(
        self, rows: PredictedRows, new_levels: str, draws: int | None, seed: int, columns: int
    ) -> tuple[Predictive, NDArray[np.int64] | None]:
        """Predictions with `draws` of the draws, and the places of these within each chain."""
        seed = whole_number("seed", seed, least=0)
        places = thinning(self.draws, draws)
        chains, each = self.draws.shape
        refuse_large(chains * (each if places is None else len(places)), rows.n, columns)
        own = None if places is None else self.draws.of_each_chain(places)
        return self._predictive(new_levels, seed, rows.program, own), places

    def _predicted(self, parameter: str | None) -> list[str]:
        """The parameters whose predictors `linpred` returns.

        Raises:
            OptionError: as `linpred`.
        """
        family = self.program.family
        predicted = [p.name for p in family.parameters if p.name in self.program.terms]
        if parameter is None:
            if family.parts():
                raise OptionError(
                    f"the components of the family {family.name} have predictors of their own; "
                    f"parameter must be one of {', '.join(map(repr, predicted))}"
                )
            return predicted if family.name == "categorical" else [self.program.location]
        if parameter in predicted:
            return [parameter]
        if parameter in (p.name for p in family.free_parameters()):
            raise OptionError(
                f"{parameter} is one number for all rows in {self.program.formula.text!r} and has "
                f"no predictor; a part of the formula such as '{parameter} ~ x' gives it one"
            )
        raise OptionError(
            f"the family {family.name} has no parameter {parameter!r}; "
            f"{suggestion(str(parameter), predicted)}"
        )

    def _as_column(self, values: NDArray[np.float64]) -> NDArray | ArrowColumn | pd.Categorical:
        """Simulated responses in the type of the response's column."""
        family, sample = self.program.family, self.training.sample
        names, response = self.training.state.family.categories, self.program.formula.response.value
        if not isinstance(response, Column):
            return values
        if not names:
            return values == 1 if is_boolean(response, sample) else values
        codes = values.astype(np.int64) - (1 if family.categorised else 0)
        if sample.levels(response.name).declared:
            return pd.Categorical.from_codes(codes, list(names), ordered=True)
        return sample.typed(response.name, names).take(codes)
