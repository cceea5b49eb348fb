"""Criticism of a fit: cross-validation and the likelihood criteria of lme4."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ranef import registry
from ranef.errors import whole_number
from ranef.fit.base import FittedModel
from ranef.inference.base import LikelihoodCriterion
from ranef.lazy import xr
from ranef.posterior.loo import LeaveOneOut, leave_one_out
from ranef.posterior.prior_draws import prior_responses
from ranef.posterior.prior_sensitivity import sensitivity
from ranef.terms.base import clean_name


class Criticism(FittedModel):
    """The part of `Fit` that measures how well the model describes its data."""

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

    def prior_predictive(self, draws: int = 500, seed: int = 0) -> xr.DataArray:
        """Draws of the response from the priors alone, on the training rows.

        They show which responses the model holds possible before it has seen any,

            y_is ~ p(y_i | theta_s),   theta_s ~ p(theta).

        Args:
            draws: number of draws.
            seed: seed for whatever is sampled.

        Returns:
            An xarray DataArray with the dimensions chain (one), draw and row. `row` is the index
            of the fitted pandas table, or else the place among the rows that were used. Of more
            than 20,000 rows as many are taken, evenly spaced. Weights of networks that are point
            estimates have starting values.

        Raises:
            OptionError: for a model with a flat prior, and for priors so wide that a response is
                not a finite number.
        """
        size = whole_number("draws", draws, least=1)
        seed = whole_number("seed", seed, least=0)
        drawn, rows = prior_responses(self._known, seed, size)
        index = self.training.rows.labels.at(rows).index
        row = rows if index is None or isinstance(index, pd.MultiIndex) else index
        coords = {"chain": [0], "draw": np.arange(size), "row": row}
        name = clean_name(str(self.program.formula.response))
        return xr.DataArray(drawn[None], coords, ("chain", "draw", "row"), name)

    def sensitivity(self, seed: int = 0) -> pd.DataFrame:
        """How far each parameter's posterior depends on the priors and on the data.

        Power-scaling raises the prior density, or the likelihood, to a power alpha near one, and
        reweights the draws to the posterior that follows; nothing is fitted again (Kallioinen,
        Paananen, Buerkner and Vehtari, 2024; computed by ArviZ). The priors are those of common
        effects, scales, correlations and parameters of the family, as `priors` lists them. The
        distribution of group effects given their scale is part of the model, and is not scaled.

        Args:
            seed: seed for whatever is sampled.

        Returns:
            A table with one row for each parameter and the columns prior and likelihood (the
            change of the posterior per unit of log2(alpha)) and diagnosis: "none" for a prior
            sensitivity below .05; "prior and data disagree" where both are above it; "strong
            prior, or data that say little" where that of the prior alone is.

        Raises:
            OptionError: for a fit that has read its rows in batches, and for a model without a
                parameter that has a prior and a posterior.
        """
        return sensitivity(self._known, whole_number("seed", seed, least=0))

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
