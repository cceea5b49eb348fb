"""`Fit`: the posterior of a model given a table, with its summaries, checks and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ranef import extras, priors, registry
from ranef.check import SECONDS, Check, check
from ranef.data.complete_cases import CompleteCases
from ranef.data.frame import Frame
from ranef.data.row_labels import ByRow, Table
from ranef.errors import OptionError, suggestion, whole_number
from ranef.files.atomic_write import StrPath
from ranef.formula.equation import plain
from ranef.inference.base import Draws, LikelihoodCriterion
from ranef.lazy import xr
from ranef.posterior.idata_groups import IdataGroups
from ranef.posterior.imputation import Imputation
from ranef.posterior.loo import LeaveOneOut, leave_one_out
from ranef.posterior.new_rows import naming_column, read_new_rows
from ranef.posterior.posterior import Posterior, tails_of
from ranef.posterior.predictive import Predictive
from ranef.posterior.recommend import RecommendationQuery, recommend
from ranef.posterior.summary import Summary
from ranef.program import posterior_variables
from ranef.program.program import Program
from ranef.program.training import Designs, Training
from ranef.storage import fit_file
from ranef.terms.base import RunOptions, Variable
from ranef.terms.nn import variables

if TYPE_CHECKING:
    import keras

_KINDS = ("mean", "response", "component")
# Fields that a saved file does not hold as plain values: `fit_file` encodes the first three by
# itself, and the cache is not saved.
_PARTS = ("program", "training", "draws", "_cache")


@dataclass
class _Computed:
    """What a fit keeps of its computations.

    Attributes:
        predictive: predictions, with their compiled programs, by the treatment of new levels.
        check: the check with a second opinion, None before there is one.
    """

    predictive: dict[str, Predictive] = field(default_factory=dict)
    check: Check | None = None


@dataclass(frozen=True, repr=False)
class Fit:
    """A fitted model: the posterior given a table. Made by `Model.fit` and `ranef.load`.

    Attributes:
        program: the model.
        training: the training rows, and what was learned from them before the fit, such as
            levels, column means and default priors.
        draws: the result of the method: posterior draws, point estimates and diagnostics.
        method: the name of the method: "exact", "laplace", "svi" or "nuts".
        why: why this method was used.
        seconds: how long the fit took, in seconds.
    """

    program: Program
    training: Training
    draws: Draws
    method: str
    why: str
    seconds: float
    _cache: _Computed = field(default_factory=_Computed)

    def __repr__(self) -> str:
        said = "; ".join([self.draws.message, str(self.rows), *self._notes()])
        return f"<ranef.Fit of {self.program.formula.text!r} by {self.method}: {said}>"

    def _notes(self) -> tuple[str, ...]:
        """Notes on how the response is coded, such as which text is the success."""
        return self.program.family.notes(self.training.state.family)

    @property
    def rows(self) -> CompleteCases:
        """Number of rows read and used, and of missing values by column."""
        return self.training.rows

    @property
    def converged(self) -> bool:
        """Whether the method met its own criterion; `message` says which and by how much."""
        return self.draws.converged

    @property
    def message(self) -> str:
        """How the method ended, in a sentence."""
        return self.draws.message

    @property
    def steps(self) -> int:
        """Number of steps or evaluations of the method."""
        return self.draws.steps

    @property
    def resumed_from(self) -> int | None:
        """The step at which the fit resumed from a checkpoint; None if it did not."""
        return self.draws.resumed_from

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the search early; the fit is then the best found until then."""
        return self.draws.interrupted

    @property
    def elbo(self) -> float:
        """The evidence lower bound (ELBO) at the end of the fit, in nats, over all training rows.

        For a model of networks and linear terms that is fitted without a guide, it is
        log p(y | w) minus the penalties of the networks' weights w. All parameters but w are
        integrated out, the hyperparameters by Laplace's approximation.

        Raises:
            OptionError: for a method without an ELBO.
        """
        if self.draws.elbo is None:
            raise OptionError(f"method {self.method!r} has no ELBO; svi has")
        return self.draws.elbo[0]

    @property
    def priors(self) -> dict[str, priors.Prior]:
        """Parameter name to prior, whether given by the user or by default."""
        return posterior_variables.stated(self.program, self.training.state)

    # Draws

    @cached_property
    def _known(self) -> Posterior:
        return Posterior(self.program, self.training, self.draws)

    @property
    def variables(self) -> dict[str, Variable]:
        """Name to `Variable`: the role, dimensions and coordinates of each model variable."""
        return self._known.variables

    @cached_property
    def posterior(self) -> xr.Dataset:
        """Posterior draws of every variable, with dimensions (chain, draw, ...)."""
        return self.idata["posterior"].to_dataset()

    @property
    def idata(self) -> xr.DataTree:
        """The fit as an ArviZ DataTree.

        It holds the groups posterior, observed_data and constant_data (``size|g``, the number of
        rows of each level of a grouping g). With NUTS it also has sample_stats, and after an
        optimization the group optimization, with the record of each step. `extend` adds groups
        that take longer to compute.
        """
        return self._tree

    @cached_property
    def _tree(self) -> xr.DataTree:
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
        self, *groups: str, data: object = None, new_levels: str = "sample", seed: int = 0
    ) -> xr.DataTree:
        """Compute further groups, add them to `idata`, and return it.

        Every figure of `rf.plots` names the groups that it needs.

        Args:
            groups: names of groups. Those of ArviZ's schema are "posterior_predictive" (on at
                most 20,000 rows), "prior" and "log_likelihood". Others are
                "surface" (the mean over two numeric predictors),
                "partial_effects" (the mean along each predictor),
                "shrinkage" (estimates of levels without pooling),
                "predictive_by_group" (observed and predicted means of levels),
                "imputed" (draws of the missing values of columns in mi()) and
                "validation" (predictions of new rows, which needs `data`).
            data: for "validation": rows that were not used in the fit, with their response.
            new_levels: for "validation", as for `predict`.
            seed: seed for whatever is sampled.

        Returns:
            `idata` with the groups added.

        Raises:
            OptionError: for an unknown group, or one that is not defined for this model.
            DataError: for missing values in `data`, or a level that did not occur in training
                with new_levels="error".
        """
        seed = whole_number("seed", seed, least=0)
        for group in groups:
            if group == "validation":
                self.idata[group] = xr.DataTree(self._validation(data, new_levels, seed))
            else:
                self.idata[group] = xr.DataTree(self._criticism.group(group, seed))
        return self.idata

    def _validation(self, data: object, new_levels: str, seed: int) -> xr.Dataset:
        if data is None:
            raise OptionError(
                "validation needs rows that the fit has not seen; pass them as in "
                "fit.extend('validation', data=table)"
            )
        frame, designs = read_new_rows(self._known, data, new_levels, response=True, companion=True)
        response = self.program.family.design(self.training.state.family, frame)
        with naming_column(self._known, frame):
            return self._predictive(new_levels, seed).validation(designs, response, frame.n)

    # Tables

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

    def equations(self) -> list[str]:
        """The model as equations, one text each, with subscripts written as ``_{...}``."""
        return [plain(line) for line in self.program.equations(self.training.state)]

    def check(self, quick: bool = False) -> Check:
        """Check whether the posterior can be trusted.

        Looks for symptoms in the posterior and in the method's diagnostics, and compares the fit
        with a second opinion, which is the posterior by another method. This takes at most about
        as long as the fit took, or ten seconds if the fit was faster.

        Args:
            quick: whether to do without the second opinion. It is used all the same if it has
                been computed before, or if the fit comes from the variational guide of svi,
                which has no diagnostics of its own that say how far it is off. Summaries and
                reports use quick=True.

        Returns:
            The symptoms, the second opinions that were taken, and the verdict: "trust" if
            there is a second opinion and nothing speaks against the fit, "unchecked" if
            nothing speaks against it and there is no second opinion, "caution" or "distrust".
        """
        # The ELBO of a variational guide does not say how far the guide is from the posterior.
        known = self._cache.check
        if known is None and quick and not self.draws.is_gaussian_guide:
            return check(self._known, reference=False)
        if known is None:
            known = check(self._known, seconds=max(self.seconds, SECONDS))
            self._cache.check = known
        return known

    def loo(self, group: str | None = None, seed: int = 0) -> LeaveOneOut:
        """Leave-one-out cross-validation of rows or levels, without refitting.

        Estimates the expected log predictive density elpd = sum_j log p(y_j | y_-j) by
        Pareto-smoothed importance sampling (PSIS-LOO; Vehtari, Gelman and Gabry, 2017). Here j
        is a row; with `group`, j stands for all rows of a level. The effects of the level that is
        left out are then integrated out, so that elpd says how well new levels are predicted.

        Args:
            group: a grouping such as "g", or None to leave out rows.
            seed: seed for whatever is sampled.

        Returns:
            The result, with `elpd`, its standard error `se`, the effective number of parameters
            `p_loo`, the share `bad` of k-hats above `limit`, and the table `pointwise`.

        Raises:
            ColumnError: if the model does not have the grouping.
            OptionError: if the fit has read its rows in batches, or the grouping has too many
                levels.
        """
        return leave_one_out(self._known, group, whole_number("seed", seed, least=0))

    def report(self, path: StrPath) -> Path:
        """Write a report on this fit as one self-contained HTML page.

        The report describes the data and dropped rows, the model as formula and equations, the
        priors, convergence, all parameters (and which of them are point estimates), the share of
        variance of each grouping, and shows the figures of `rf.plots` with notes on how to read
        them.

        Args:
            path: where to write the page.

        Returns:
            The path of the page.

        Raises:
            FileError: if the file cannot be written.
            PackageError: if a package of the extra `ranef[plots]` is not installed.
        """
        extras.require("fit.report()", *extras.REPORT)
        # Imported here because matplotlib and arviz-plots take seconds to load.
        from ranef import report

        return report.write(self, path)

    def save(self, path: StrPath) -> Path:
        """Write the fit to one file, which `ranef.load` reads.

        The file holds the model, the draws, and the training rows (of the columns that the model
        uses) with their index, so that a loaded fit gives the same results bit for bit. If the
        fit has read its rows in batches, the file holds the sample of rows that it has kept.

        An existing file is replaced only once the new one is complete, and keeps its permissions.
        If `path` is a symbolic link, the file that it leads to is replaced and the link stays.

        Args:
            path: where to write the file.

        Returns:
            The path of the file.

        Raises:
            OptionError: for a network with a layer of a kind that cannot be saved; Keras's
                common layers can.
            FileError: if the file cannot be written.
        """
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _PARTS}
        return fit_file.write(path, self.program, self.training, self.draws, record)

    def network(self, name: str) -> keras.Model:
        """The Keras network of that name, with the weights of this fit.

        This is the object that was passed to `Model` (or, for a loaded fit, the one read from the
        file). It therefore holds the weights of one fit at a time, and calling this method sets
        them to those of this fit. Weights with a posterior are set to their means: those of the
        last layer with weights="last". With weights="full" the weights are set to the point
        estimates around which the network is linearized.

        The inputs of the network are the arguments of nn(), with levels as their codes. If the
        network ends with a Dense layer without activation, its output is the nn() term of the
        linear predictor. Otherwise the term is the output times s / max(1, sd), where sd is
        that of the outputs before the fit and s the scale of the predictor on which default
        priors are based, such as the sd of a Gaussian response. If the outputs were already on
        that scale before the fit, the term is the output itself.

        Args:
            name: the name in nn(..., net=name).

        Returns:
            The Keras model.

        Raises:
            OptionError: if the formula has no network of that name.
        """
        network, weights = self._trained(name)
        variables.assign(network, weights)
        return network

    def _trained(self, name: str) -> tuple[keras.Model, Mapping[str, NDArray]]:
        """The network of that name, and the weights of this fit, which it may not hold now."""
        for _, term in self.program.all_terms():
            if term.call.options.get("net") == name and name is not None:
                return self.program.trained(self.training, self.draws)[term.label]
        hint = suggestion(str(name), self.program.networks)
        raise OptionError(f"the formula has no network {name!r} by net=; {hint}")

    # The likelihood

    @cached_property
    def _likelihood(self) -> LikelihoodCriterion:
        method = registry.load("method", self.method)(**self.draws.settings)
        return method.likelihood(self._known.written_problem)

    def deviance(self, theta: ArrayLike, reml: bool = False) -> float:
        """-2 log likelihood at theta, as defined by lme4. The priors are not used.

        For method "exact" this is the profiled deviance or, with `reml`, the REML criterion. For
        "laplace" it is the marginal likelihood by Laplace's approximation or adaptive
        quadrature, maximised over the common effects and the family parameters.

        Args:
            theta: the elements of the Cholesky factors of the covariances of the group effects,
                column by column; for a term without correlations the diagonal alone. The
                groupings are in the order of decreasing number of levels. With a Gaussian
                response the factors are relative to sigma.
            reml: whether to integrate out the common effects (restricted likelihood); for "exact"
                only.

        Raises:
            OptionError: for a theta of the wrong length, a method without a likelihood
                criterion, known standard errors, a fixed sigma, or `reml` with "laplace".
            DataError: if common effects cannot be told apart, or the likelihood has no maximum
                that can be found.
        """
        return self._likelihood.deviance(theta, reml)

    def maximum_likelihood(self, reml: bool = False) -> dict[str, Any]:
        """Maximum-likelihood or REML estimates, as by lme4. The priors are not used.

        Args:
            reml: whether to maximise the restricted likelihood; for method "exact" only.

        Returns:
            A dict of theta (array, see `deviance`), deviance, fixef (table of the common effects:
            estimate, se), varcorr (table: estimate) and sigma; for "laplace" also the family
            parameters by name.

        Raises:
            OptionError, DataError: as `deviance`.
        """
        found = dict(self._likelihood.maximum(reml))
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
        data: object,
        kind: str = "mean",
        interval: float = 0.9,
        new_levels: str = "error",
        seed: int = 0,
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
            DataError: for a missing value in a predictor, or a new level with
                new_levels="error".
            ColumnError: for a column that is not in `data`.
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
        frame, designs = read_new_rows(
            self._known, data, new_levels, response=known, companion=kind != "mean"
        )
        response = family.design(state, frame, known=known, beside=kind != "mean")
        predictive = self._predictive(new_levels, seed)
        with naming_column(self._known, frame):
            if known:
                found = predictive.components(designs, response, frame.n)
            else:
                found = predictive.summaries(designs, response, frame.n, kind, interval)
        return frame.labels.table(found)

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

    def log_score(self, data: object, new_levels: str = "error", seed: int = 0) -> ByRow:
        """Log predictive density of each row's response, log mean_s p(y_i | draw s), in nats.

        Missing values of columns in mi() are integrated out.

        Args:
            data: a table or path, as for `Model.fit`, with the response.
            new_levels: as for `predict`.
            seed: seed for the effects of new levels.

        Returns:
            The log densities, (n,): a pandas Series with the index of `data` if that is a pandas
            table, a polars Series if it is a polars table, and an array otherwise.

        Raises:
            DataError: for a row without a response, and otherwise as `predict`.
            ColumnError, OptionError: as `predict`.
        """
        seed = whole_number("seed", seed, least=0)
        frame, designs = read_new_rows(self._known, data, new_levels, response=True, companion=True)
        response = self.program.family.design(self.training.state.family, frame)
        predictive = self._predictive(new_levels, seed)
        with naming_column(self._known, frame):
            scores = predictive.log_scores(designs, response, frame.n)
        return frame.labels.series("log_score", scores)

    def _predictive(self, new_levels: str, seed: int) -> Predictive:
        """Predictions with this treatment of new levels, cached together with compiled programs."""
        made = self._cache.predictive
        if new_levels not in made:
            replay = RunOptions(training=False, new_levels=new_levels)
            made[new_levels] = Predictive(
                self.program, self.training.state, self.draws, replay, seed
            )
        known = made[new_levels]
        return known if known.seed == seed else known.seeded(seed)


def load(path: StrPath) -> Fit:
    """Load a fit that `Fit.save` has written. No code from the file is executed.

    Args:
        path: path of the file.

    Returns:
        The fit, which gives the same results as the one that was saved.

    Raises:
        FileError: if the file does not exist, is not a saved fit, is damaged, or was written by a
            newer version.
    """
    kept = fit_file.read(path)
    try:
        return Fit(**kept)
    except TypeError as error:
        raise fit_file.damaged(path, str(error)) from None


def restore_networks(fit: Fit) -> None:
    """Sets the networks of the user's model to the weights of a fit."""
    for name in fit.program.networks:
        variables.assign(*fit._trained(name))
