"""What it takes to fit the model of a fit again: its arguments, its rows and its networks."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ranef.data.complete_cases import complete
from ranef.data.frame import Frame
from ranef.data.tables import read
from ranef.errors import ColumnError, DataError, OptionError
from ranef.fit.base import FittedModel
from ranef.posterior.loo import levels_of
from ranef.terms.capabilities import HasNetwork
from ranef.terms.nn import variables

if TYPE_CHECKING:
    from ranef.model import Model

# Why a method was used: the user has named it.
ASKED_FOR = "it was asked for"


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


class Refitting(FittedModel):
    """The part of `Fit` that knows how it was made."""

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
            options.setdefault("chains", self.draws.shape[0])
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

    def _draws_of_chain(self) -> int:
        """Number of draws of each chain; the default for a model without any parameter."""
        return max(2, self.draws.shape[1]) if self.draws.sites else 1000

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
