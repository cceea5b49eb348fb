"""`Fit`: what is known after the fit, as tables, draws and predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ranef import priors, registry
from ranef.check import SECONDS, Check, check
from ranef.data.complete_cases import CompleteCases
from ranef.data.frame import Frame
from ranef.data.tables import read
from ranef.errors import DataError, OptionError, suggestion, whole_number
from ranef.formula.equation import plain
from ranef.inference.base import Draws
from ranef.lazy import xr
from ranef.posterior.idata_groups import IdataGroups
from ranef.posterior.imputation import Imputation
from ranef.posterior.loo import LeaveOneOut, leave_one_out
from ranef.posterior.posterior import Posterior, tails_of
from ranef.posterior.predictive import OutOfReachError, Predictive
from ranef.posterior.recommend import RecommendationQuery, recommend
from ranef.posterior.summary import Summary
from ranef.program import learning
from ranef.program.program import Program
from ranef.program.training import Designs, Training
from ranef.storage import fit_file
from ranef.terms.base import RunOptions, Variable
from ranef.terms.nn import variables

_KINDS = ("mean", "response", "component")
_NEW_LEVELS = ("error", "sample", "zero")
# What a file keeps in ways of its own.
_PARTS = ("program", "training", "draws", "_cache")


@dataclass(frozen=True, repr=False)
class Fit:
    """A fitted model. Made by `Model.fit`.

    Attributes:
        program: the model.
        training: its training rows, and what it learned from them before the fit.
        draws: what the method returned.
        method: which method it was, and `why` it was taken.
        seconds: how long the fit took.
    """

    program: Program
    training: Training
    draws: Draws
    method: str
    why: str
    seconds: float
    _cache: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        said = "; ".join([self.draws.message, str(self.rows), *self._notes()])
        return f"<ranef.Fit of {self.program.formula.text!r} by {self.method}: {said}>"

    def _notes(self) -> tuple[str, ...]:
        """How the response is coded, where that has to be said."""
        return self.program.family.notes(self.training.state.family)

    @property
    def rows(self) -> CompleteCases:
        """Rows read, used, and dropped by the column that was missing."""
        return self.training.rows

    @property
    def converged(self) -> bool:
        """Whether the method's own criterion was met; `message` says how it ended."""
        return self.draws.converged

    @property
    def message(self) -> str:
        return self.draws.message

    @property
    def steps(self) -> int:
        return self.draws.steps

    @property
    def resumed_from(self) -> int | None:
        """The step at which the fit went on from its checkpoint, None where it began anew."""
        return self.draws.resumed_from

    @property
    def interrupted(self) -> bool:
        """Whether it was ended by Ctrl-C, and is the best that was found until then."""
        return self.draws.interrupted

    @property
    def elbo(self) -> float:
        """The evidence lower bound at the end, in nats, over all training rows.

        For networks beside linear blocks it is log p(y | w) less the penalties, all but the
        networks' weights w integrated, the scales by Laplace's approximation.

        Raises:
            OptionError: for a method that has none.
        """
        if self.draws.elbo is None:
            raise OptionError(f"method {self.method!r} has no ELBO; svi has")
        return self.draws.elbo[0]

    @property
    def priors(self) -> dict[str, priors.Prior]:
        """The prior of every parameter, given or default."""
        return self.program.stated(self.training.state)

    # Draws

    @cached_property
    def _known(self) -> Posterior:
        return Posterior(self.program, self.training, self.draws)

    @property
    def variables(self) -> dict[str, Variable]:
        """Every variable of the model, with its role, dimensions and coordinates."""
        return self._known.variables

    @cached_property
    def posterior(self) -> xr.Dataset:
        """Draws of every variable, dims chain, draw and the variable's own."""
        return self.idata["posterior"].to_dataset()

    @cached_property
    def idata(self) -> xr.DataTree:
        """The ArviZ DataTree: posterior, observed_data, and the method's own record.

        `extend` adds to it what takes longer: predictions, prior draws, likelihoods.
        """
        attributes = {"formula": self.program.formula.text, "method": self.method}
        groups = {
            "posterior": self._known.dataset(self._known.values, **attributes),
            "observed_data": self._criticism.observed(),
            "constant_data": self._criticism.sizes(),
        }
        if self.draws.statistics:
            each = {n: (("chain", "draw"), v) for n, v in self.draws.statistics.items()}
            groups["sample_stats"] = xr.Dataset(each)
        if self.draws.trace:
            steps = {name: ("step", value) for name, value in self.draws.trace.items()}
            groups["optimization"] = xr.Dataset(steps)
        return xr.DataTree.from_dict(groups)

    @cached_property
    def _criticism(self) -> IdataGroups:
        return IdataGroups(self._known)

    def extend(
        self, *groups: str, data: Any = None, new_levels: str = "sample", seed: int = 0
    ) -> xr.DataTree:
        """Add groups to `idata` and return it; the figures of `rf.plots` ask for theirs.

        Args:
            groups: of ArviZ: "posterior_predictive" (on at most 20,000 rows), "prior",
                "log_likelihood". Of this package: "surface", "partial_effects",
                "shrinkage", "predictive_by_group", "imputed" (draws of the missing values of
                columns in mi()), "validation" (needs `data`).
            data: rows to validate on, with their response.
            new_levels: as for `predict`, for "validation".
            seed: of what is sampled.

        Raises:
            OptionError: for a group there is not, or that this model cannot have.
            DataError: for a gap in `data`, or a level not seen under "error".
        """
        seed = whole_number("seed", seed, least=0)
        for group in groups:
            if group == "validation":
                self.idata[group] = xr.DataTree(self._validation(data, new_levels, seed))
            else:
                self.idata[group] = xr.DataTree(self._criticism.group(group, seed))
        return self.idata

    def _validation(self, data: Any, new_levels: str, seed: int) -> xr.Dataset:
        if data is None:
            raise OptionError(
                "validation needs rows that the fit has not seen; pass them as in "
                "fit.extend('validation', data=table)"
            )
        frame, designs = self._designs(data, new_levels, response=True, companion=True)
        response = self.program.family.design(self.training.state.family, frame)
        with self._naming(frame):
            return self._predictive(new_levels, seed).validation(designs, response, frame.n)

    # Tables

    def summary(self, interval: float = 0.9) -> Summary:
        """Posterior mean, sd and central interval of every parameter; prints the verdict too.

        The effects of single levels are
        in `ranef`, the weights of a network in `posterior`. A parameter without a posterior has
        `kind` "point estimate" or "fixed", sd 0 and an interval of no width. Rows named
        ``share(g)`` hold the share of variance that the grouping g explains, of that of common
        effects, groupings and residual together, means over the rows: the residual's is
        sigma^2 / w with weights(y, w), and for student the squared scale.
        """
        return Summary.of(self._known.summary(interval), self._verdict)

    def _verdict(self) -> str:
        """Which text is the success; the verdict, and how many symptoms speak for it."""
        check_ = self.check(quick=True)
        more = len(check_.symptoms) - 1
        first = f": {check_.symptoms[0].sign}" if check_.symptoms else ""
        rest = f", and {more} more; see fit.check()" if more > 0 else ""
        if check_.verdict == "unchecked" and "_checked" not in self.__dict__:
            rest += "; fit.check() takes a second opinion"
        return "\n".join([*self._notes(), f"verdict: {check_.verdict}{first}{rest}"])

    def fixef(self) -> pd.DataFrame:
        """Common effects: posterior mean and sd."""
        return self._known.table("common")

    def varcorr(self) -> pd.DataFrame:
        """Scales and correlations of the group effects, and the scale of the residual."""
        residual = self._known.table("family")
        parts = [self._known.table("sd", "correlation"), residual.loc[residual.index == "sigma", :]]
        return pd.concat(parts)

    def ranef(self, factor: str) -> Any:
        """Effects of the levels of one grouping: term, posterior mean and sd by level.

        A table of pandas whose index has the type of the grouping's column: integers, dates, texts
        as written (of a CSV file all are). Levels that several columns form together are texts,
        "a:b". A fit of a table of polars gives one, with the levels in its first column.

        Args:
            factor: the grouping as in the formula, such as "g" or "a:b".

        Raises:
            ColumnError: for a grouping the model does not have.
        """
        return self._known.effects(factor)

    def imputed(self, column: str, interval: float = 0.9, seed: int = 0) -> Any:
        """What the missing values of a column in mi() may have been, given all that was observed.

        Args:
            column: its name.
            interval: probability of the central interval.
            seed: of what is sampled.

        Returns:
            One row for each missing value of the training rows: `row`, its place in the table
            that was fitted, from 0; mean, sd, lower, upper. It has the index of those rows where
            that table was one of pandas, and is one of polars where that was. (Of a fit that has
            read its rows in batches, places are those in its sample.)

        Raises:
            ColumnError: for a column that is in no mi().
        """
        seed = whole_number("seed", seed, least=0)
        return Imputation(self._known, seed).table(column, interval)

    def equations(self) -> list[str]:
        """The model on paper, a subscript as ``_{...}``."""
        return [plain(line) for line in self.program.equations(self.training.state)]

    def check(self, quick: bool = False) -> Check:
        """The verdict on this fit.

        It prints as its symptoms, the second opinion that was taken, and one word: "trust",
        "unchecked" where nothing speaks against the fit but no second opinion could be had,
        "caution" or "distrust". It takes no longer than the fit did, or ten seconds.

        Args:
            quick: compute no second opinion where it has not been asked for before and the method
                has diagnostics of its own. Summaries and reports are quick.
        """
        # The black box of svi has none that say how far it is off.
        if quick and not self.draws.is_gaussian_guide and "_checked" not in self.__dict__:
            return check(self._known, reference=False)
        return self._checked

    @cached_property
    def _checked(self) -> Check:
        return check(self._known, seconds=max(self.seconds, SECONDS))

    def loo(self, group: str | None = None, seed: int = 0) -> LeaveOneOut:
        """How well the fit predicts what it has not seen, by leaving out without refitting.

        elpd = sum_j log p(y_j | y_-j) by Pareto-smoothed importance sampling (Vehtari, Gelman
        and Gabry, 2017), j each row, or with `group` all rows of each level, whose own effects
        are integrated out: how a model of groups predicts a new one.

        Args:
            group: a grouping such as "g", or None for rows.
            seed: of what is sampled.

        Returns:
            `elpd`, `se`, `p_loo`, `bad` (the share of k-hats over `limit`) and `pointwise`, a
            table.

        Raises:
            ColumnError: for a grouping the model does not have.
            OptionError: for a fit that has read its rows in batches, or too many levels.
        """
        return leave_one_out(self._known, group, whole_number("seed", seed, least=0))

    def report(self, path: Any) -> Path:
        """Write one self-contained HTML page about this fit, and return where it lies.

        It holds the data and what was dropped, the model as formula and equations, priors,
        convergence, every parameter, what is a point estimate, what share of the variance
        each grouping explains, and the figures of `rf.plots` with how to read them.

        Raises:
            FileError: where it cannot be written.
        """
        # matplotlib and arviz-plots take seconds to import, which a fit should not.
        from ranef import report

        return report.write(self, path)

    def save(self, path: Any) -> Path:
        """Write the fit as one file, which `ranef.load` reads, and return where it lies.

        The file holds the model, its draws, and the rows it used of the columns it used, with
        their index, so that a loaded fit does what this one does, bit for bit. Of a fit that has
        read its rows in batches it holds their sample. A file that was there is replaced only when
        the new one is complete, which then has its permissions; where `path` is a symbolic link,
        the file that it leads to is replaced and the link stays.

        Raises:
            OptionError: for a network with a layer that is not one of Keras's common ones.
            FileError: where it cannot be written.
        """
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PARTS}
        return fit_file.write(path, self.program, self.training, self.draws, record)

    def network(self, name: str) -> Any:
        """The Keras network of that name, holding the weights of this fit.

        It is the object that the model was given (or the one that was read from a file), so it
        holds the weights of one fit at a time: after `Model.fit` those of the new fit. A last
        layer with a posterior is at its mean, and weights="full" at the estimates about which
        the network is taken for linear. It takes what the formula gives it, levels as
        their codes, and its output is the nn() term of the predictor, where it ends with a Dense
        layer that has no activation. Elsewhere the term is the output times the spread of the
        predictor, over the sd with which outputs began where that is above one; or the output
        as it is, where that began on the predictor's scale.

        Args:
            name: as in nn(..., net=name).

        Raises:
            OptionError: for a network that the formula does not have.
        """
        for _, term in self.program.all_terms():
            if term.call.options.get("net") == name and name is not None:
                found = self.program.trained(self.training, self.draws)[term.label]
                variables.assign(*found)
                return found[0]
        hint = suggestion(str(name), self.program.networks)
        raise OptionError(f"the formula has no network {name!r} by net=; {hint}")

    # The likelihood

    @cached_property
    def _likelihood(self) -> Any:
        method = registry.load("method", self.method)(**self.draws.settings)
        return method.likelihood(
            self.program.problem(learning.as_written(self.program, self.training))
        )

    def deviance(self, theta: Any, reml: bool = False) -> float:
        """-2 log likelihood at theta as lme4 has it, restricted if `reml`; priors play no part.

        Args:
            theta: relative Cholesky factors column by column, factors by decreasing number
                of levels, terms without correlations by their diagonals.
            reml: whether the common effects are integrated out.

        Raises:
            OptionError: for a theta of the wrong length, a method without a likelihood, known
                standard errors, or a fixed sigma.
        """
        return self._likelihood.deviance(theta, reml)

    def maximum_likelihood(self, reml: bool = False) -> dict[str, Any]:
        """The estimates that maximise the likelihood, as lme4's.

        Returns:
            theta (array), deviance, fixef (table: estimate, se), varcorr (table: estimate),
            sigma. Raises what `deviance` raises.
        """
        found = self._likelihood.maximum(reml)
        labels = {
            name: [label for label, _ in variable.elements(name)]
            for name, variable in self.variables.items()
            if variable.role == "common"
        }
        names = [label for name, _ in self._likelihood.mixed.common for label in labels[name]]
        found["fixef"].index = pd.Index(names, name="parameter")
        return found

    # Prediction

    def predict(
        self,
        data: Any,
        kind: str = "mean",
        interval: float = 0.9,
        new_levels: str = "error",
        seed: int = 0,
    ) -> Any:
        """Predictions for the rows of `data`, in their order and with their index.

        Args:
            data: a table or path, as for `Model.fit`; the response is needed for "component".
                What is missing of a column in mi() is drawn from its model, given the row's other
                columns.
            kind: "mean" for the mean of the response (the location, for a family without
                one), "response" for a response, "component" for which component of a mixture the
                row's response came from.
            interval: probability of the central interval.
            new_levels: levels of a grouping that training did not see: "error", "sample"
                their effects from the prior the data have informed, or "zero".
            seed: of what is sampled.

        Returns:
            A table of pandas, with the index of `data` where that is one of pandas, or of polars
            where that is. Columns mean, sd, lower, upper. The sd of a response is infinite where
            some draw's is. Of ordinal and categorical responses they are of the category's number,
            1, 2, ..., and a column `p[c]` has the probability of each category c; of mixtures
            that of each component, before the row's response is seen. Of binomial ones "mean" is
            the share of successes, "response" their number. "component" has other columns:
            `component`, the number of the most probable one, and `p[c]`, the probability of each
            given the row's response, w_c p_c(y_i) / sum_k w_k p_k(y_i), a mean over draws.

        Raises:
            DataError: for a gap in a predictor, or an unseen level under "error".
            OptionError: for an argument outside what it may be.
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
        frame, designs = self._designs(data, new_levels, response=known, companion=kind != "mean")
        response = family.design(state, frame, known=known, beside=kind != "mean")
        predictive = self._predictive(new_levels, seed)
        with self._naming(frame):
            if known:
                found = predictive.components(designs, response, frame.n)
            else:
                found = predictive.summaries(designs, response, frame.n, kind, interval)
        return frame.labels.table(found)

    def recommend(
        self,
        data: Any,
        n: int = 10,
        candidates: Any = None,
        exclude_seen: bool = True,
        interval: float = 0.9,
        new_levels: str = "error",
        seed: int = 0,
    ) -> Any:
        """The n best levels of one side of mf() for given levels of the other, by their mean.

        Args:
            data: levels of the first column of mf(user, item), one or a list; or a table with one
                of its two columns, either, and with whatever else the formula needs.
            n: how many for each row of `data`, at most.
            candidates: a table of what to choose from; without it all levels that training saw.
            exclude_seen: whether pairs that training saw are left out.
            interval: probability of the central interval.
            new_levels: as for `predict`.
            seed: of what is sampled.

        Returns:
            The given level, `rank` from 1, the level that is recommended, and mean, sd, lower and
            upper as `predict` has them; ranks of a row one after the other. Levels have the type
            of the column in training. Of a table of pandas each row's index goes with its ranks;
            a table of polars gives one.

        Raises:
            OptionError: for a model without mf(), and a table that is of both of its columns or
                of neither.
            DataError: where nothing is left to recommend.
        """
        tails_of(interval)
        predictive = self._predictive(new_levels, whole_number("seed", seed, least=0))

        def designs(rows: Frame) -> Designs:
            return self._designs(rows, new_levels, response=False, companion=False)[1]

        wanted = RecommendationQuery(n, candidates, exclude_seen, interval)
        return recommend(self._known, predictive, designs, data, wanted)

    def log_score(self, data: Any, new_levels: str = "error", seed: int = 0) -> Any:
        """Log predictive density of each row's response, (n,): log mean_s p(y_i | draw s).

        What is missing of columns in mi() is integrated over. A row without a response has none,
        and is refused.

        Args and errors are those of `predict`; `data` must hold the response.

        Returns:
            A pandas Series with the index of a table of pandas, a polars Series for one of polars,
            an array for anything else.
        """
        seed = whole_number("seed", seed, least=0)
        frame, designs = self._designs(data, new_levels, response=True, companion=True)
        response = self.program.family.design(self.training.state.family, frame)
        predictive = self._predictive(new_levels, seed)
        with self._naming(frame):
            scores = predictive.log_scores(designs, response, frame.n)
        return frame.labels.series("log_score", scores)

    def _predictive(self, new_levels: str, seed: int) -> Predictive:
        if new_levels not in self._cache:
            replay = RunOptions(training=False, new_levels=new_levels)
            self._cache[new_levels] = Predictive(
                self.program, self.training.state, self.draws, replay, seed
            )
        known = self._cache[new_levels]
        return known if known.seed == seed else known.seeded(seed)

    def _designs(
        self, data: Any, new_levels: str, *, response: bool, companion: bool
    ) -> tuple[Frame, Designs]:
        if new_levels not in _NEW_LEVELS:
            raise OptionError(
                f"new_levels must be one of {', '.join(map(repr, _NEW_LEVELS))}, not {new_levels!r}"
            )
        needs = self.program.needs(response=response, companion=companion)
        frame = read(data, list(needs), self.program.missing)
        if frame.n == 0:
            raise DataError(f"{frame.source} has no rows to predict")
        for name, uses in needs.items():
            if uses == {"gaps"}:
                continue
            gaps = frame.is_missing(name)
            if gaps.any():
                raise DataError(
                    f"column {name!r} is missing in {int(gaps.sum()):,} of {frame.n:,} rows, the "
                    f"first of them row {int(np.argmax(gaps)) + 1}; fill or drop them to predict"
                )
        designs = self.program.designs(self.training.state, frame)
        if new_levels == "error":
            self._refuse_new(designs)
        return frame, designs

    @contextmanager
    def _naming(self, frame: Frame) -> Iterator[None]:
        """Name the row and the largest of its numbers where its prediction is out of reach.

        Raises:
            DataError: naming them.
        """
        try:
            yield
        except OutOfReachError as error:
            needs = self.program.needs(response=False, companion=False)
            uses = ((name, use) for name, each in needs.items() for use in each)
            sizes = {
                name: float(np.abs(frame.numbers(name)[error.place]).max())
                for name, use in uses
                if use in ("number", "any") and not frame.is_text(name)
            }
            if not sizes:
                raise
            name = max(sizes, key=lambda each: sizes[each])
            raise DataError(
                f"the prediction of row {frame.row_number(error.place)} is not a finite number or "
                f"too large to be squared; its column {name!r} is of the size {sizes[name]:.3g}, "
                "too far from the training rows, so check it or leave the row out"
            ) from None

    def _refuse_new(self, designs: Mapping[str, Any]) -> None:
        for label, design in designs.items():
            for new in filter(None, design.new):
                shown = ", ".join(map(repr, new[:3]))
                more = f" and {len(new) - 3} more" if len(new) > 3 else ""
                raise DataError(
                    f"({label}) has no effect for the level {shown}{more}, not seen in training; "
                    "use new_levels='sample' or new_levels='zero'"
                )


def load(path: Any) -> Fit:
    """The fit that `Fit.save` has written to a file. Nothing in it is run as code.

    Raises:
        FileError: for a file that is not there, is not a saved fit, is damaged, or comes from
            a newer version.
    """
    kept = fit_file.read(path)
    try:
        return Fit(**kept)
    except TypeError as error:
        raise fit_file.damaged(path, str(error)) from None
