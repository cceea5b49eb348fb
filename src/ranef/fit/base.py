"""`FittedModel`: a model, its training rows and its draws, as named variables and as a DataTree."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from functools import cached_property

from ranef import markup, priors
from ranef.check import SECONDS, Check, check
from ranef.data.complete_cases import CompleteCases
from ranef.errors import OptionError, whole_number
from ranef.inference.base import Draws
from ranef.lazy import xr
from ranef.names import NewLevels
from ranef.posterior.coefficient_tables import CoefficientTables
from ranef.posterior.idata_groups import IdataGroups
from ranef.posterior.new_rows import naming_column, read_new_rows
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.program import posterior_variables
from ranef.program.program import Program
from ranef.program.training import Training
from ranef.terms.base import RunOptions, Variable

# What happens in fits, at level INFO.
LOG = logging.getLogger("ranef")


@dataclass
class _Computed:
    """What a fit keeps of its computations.

    Attributes:
        predictive: predictions, with their compiled programs, by the treatment of new levels, the
            number of draws and the labels of the terms that they include.
        check: the check with a second opinion, None before there is one.
    """

    predictive: dict[tuple[str, ...], Predictive] = field(default_factory=dict)
    check: Check | None = None


@dataclass(frozen=True, repr=False)
class FittedModel:
    """What every part of a `Fit` knows: the model, the training rows and the draws.

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

    def _repr_html_(self) -> str:
        title = f"{self.program.formula.text}, family {self.program.family.name}"
        how = f"by {self.method} in {self.seconds:.2g} s, because {self.why}"
        lines = markup.lines(title, how, self.message, str(self.rows), *self._notes())
        return f"{lines}{CoefficientTables(self._known).summary(0.9, exp=False).to_html()}"

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
    def priors(self) -> priors.Priors:
        """Parameter name to prior, whether given by the user or by default."""
        return priors.Priors(posterior_variables.stated(self.program, self.training.state))

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
        self, *groups: str, data: object = None, new_levels: NewLevels = "sample", seed: int = 0
    ) -> xr.DataTree:
        """Compute further groups, add them to `idata`, and return it.

        Every figure of `rf.plots` names the groups that it needs.

        Args:
            groups: names of groups. Those of ArviZ's schema are "posterior_predictive" (on at
                most 20,000 rows), "prior", "prior_predictive" (likewise), "log_prior" and
                "log_likelihood". Others are
                "surface" (the mean over two numeric predictors),
                "partial_effects" (the mean along each predictor),
                "shrinkage" (estimates of levels without pooling),
                "subjects" (rows and curves of single levels along a predictor),
                "predictive_by_group" (observed and predicted means of levels),
                "imputed" (draws of the missing values of columns in mi()),
                "scaled_residuals" (what `residual_checks` tests, on at most 20,000 rows) and
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
            The verdict is on the computation of the posterior. What is found about the model,
            such as overdispersed counts, is among the `notes`, which do not change it; with
            quick=True there are none.
        """
        # The ELBO of a variational guide does not say how far the guide is from the posterior.
        known = self._cache.check
        if known is None and quick and not self.draws.is_gaussian_guide:
            return check(self._known, reference=False)
        if known is None:
            began = time.perf_counter()
            known = check(self._known, seconds=max(self.seconds, SECONDS))
            self._cache.check = known
            seconds = time.perf_counter() - began
            LOG.info("checked in %.3g s: %s", seconds, known.verdict)
        return known

    def _predictive(
        self,
        new_levels: str,
        seed: int,
        program: Program | None = None,
        draws: Draws | None = None,
    ) -> Predictive:
        """Predictions with this treatment of new levels, cached together with compiled programs.

        Args:
            new_levels: as for `predict`.
            seed: seed for whatever is sampled.
            program: the program that predicts, if not that of the fit (`limited_program`).
            draws: the draws to predict with, if not all of the fit.
        """
        program = program or self.program
        labels = (term.label for _, term in program.all_terms())
        count = "all" if draws is None else str(draws.shape)
        made, key = self._cache.predictive, (new_levels, count, *labels)
        if key not in made:
            replay, state = RunOptions(training=False, new_levels=new_levels), self.training.state
            made[key] = Predictive(program, state, draws or self.draws, replay, seed)
        found = made[key] if draws is None else made[key].with_draws(draws)
        return found if found.seed == seed else found.seeded(seed)
