"""Fits of the same model to other rows: k-fold cross-validation and `Fit.update`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ranef.data.frame import Frame
from ranef.data.row_labels import Labels
from ranef.errors import DataError, OptionError, RanefError, first_line, whole_number
from ranef.fit.refitting import Refitting
from ranef.formula.update import updated
from ranef.names import MethodName
from ranef.posterior.kfold import Folds, KFold, given_folds, grouped_folds, random_folds
from ranef.posterior.loo import by_training_row, levels_of
from ranef.progress import progress_bar

if TYPE_CHECKING:
    from ranef.fit.fit import Fit

# Arguments of `Model` that `update` takes.
_OF_MODEL = ("family", "priors", "networks", "missing")


class Refits(Refitting):
    """The part of `Fit` that fits the model again."""

    def kfold(
        self,
        k: int = 10,
        group: str | None = None,
        seed: int = 0,
        folds: str | ArrayLike | None = None,
        progress: bool = False,
        data: object = None,
    ) -> KFold:
        """K-fold cross-validation: the model is fitted k times, each time without one fold.

        Estimates the expected log predictive density of new rows,

            elpd = sum_i log p(y_i | y_-f(i)),

        where y_-f(i) are the responses outside the fold of row i (Geisser, 1975; Vehtari, Gelman
        and Gabry, 2017). Unlike `loo` it needs no importance weights, and so has no k-hat.

        Every fit has the formula, family, priors, networks, method, options and number of draws
        of this one. What is learned from the rows is learned from those of the other folds, as
        by a fit to them alone: default priors are scaled to them, and `scale(x)` takes their mean
        and sd. Networks start from the weights with which this fit began, and hold the weights
        that they held before when all is done. Effects of levels that occur in one fold alone are
        drawn from the distribution of the grouping's effects.

        Args:
            k: number of folds. The rows are divided at random.
            group: a grouping of the model or a column. All rows of a level are then in one fold,
                so that elpd says how well rows of new levels are predicted. If there are fewer
                levels than k, each of them is a fold.
            seed: seed of the folds, and of the effects of new levels.
            folds: the fold of each row, in place of k and group: an array with one value for each
                row of the table or for each row that was used, or the name of a column.
            progress: whether to show a progress bar on standard error.
            data: the table that was fitted. It is needed where the fit has kept a sample of more
                than 20,000 rows, and for a column that the formula does not use.

        Returns:
            The result, with `elpd`, its standard error `se` and the table `pointwise`.

        Raises:
            OptionError: for an invalid argument, and for a fit that has read its rows in batches.
            ColumnError: for a column that is not there.
            DataError: if `data` is not the table that was fitted, or a fold holds all rows of a
                level of a factor.
        """
        seed = whole_number("seed", seed, least=0)
        frame, fold = self._in_folds(k, group, seed, folds, data)
        elpd = np.empty(frame.n)
        numbers = range(1, int(fold.max()) + 1)
        bar = progress_bar("kfold", "folds", shown=progress, total=len(numbers))
        number = 0
        try:
            for number in numbers:
                out = fold == number
                elpd[out] = self._left_out(frame.keep(~out), frame.keep(out), seed)
                bar.update()
        except RanefError as error:
            raise DataError(
                f"fold {number} of {len(numbers)} cannot be left out: {first_line(error)}; "
                "take other folds, which leave rows of every level of a factor in, or fewer"
            ) from None
        finally:
            bar.close()
        table = by_training_row(self.training.rows, {"elpd": elpd, "fold": fold})
        return KFold(table, group or "", str(self.program.formula.response))

    def _left_out(self, train: Frame, held: Frame, seed: int) -> np.ndarray:
        """Log predictive density of each of the rows `held` by a fit to the rows `train`."""
        with self._starting_weights(restore=True):
            fit = self._model().fit(
                train,
                method=cast(MethodName, self.method),
                seed=self.draws.seed or 0,
                draws=self._draws_of_chain(),
                progress=False,
                **self._options(),
            )
            return np.asarray(fit.log_score(held, new_levels="sample", seed=seed))

    def fold_of_rows(
        self,
        k: int = 10,
        group: str | None = None,
        seed: int = 0,
        folds: str | ArrayLike | None = None,
        data: object = None,
    ) -> Folds:
        """The fold of each row that was used, from 1, in which `kfold` leaves it out.

        Args:
            k: as for `kfold`.
            group: as for `kfold`.
            seed: as for `kfold`.
            folds: as for `kfold`.
            data: as for `kfold`.

        Raises:
            OptionError, ColumnError, DataError: as `kfold`.
        """
        return self._in_folds(k, group, whole_number("seed", seed, least=0), folds, data)[1]

    def _in_folds(
        self,
        k: object,
        group: str | None,
        seed: int,
        folds: str | ArrayLike | None,
        data: object,
    ) -> tuple[Frame, Folds]:
        """The rows that were used, as they were read, and the fold of each."""
        if group is not None and folds is not None:
            raise OptionError("kfold takes group= or folds=, not both")
        asked = [str(name) for name in (group, folds) if isinstance(name, str)]
        frame = replace(self._fitted_rows("kfold", data, asked), labels=Labels())
        if group is not None:
            known = levels_of(self._known, group)
            codes = frame_codes(frame, group) if known is None else known[0]
            return frame, grouped_folds(codes, k, seed, group)
        if folds is None:
            return frame, random_folds(frame.n, k, seed)
        if isinstance(folds, str):
            return frame, given_folds(frame_codes(frame, folds))
        values, rows = np.asarray(folds), self.training.rows
        if values.shape == (rows.read,) and rows.places is not None:
            values = values[np.asarray(rows.places)]
        if values.shape != (frame.n,):
            raise OptionError(
                "folds must be the name of a column, or hold one value for each of the "
                f"{frame.n:,} rows of the fit; its shape is {values.shape}"
            )
        if pd.isna(values).any():
            raise OptionError("folds must not be missing in any row; give each row a fold")
        numeric = values.dtype.kind in "biuf"
        return frame, given_folds(values if numeric else pd.factorize(values)[0])

    def update(self, data: object = None, formula: str | None = None, **changes: object) -> Fit:
        """The model fitted again to other rows, or with another formula, or both.

        Everything that is not changed is that of this fit: formula, family, priors, networks,
        seed, number of draws, and the method if `Model.fit` was given one, with its options.

        Args:
            data: the rows to fit, as for `Model.fit`; None for those of this fit.
            formula: a formula, in which "." stands for what this fit has in that place, as in R:
                ". ~ . + x" adds a term, ". ~ . - x" takes one away, "log(.) ~ ." changes the
                response, and ". ~ .; sigma ~ x" adds a part. None for that of this fit.
            changes: other arguments of `Model` (family, priors, networks, missing) and of
                `Model.fit` (method, seed, draws, progress, and options of the method). Priors
                replace those of this fit altogether.

        Returns:
            The new fit. The networks of the model hold its weights, having started from those
            with which this fit began.

        Raises:
            OptionError: for an unknown argument, and if this fit has kept a sample of its rows.
            ColumnError: for a formula with a column that this fit has not kept.
            RanefError: as `Model.fit`.
        """
        text = self.program.formula.text
        of_model = {name: changes.pop(name) for name in _OF_MODEL if name in changes}
        model_changed = formula is not None or bool(of_model)
        given = {
            "seed": self.draws.seed or 0,
            "draws": self._draws_of_chain(),
            **self._method_again(changes, model_changed),
            **changes,
        }
        with self._starting_weights(restore=False, replaced=of_model.get("networks")):
            model = self._model(updated(text, formula) if formula is not None else text, **of_model)
            if data is None:
                names = model.program.needs()
                how = "update(table)" if formula is None else f"update(table, {formula!r})"
                labels = self.training.rows.labels
                rows: object = replace(self._kept_rows(names, how), labels=labels)
            else:
                rows = data
            return model.fit(rows, **given)


def frame_codes(frame: Frame, name: str) -> np.ndarray:
    """The level of each row in a column.

    Raises:
        DataError: for a column with a gap.
    """
    codes = np.asarray(frame.levels(name).codes, np.int64)
    if (codes < 0).any():
        raise DataError(
            f"column {name!r} is missing in {int((codes < 0).sum()):,} of the {frame.n:,} rows of "
            "the fit; give each row a level"
        )
    return codes
