"""Shares of variance that a fit explains: Bayesian R2, R2 by leave-one-out, and the ICC.

Every share is computed for each posterior draw, so that it has a posterior.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.families.categories import Categories
from ranef.numerics.shapes import Float
from ranef.posterior.loo import LEAST_DRAWS
from ranef.posterior.loo_r2 import leave_one_out_r2
from ranef.posterior.posterior import Posterior, tails_of
from ranef.posterior.row_variances import PerDraw, RowVariances, common_variance, mean_residual
from ranef.posterior.summary import Summary
from ranef.terms.capabilities import HasVariances, KnownSummand, VariesByLevel

# Draws or resamples of a share.
Samples = Float[NDArray[np.float64], "samples"]

KINDS = ("bayes", "nakagawa", "loo")

# Largest number of rows that are left out one by one if `kind` does not ask for it.
_MOST_LEFT_OUT = 100_000

# The residual variance of each family on the scale of the response, in words.
_RESIDUAL = {
    "bernoulli": "p (1 - p)",
    "binomial": "p (1 - p) of one trial",
    "gaussian": "sigma^2",
    "student": "sigma^2, the squared scale",
}
# And on the scale of the link, by Nakagawa, Johnson and Schielzeth (2017).
_LATENT = {
    "bernoulli": "pi^2 / 3, the variance of a logistic variable",
    "binomial": "pi^2 / 3, the variance of a logistic variable",
    "ordinal": "pi^2 / 3, the variance of a logistic variable",
    "poisson": "log(1 + 1 / m), m the mean of the response",
    "negative_binomial": "log(1 + 1 / m + 1 / alpha), m the mean of the response",
    "gamma": "log(1 + 1 / alpha)",
    "exponential": "log 2",
    "lognormal": "sigma^2",
    "gaussian": "sigma^2",
    "student": "sigma^2, the squared scale",
}


@dataclass(frozen=True)
class LinkVariances:
    """The parts of the variance of the location's predictor and of the residual, by draw.

    Attributes:
        common: variance over rows of the common effects, curves and networks.
        groups: variance of each grouping, the mean over rows of z_i' Sigma z_i (Johnson, 2014).
        residual: residual variance, with that of groupings of which every row is a level.
    """

    common: PerDraw
    groups: Mapping[str, PerDraw]
    residual: PerDraw


@dataclass(frozen=True)
class VarianceExplained:
    """The tables of `Fit.r2` and `Fit.icc`.

    Attributes:
        posterior: the posterior of the fit.
    """

    posterior: Posterior

    def r2(self, kind: str | None, interval: float, seed: int) -> Summary:
        """The table of `Fit.r2`.

        Raises:
            OptionError: for an unknown kind, or one that the model does not have.
        """
        tails = tails_of(interval)
        if kind is not None and kind not in KINDS:
            raise OptionError(f"kind must be one of {', '.join(map(repr, KINDS))}, not {kind!r}")
        family = self.posterior.program.family
        ordered = isinstance(family, Categories) and family.name == "ordinal"
        if kind == "nakagawa" or (kind is None and ordered):
            return self._nakagawa(tails)
        if isinstance(family, Categories):
            advice = (
                "; kind='nakagawa' takes the latent variable that the thresholds divide"
                if ordered
                else ", and no R2 is defined for it; fit.loo() says how well it predicts"
            )
            raise OptionError(f"a response of the family {family.name} has no variance{advice}")
        rows: dict[str, Samples] = {}
        said = []
        if kind in (None, "bayes"):
            found = RowVariances.of(self.posterior)
            self._refuse_infinite(found)
            rows["marginal"] = _share(found.common, found.groups + found.residual)
            rows["conditional"] = _share(found.mean, found.residual)
            own = self._words(_RESIDUAL) or "the variance of the response given its parameters"
            said.append(f"residual variance: the mean over rows of {own}")
        left_out = self.posterior.training.stream is None
        left_out &= self.posterior.training.held <= _MOST_LEFT_OUT
        chains, each = self.posterior.draws.shape
        few = chains * each < LEAST_DRAWS
        left_out &= not few
        if kind == "loo" or (kind is None and left_out):
            loo = leave_one_out_r2(self.posterior, seed)
            rows["loo"] = loo.samples
            if loo.bad:
                said.append(f"loo is not to be relied on for {loo.bad:.1%} of the rows (k-hat)")
        elif kind is None:
            streamed = self.posterior.training.stream is not None
            said.append(
                "loo is left out, as the rows were read in batches"
                if streamed
                else f"loo is left out, as it needs at least {LEAST_DRAWS} draws"
                if few
                else "loo is left out, as there are many rows; kind='loo' asks for it"
            )
        return _table("r2", rows, tails, "; ".join(said))

    def icc(self, interval: float) -> Summary:
        """The table of `Fit.icc`.

        Raises:
            OptionError: for a model without groupings, or one that has no residual variance on
                the scale of the predictor.
        """
        tails = tails_of(interval)
        found = self._on_link_scale("fit.icc()")
        if not found.groups:
            raise OptionError(
                "fit.icc() is the share of variance between the levels of a grouping, and the "
                "model has none, such as (1 | g), beside one level for each row"
            )
        groups = sum(found.groups.values(), np.zeros(1))
        each = dict(found.groups)
        if len(each) > 1:
            each["all"] = groups
        names, kinds, shares = [], [], []
        for name, own in each.items():
            names += [name] * 2
            kinds += ["adjusted", "unadjusted"]
            shares.append(_share(own, groups - own + found.residual))
            shares.append(_share(own, groups - own + found.residual + found.common))
        index = pd.Index(names, name="grouping")
        table = pd.DataFrame({"kind": kinds}, index=index)
        for column, values in _described(shares, tails).items():
            table[column] = values
        line = self._residual_line()
        return Summary.of(table, lambda: line)

    def _nakagawa(self, tails: tuple[float, float]) -> Summary:
        found = self._on_link_scale("kind='nakagawa'")
        groups = sum(found.groups.values(), np.zeros(1))
        rows = {
            "marginal": _share(found.common, groups + found.residual),
            "conditional": _share(found.common + groups, found.residual),
        }
        return _table("r2", rows, tails, self._residual_line())

    def _residual_line(self) -> str:
        return f"residual variance on the scale of the predictor: {self._words(_LATENT)}"

    def _words(self, of_family: Mapping[str, str]) -> str:
        """The residual variance in words; "" where `of_family` does not have the family."""
        form = self.posterior.training.response.form
        if form == "se":
            return "s^2, the squared standard errors"
        own = of_family.get(self.posterior.program.family.name, "")
        return own.replace("sigma^2", "sigma^2 / w") if form == "weights" else own

    def _on_link_scale(self, what: str) -> LinkVariances:
        """The parts of the variance on the scale of the location's predictor.

        Raises:
            OptionError: for a family, or a term, of which the variance is not defined.
        """
        known = self.posterior
        family = known.program.family
        terms = known.program.terms.get(known.program.location, ())
        for term in terms:
            if isinstance(term, VariesByLevel) and not isinstance(term, HasVariances):
                raise OptionError(
                    f"{what} needs the variance of each grouping, which is not defined for "
                    f"{term.label}; ask for fit.r2(kind='bayes')"
                )
        residual = known.residual_variance if family.name in _LATENT else None
        if residual is None and family.name in ("gaussian", "student"):
            residual = mean_residual(known)
        if residual is None:
            raise OptionError(
                f"{what} needs a residual variance on the scale of the predictor, which is not "
                f"defined for the family {family.name}{self._predicted()}"
                + ("" if isinstance(family, Categories) else "; ask for fit.r2(kind='bayes')")
            )
        groups = {name: own for name, own in known.group_variances.items() if name}
        for name in [name for name in groups if self._levels(name) == known.training.rows.used]:
            residual = residual + groups.pop(name)
        return LinkVariances(self._common, groups, np.atleast_1d(residual))

    @cached_property
    def _common(self) -> PerDraw:
        """Variance over rows of what all rows share, without offsets."""
        known = self.posterior
        terms = known.program.terms.get(known.program.location, ())
        plain = all(isinstance(term, (HasVariances, KnownSummand)) for term in terms)
        if not plain:
            return common_variance(known)
        n = known.training.held
        return np.atleast_1d(known.group_variances.get("", 0.0)) * (n / max(n - 1, 1))

    def _levels(self, grouping: str) -> int:
        """Number of levels of a grouping; 0 if it has no effects of levels."""
        return max(
            (
                len(v.coords[0])
                for v in self.posterior.variables.values()
                if v.role == "group" and v.factor == grouping
            ),
            default=0,
        )

    def _predicted(self) -> str:
        """Which other parameters have a predictor, where that is the reason, for a sentence."""
        program = self.posterior.program
        others = [name for name in program.terms if name != program.location]
        defined = program.family.name in _LATENT
        return f" with a predictor of {', '.join(others)}" if others and defined else ""

    def _refuse_infinite(self, found: RowVariances) -> None:
        """Refuse a residual variance that is infinite.

        Raises:
            OptionError: saying in how many draws it is.
        """
        infinite = ~np.isfinite(found.residual)
        if infinite.any():
            raise OptionError(
                f"the variance of the response is infinite in {int(infinite.sum()):,} of "
                f"{len(infinite):,} draws, and R2 is not defined there; ask for kind='loo'"
            )


def _share(own: PerDraw, others: PerDraw) -> PerDraw:
    """The share own / (own + others) by draw; zero where both are zero."""
    own, others = np.broadcast_arrays(own, others)
    total = own + others
    return np.divide(own, total, out=np.zeros_like(total), where=total > 0)


def _described(samples: list[Samples], tails: tuple[float, float]) -> dict[str, list[float]]:
    """Mean, sd and central interval of each distribution."""
    limits = [np.quantile(values, tails) for values in samples]
    return {
        "estimate": [float(values.mean()) for values in samples],
        "sd": [float(values.std(ddof=1)) if len(values) > 1 else 0.0 for values in samples],
        "lower": [float(lower) for lower, _ in limits],
        "upper": [float(upper) for _, upper in limits],
    }


def _table(
    name: str, rows: Mapping[str, Samples], tails: tuple[float, float], line: str
) -> Summary:
    index = pd.Index(list(rows), name=name)
    return Summary.of(
        pd.DataFrame(_described(list(rows.values()), tails), index=index), lambda: line
    )
