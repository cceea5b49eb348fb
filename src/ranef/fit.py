"""`Fit`: what is known after the fit, as tables, draws and predictions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import arviz_base
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from ranef import priors
from ranef.errors import ColumnError, DataError, OptionError, whole_number
from ranef.frame import Frame, Rows
from ranef.inference.base import Draws
from ranef.predictive import Predictive
from ranef.program import Designs, Program, Training
from ranef.registry import suggestion
from ranef.tables import read
from ranef.terms.base import Replay, Variable

_KINDS = ("mean", "response")
_NEW_LEVELS = ("error", "sample", "zero")


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
        return (
            f"<ranef.Fit of {self.program.formula.text!r} by {self.method}: "
            f"{self.draws.message}; {self.rows}>"
        )

    @property
    def rows(self) -> Rows:
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
    def elbo(self) -> float:
        """The evidence lower bound at the end, in nats, over all training rows.

        Raises:
            OptionError: for a method that has none.
        """
        if self.draws.elbo is None:
            raise OptionError(f"method {self.method!r} has no ELBO; svi has")
        return self.draws.elbo[0]

    @property
    def priors(self) -> dict[str, priors.Prior]:
        """The prior of every parameter, given or default."""
        return dict(self.training.state.priors)

    # Draws

    @cached_property
    def variables(self) -> dict[str, Variable]:
        """Every variable of the model, with its role, dimensions and coordinates."""
        return self.program.variables(self.training.state)

    @cached_property
    def _values(self) -> dict[str, NDArray[np.float64]]:
        """Draws of every variable with a posterior, (chain, draw, ...)."""
        sites = {n: np.asarray(v, dtype=np.float64) for n, v in self.draws.sites.items()}
        known = {**sites, **self.program.derived(self.training.state, sites)}
        return {name: known[name] for name in self.variables if name in known}

    @cached_property
    def _constants(self) -> dict[str, tuple[Any, str]]:
        """Parameters without a posterior: value, and "point estimate" or "fixed"."""
        out = {}
        for name, prior in self.training.state.priors.items():
            if isinstance(prior, priors.Fixed):
                out[name] = (prior.value, "fixed")
            elif isinstance(prior, priors.PointEstimate):
                out[name] = (np.asarray(self.draws.points[name], np.float64), "point estimate")
        return out

    @cached_property
    def posterior(self) -> xr.Dataset:
        """Draws of every variable, dims chain, draw and the variable's own."""
        return self.idata["posterior"].to_dataset()

    @cached_property
    def idata(self) -> xr.DataTree:
        """The ArviZ DataTree: posterior, observed_data, and the method's own record."""
        dims = {name: list(v.dims) for name, v in self.variables.items()}
        coords = {
            dim: list(coord)
            for v in self.variables.values()
            for dim, coord in zip(v.dims, v.coords, strict=True)
        }
        response = str(self.program.formula.response).replace("/", "_over_")
        # On its own: a response may have the name of a parameter.
        observed = arviz_base.from_dict(
            {"observed_data": {response: np.asarray(self.training.response.value)}},
            dims={response: ["row"]},
        )
        tree = arviz_base.from_dict(
            {"posterior": self._values},
            dims=dims,
            coords=coords,
            attrs={"posterior": {"formula": self.program.formula.text, "method": self.method}},
        )
        tree["observed_data"] = observed["observed_data"]
        if self.draws.trace:
            steps = {name: ("step", value) for name, value in self.draws.trace.items()}
            tree["optimization"] = xr.DataTree(xr.Dataset(steps))
        return tree

    # Tables

    def summary(self, interval: float = 0.9) -> pd.DataFrame:
        """Posterior mean, sd and central interval of every parameter.

        The effects of single levels are in `ranef`. A parameter without a posterior has
        `kind` "point estimate" or "fixed", sd 0 and an interval of no width. Rows named
        ``share(g)`` hold the share of the predictor's and residual's variance (of the
        squared scale, for student) that the grouping g explains.
        """
        tails = _tails(interval)
        rows = []
        for name, variable in self.variables.items():
            if variable.role == "group":
                continue
            value, kind = self._constants.get(name, (None, "posterior"))
            for label, place in variable.elements(name):
                if value is None:
                    described = _describe(self._flat(name)[:, place], tails)
                else:
                    point = _element(value, place)
                    described = (point, 0.0, point, point)
                rows.append((label, *described, kind))
        for factor, share in self._shares().items():
            rows.append((f"share({factor})", *_describe(share, tails), "derived"))
        columns = ["parameter", "mean", "sd", "lower", "upper", "kind"]
        return pd.DataFrame(rows, columns=columns).set_index("parameter")

    def fixef(self) -> pd.DataFrame:
        """Common effects: posterior mean and sd."""
        return self._table("common")

    def varcorr(self) -> pd.DataFrame:
        """Scales and correlations of the group effects, and the scale of the residual."""
        out = self._table("sd", "correlation")
        residual = self._table("family")
        return pd.concat([out, residual.loc[residual.index == "sigma", :]])

    def ranef(self, factor: str) -> pd.DataFrame:
        """Effects of the levels of one grouping: term, posterior mean and sd by level.

        Args:
            factor: the grouping as in the formula, such as "g" or "a:b".

        Raises:
            ColumnError: for a grouping the model does not have.
        """
        names = {
            name: v
            for name, v in self.variables.items()
            if v.role == "group" and v.factor == str(factor).replace("/", "_over_")
        }
        if not names:
            groups = dict.fromkeys(v.factor for v in self.variables.values() if v.role == "group")
            hint = suggestion(str(factor), groups) if groups else "it has none"
            raise ColumnError(f"the model has no grouping {factor!r}; {hint}")
        parts = []
        for name, variable in names.items():
            flat = self._flat(name)
            parts.append(
                pd.DataFrame(
                    {
                        "term": name.removesuffix(f"|{variable.factor}"),
                        "mean": flat.mean(axis=0),
                        "sd": flat.std(axis=0, ddof=1),
                    },
                    index=pd.Index(variable.coords[0], name=factor),
                )
            )
        return pd.concat(parts)

    def _flat(self, name: str) -> NDArray[np.float64]:
        """Draws of a variable as (chains times draws, elements)."""
        values = self._values[name]
        return values.reshape(values.shape[0] * values.shape[1], -1)

    def _table(self, *roles: str) -> pd.DataFrame:
        rows = []
        for name, variable in self.variables.items():
            if variable.role not in roles:
                continue
            value, _ = self._constants.get(name, (None, ""))
            for label, place in variable.elements(name):
                if value is None:
                    flat = self._flat(name)[:, place]
                    rows.append((label, flat.mean(), flat.std(ddof=1)))
                else:
                    rows.append((label, _element(value, place), 0.0))
        return pd.DataFrame(rows, columns=["parameter", "mean", "sd"]).set_index("parameter")

    def _shares(self) -> dict[str, NDArray[np.float64]]:
        """Share of variance that each grouping explains, by draw."""
        known: dict[str, Any] = {name: values.reshape(-1, *values.shape[2:])
                 for name, values in self._values.items()}  # fmt: skip
        size = max((len(v) for v in known.values()), default=1)
        known |= {name: np.full(size, value) for name, (value, _) in self._constants.items()
                  if np.ndim(value) == 0}  # fmt: skip
        parts: dict[str, NDArray[np.float64]] = {}
        location = self.program.family.parameters[0].name
        for parameter, term in self.program.all_terms():
            if parameter.name != location:
                continue
            state = self.training.state.terms[term.label]
            design = self.training.designs[term.label]
            for factor, variance in term.variances(state, design, known).items():
                parts[factor] = parts.get(factor, 0.0) + variance
        residual = self.program.family.residual(known)
        if residual is None or not parts:
            return {}
        total = residual + sum(parts.values())
        return {factor: variance / total for factor, variance in parts.items()}

    # Prediction

    def predict(
        self,
        data: Any,
        kind: str = "mean",
        interval: float = 0.9,
        new_levels: str = "error",
        seed: int = 0,
    ) -> pd.DataFrame:
        """Predictions for the rows of `data`, in their order.

        Args:
            data: a table or path, as for `Model.fit`; the response is not needed.
            kind: "mean" for the mean of the response (the location, for a family without
                one), "response" for a response.
            interval: probability of the central interval.
            new_levels: levels of a grouping that training did not see: "error", "sample"
                their effects from the prior the data have informed, or "zero".
            seed: of what is sampled.

        Returns:
            Columns mean, sd, lower, upper. The sd of a response is infinite where some
            draw's is.

        Raises:
            DataError: for a gap in a predictor, or an unseen level under "error".
            OptionError: for an argument outside what it may be.
        """
        if kind not in _KINDS:
            raise OptionError(f"kind must be 'mean' or 'response', not {kind!r}")
        _tails(interval)
        seed = whole_number("seed", seed, least=0)
        frame, designs = self._designs(data, new_levels, response=False, companion=kind != "mean")
        family, state = self.program.family, self.training.state.family
        response = family.design(state, frame, known=False, beside=kind == "response")
        out = self._predictive(new_levels, seed).summaries(
            designs, response, frame.n, kind, interval
        )
        return pd.DataFrame(out)

    def log_score(self, data: Any, new_levels: str = "error", seed: int = 0) -> NDArray[np.float64]:
        """Log predictive density of each row's response, (n,): log mean_s p(y_i | draw s).

        Args and errors are those of `predict`; `data` must hold the response.
        """
        seed = whole_number("seed", seed, least=0)
        frame, designs = self._designs(data, new_levels, response=True, companion=True)
        response = self.program.family.design(self.training.state.family, frame)
        predictive = self._predictive(new_levels, seed)
        return np.concatenate(predictive.log_scores(designs, response, frame.n))

    def _predictive(self, new_levels: str, seed: int) -> Predictive:
        key = (new_levels, seed)
        if key not in self._cache:
            replay = Replay(training=False, new_levels=new_levels)
            self._cache[key] = Predictive(
                self.program, self.training.state, self.draws, replay, seed
            )
        return self._cache[key]

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
        for name in needs:
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

    def _refuse_new(self, designs: Mapping[str, Any]) -> None:
        for label, design in designs.items():
            if design.new:
                shown = ", ".join(map(repr, design.new[:3]))
                more = f" and {len(design.new) - 3} more" if len(design.new) > 3 else ""
                raise DataError(
                    f"({label}) has no effect for the level {shown}{more}, not seen in training; "
                    "use new_levels='sample' or new_levels='zero'"
                )


def _tails(interval: float) -> tuple[float, float]:
    if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < 1:
        raise OptionError(f"interval must be a probability between 0 and 1, not {interval!r}")
    return (1 - interval) / 2, (1 + interval) / 2


def _element(value: Any, place: int) -> float:
    """One element of a constant, which may be one number for all of them."""
    flat = np.ravel(value)
    return float(flat[place] if len(flat) > 1 else flat[0])


def _describe(values: NDArray[np.float64], tails: tuple[float, float]) -> tuple[float, ...]:
    lower, upper = np.quantile(values, tails)
    return float(values.mean()), float(values.std(ddof=1)), float(lower), float(upper)
