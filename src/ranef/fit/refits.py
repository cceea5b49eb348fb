"""Fits of the same model to other rows: k-fold cross-validation and `Fit.update`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ranef.data.complete_cases import complete
from ranef.data.frame import Frame
from ranef.data.row_labels import Labels
from ranef.data.tables import read
from ranef.errors import ColumnError, DataError, OptionError, RanefError, first_line, whole_number
from ranef.fit.base import FittedModel
from ranef.formula.update import updated
from ranef.names import MethodName
from ranef.posterior.kfold import Folds, KFold, given_folds, grouped_folds, random_folds
from ranef.posterior.loo import by_training_row, levels_of
from ranef.progress import progress_bar
from ranef.terms.capabilities import HasNetwork
from ranef.terms.nn import variables

if TYPE_CHECKING:
    from ranef.fit.fit import Fit
    from ranef.model import Model

# Why a method was used: the user has named it.
ASKED_FOR = "it was asked for"

# Arguments of `Model` that `update` takes.
_OF_MODEL = ("family", "priors", "networks", "missing")


def refit_options(
    options: Mapping[str, object], settings: Mapping[str, object]
) -> dict[str, object]:
    """The options by which a fit can be made again.

    Args:
        options: options of `Model.fit` that the user has given.
        settings: options that the method has recorded. They take precedence: svi records the
            guide where it has used one.
    """
    left_out = ("guide", "checkpoint")
    given = {n: v for n, v in options.items() if v is not None and n not in left_out}
    return {**given, **settings}


class Refits(FittedModel):
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
        if group is not None and folds is not None:
            raise OptionError("kfold takes group= or folds=, not both")
        asked = [name for name in (group, folds) if isinstance(name, str)]
        frame = replace(self._fitted_rows("kfold", data, asked), labels=Labels())
        fold = self._folds(frame, k, group, seed, folds)
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

    def _folds(
        self,
        frame: Frame,
        k: int,
        group: str | None,
        seed: int,
        folds: str | ArrayLike | None,
    ) -> Folds:
        """The number of the fold of each training row, from 1."""
        if group is not None:
            known = levels_of(self._known, group)
            codes = frame_codes(frame, group) if known is None else known[0]
            return grouped_folds(codes, k, seed, group)
        if folds is None:
            return random_folds(frame.n, k, seed)
        if isinstance(folds, str):
            return given_folds(frame_codes(frame, folds))
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
        return given_folds(values if numeric else pd.factorize(values)[0])

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

    def _model(self, formula: str | None = None, **changes: Any) -> Model:
        """The model of this fit, to be fitted again.

        Args:
            formula: another formula.
            changes: other arguments of `Model`.
        """
        program = self.program
        arguments = {
            "family": program.family.name,
            "priors": program.user_priors,
            "networks": program.networks,
            "missing": program.missing,
        }
        # `Model` makes fits and so stands above them; only what asks for a refit looks it up.
        model = importlib.import_module("ranef.model").Model
        return model(formula or program.formula.text, **{**arguments, **changes})

    def _options(self) -> dict[str, Any]:
        """The options of the method by which this fit was made.

        Raises:
            OptionError: for a fit from a file, which does not hold its optimizer.
        """
        options = dict(self.draws.settings)
        if options.get("optimizer", "") is None:
            raise OptionError(
                "the file of this fit does not hold the optimizer of its search; fit the model "
                "again with it, as by fit.update(optimizer=optax.adam(0.01))"
            )
        if self.method == "nuts":  # files of earlier versions do not say how many
            options.setdefault("chains", self._shape()[0])
        return options

    def _method_again(self, changes: Mapping[str, object], changed: bool) -> dict[str, Any]:
        """Method and options of an updated fit, as far as `changes` does not name them.

        Args:
            changes: arguments of `Model.fit` that the user gives.
            changed: whether the model is another one.
        """
        if "method" in changes:
            return {}
        if "optimizer" in changes:
            options = {n: v for n, v in self.draws.settings.items() if n != "optimizer"}
        else:
            options = self._options()
        if self.why == ASKED_FOR:
            return {"method": self.method, **options}
        # What a method records of its defaults is no wish of the user for this method.
        recorded = {"guide": "structured", "quadrature": None}
        asked = {
            n: v for n, v in options.items() if recorded.get(n, v) is not v or n not in recorded
        }
        return {"method": "auto" if changed else self.method, **(asked if changed else options)}

    def _shape(self) -> tuple[int, int]:
        """Number of chains and of draws in each."""
        draws = self.draws
        ready = [n for n in draws.sites if n not in draws.lazy_sites] or [*draws.sites]
        if not ready:
            return 1, 1000
        chains, size = draws.sites[ready[0]].shape[:2]
        return int(chains), int(size)

    def _draws_of_chain(self) -> int:
        return max(2, self._shape()[1])

    def _fitted_rows(self, name: str, data: object, asked: list[str]) -> Frame:
        """All rows that the fit has used, as they were read.

        Args:
            name: the method that asks, for messages.
            data: the table that was fitted, or None.
            asked: names of columns or groupings that are needed beside those of the formula.

        Raises:
            OptionError: if the rows are not there.
            ColumnError: for a column that is not there.
            DataError: if `data` is not the table that was fitted.
        """
        program, training = self.program, self.training
        needs = program.needs()
        beside = [n for n in asked if n not in needs and levels_of(self._known, n) is None]
        if data is None:
            return self._kept_rows({**needs, **dict.fromkeys(beside, set())}, f"{name}(data=table)")
        self._refuse_batches(name)
        frame, rows = complete(read(data, [*needs, *beside], program.missing), needs)
        same = rows.used == training.held and np.array_equal(
            np.asarray(program.family.design(training.state.family, frame).value),
            np.asarray(training.response.value),
        )
        if not same:
            raise DataError(
                f"{name}(data=...) takes the table that was fitted, and this one has other rows or "
                f"responses: {rows.used:,} complete rows, where the fit has used {training.held:,}"
            )
        return frame

    def _kept_rows(self, needs: Mapping[str, object], how: str) -> Frame:
        """The rows that the fit has kept as they were read, if they are all of them.

        Args:
            needs: the columns that are needed.
            how: the call with a table, for messages.

        Raises:
            OptionError: if rows are missing.
            ColumnError: if columns are missing.
        """
        training = self.training
        self._refuse_batches(how.partition("(")[0])
        if training.sample.n < training.held:
            raise OptionError(
                f"the fit has kept {training.sample.n:,} of its {training.held:,} rows as they "
                f"were read; pass the table, as in fit.{how}"
            )
        for name in needs:
            if name not in training.sample.columns:
                raise ColumnError(
                    f"the fit has kept the columns of its formula alone, and {name!r} is none of "
                    f"them; pass the table, as in fit.{how}"
                )
        return training.sample

    def _refuse_batches(self, name: str) -> None:
        """Refuse a fit that has read its rows in batches.

        Raises:
            OptionError: naming the method that asks.
        """
        if self.training.stream is not None:
            raise OptionError(
                f"{name} needs every row, and this fit has read its rows in batches and kept a "
                "sample; compare on rows it has not seen, by fit.log_score(data)"
                if name == "kfold"
                else f"{name} needs every row, and this fit has read its rows in batches and kept "
                "a sample; pass the path of the rows, as in fit.update(path)"
            )

    @contextmanager
    def _starting_weights(self, restore: bool, replaced: object = None) -> Iterator[None]:
        """The user's networks at the weights with which this fit began.

        Args:
            restore: whether they get the weights back that they hold now; after an error they
                get them in any case.
            replaced: networks by name that take the place of those of this fit.
        """
        others = replaced if isinstance(replaced, Mapping) else {}
        states = self.training.state.terms
        networks = {
            term.call.options["net"]: (states[term.label].model, states[term.label].initial)
            for _, term in self.program.terms_with(HasNetwork)
            if term.call.options.get("net") is not None and term.call.options["net"] not in others
        }
        held = {name: variables.values(network) for name, (network, _) in networks.items()}
        for network, initial in networks.values():
            variables.assign(network, initial)
        done = False
        try:
            yield
            done = True
        finally:
            if restore or not done:
                for name, (network, _) in networks.items():
                    variables.assign(network, held[name])


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
