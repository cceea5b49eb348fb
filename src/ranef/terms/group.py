"""Group-specific effects: eta_i = z_i . b_{g(i)}, b_j ~ N(0, Sigma), Sigma = D R D.

D holds the sds of the columns of z, R their correlations (identity under `||`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpy.typing import NDArray

from ranef import matrix, priors
from ranef.equation import Line, Sub, Summand, joined
from ranef.errors import ColumnError, DataError
from ranef.frame import Frame, Index, LevelsSeen, crossed_levels
from ranef.moments import Measures, Scale
from ranef.priors import Prior
from ranef.sites import parameter
from ranef.terms.base import (
    Design,
    Grouped,
    LinearBlock,
    LinearTerm,
    Parameter,
    Replay,
    Variable,
    clean_name,
)


@dataclass(frozen=True)
class Scan:
    """The slopes' scan, and the levels seen."""

    matrix: matrix.Scan
    levels: LevelsSeen


@dataclass(frozen=True)
class State:
    """Coding of the columns, the levels in order, and the columns' mean and sd."""

    matrix: matrix.Matrix
    levels: tuple[str, ...]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]

    @cached_property
    def index(self) -> Index:
        """The levels, to be looked up."""
        return Index(self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of each column in the posterior, as in `1|g`."""
        return tuple(clean_name(name) for name in self.titles)

    @property
    def titles(self) -> tuple[str, ...]:
        """Name of each column as the formula writes it."""
        names: list[str] = []
        for coding in self.matrix.codings:
            base = "1" if coding.name == "Intercept" else coding.name
            names += [f"{base}[{label}]" for label in coding.names] or [base]
        return tuple(names)


class Group(LinearTerm):
    """Coefficients that vary by the levels of one grouping factor."""

    @property
    def factor(self) -> str:
        return clean_name(":".join(self.call.options["factor"]))

    @property
    def grouping(self) -> str:
        """The factor as the formula writes it."""
        return ":".join(self.call.options["factor"])

    def correlated(self, state: State) -> bool:
        return self.call.options["correlated"] and len(state.columns) > 1

    def needs(self) -> dict[str, str]:
        return {
            **matrix.needs(self.call.arguments),
            **dict.fromkeys(self.call.options["factor"], "level"),
        }

    def scan(self, accumulator: Scan | None, frame: Frame) -> Scan:
        found = crossed_levels(frame, self.call.options["factor"])
        levels = (accumulator.levels if accumulator else LevelsSeen()).add(found)
        seen = accumulator.matrix if accumulator else None
        return Scan(matrix.scan(seen, self.call.arguments, frame), levels)

    def finish(self, accumulator: Scan) -> State:
        levels = accumulator.levels.ordered()
        if len(levels) == 1:
            raise DataError(
                f"the grouping {self.factor!r} has one level, {levels[0]!r}, and nothing can vary "
                f"by it; leave ({self.call.label}) out"
            )
        learned = matrix.finish(accumulator.matrix, self.call.arguments)
        width = sum(coding.width for coding in learned.codings)
        state = State(learned, levels, np.zeros(width), np.ones(width))
        if len(set(state.columns)) < len(state.columns):
            raise ColumnError(
                f"two columns of ({self.call.label}) have one name; rename the column '1'"
            )
        return state

    def design(self, state: State, frame: Frame) -> Design:
        codes, new = state.index.coded(frame, self.call.options["factor"])
        return Design({"columns": state.matrix.build(frame), "codes": codes}, (new,))

    def columns(self, state: State, frame: Frame) -> NDArray[np.float64]:
        return state.matrix.build(frame)

    def measured(self, state: State, measures: Measures) -> State:
        return replace(state, mean=measures.mean, sd=measures.sd)

    def _spread(self, state: State, scale: Scale) -> NDArray[np.float64]:
        size = np.where(state.mean != 0, np.abs(state.mean), 1.0)
        sd = np.where(state.sd > 1e-12 * size, state.sd, size)
        return scale.spread / sd

    def _scale_site(self, column: str) -> str:
        return f"{self.prefix}{column}|{self.factor}_sigma"

    def _corr_site(self) -> str:
        return f"{self.prefix}{self.factor}_corr"

    def _cholesky_site(self) -> str:
        return f"({self.label})/cholesky"

    def _effect_site(self, column: str) -> str:
        return f"{self.prefix}{column}|{self.factor}"

    def _joint_site(self) -> str:
        return f"({self.label})/effects"

    def _new_site(self) -> str:
        return f"({self.label})/effects_new"

    def parameters(self, state: State, scale: Scale) -> dict[str, Parameter]:
        out: dict[str, Parameter] = {}
        for column, spread in zip(state.columns, self._spread(state, scale), strict=True):
            prior = priors.HalfNormal(2.5 * float(spread))
            out[self._scale_site(column)] = Parameter(prior, "positive")
        if self.correlated(state):
            out[self._corr_site()] = Parameter(priors.LKJ(1.0), "correlation")
        return out

    def hyperparameters(
        self, state: State, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        spread = self._spread(state, scale)
        sds = [
            parameter(
                self._scale_site(column),
                priors_[self._scale_site(column)],
                support="positive",
                start=0.3 * float(unit),
            )
            for column, unit in zip(state.columns, spread, strict=True)
        ]
        out = {"sd": jnp.stack(sds)}
        if self.correlated(state):
            k = len(state.columns)
            eta = getattr(priors_[self._corr_site()], "eta", 1.0)
            density = dist.LKJCholesky(k, eta)
            infer = {"start": jnp.eye(k), "unit": 1.0}
            site = self._cholesky_site()
            out["cholesky"] = jnp.asarray(numpyro.sample(site, density, infer=infer))
        return out

    def block(
        self,
        state: State,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, Any],
    ) -> LinearBlock:
        factor = hyperparameters["sd"]
        held: tuple[tuple[str, int], ...]
        held = tuple((self._effect_site(column), 1) for column in state.columns)
        shapes: tuple[tuple[int, ...], ...] = ((),) * len(held)
        if "cholesky" in hyperparameters:
            factor = factor[:, None] * hyperparameters["cholesky"]
            held = ((self._joint_site(), len(state.columns)),)
            shapes = ((len(state.columns),),)
        return LinearBlock(
            design.arrays["columns"],
            design.arrays["codes"],
            len(state.levels),
            np.zeros(len(state.columns)),
            factor,
            sites=held,
            shapes=shapes,
            scales=tuple(self._scale_site(column) for column in state.columns),
            grouping=self.factor,
            cholesky=self._cholesky_site() if "cholesky" in hyperparameters else "",
            correlation=self._corr_site() if "cholesky" in hyperparameters else "",
        )

    def structure(
        self, state: State, design: Design, priors_: Mapping[str, Prior], basis: Any = None
    ) -> LinearBlock:
        k = len(state.columns)
        unit: dict[str, Any] = {"sd": np.ones(k)}
        if self.correlated(state):
            unit["cholesky"] = np.eye(k)
        return self.block(state, design, priors_, unit)

    def coefficients(
        self,
        state: State,
        block: LinearBlock,
        priors_: Mapping[str, Prior],
        scale: Scale,
        design: Design,
        replay: Replay,
    ) -> Array:
        effects = self._draw(state, block, jnp.asarray(self._spread(state, scale)))
        new = design.unseen()
        if new == 0:
            return effects
        if replay.new_levels == "zero":
            unseen = jnp.zeros((new, effects.shape[1]))
        else:
            unseen = self._unseen(block, new)
        return jnp.concatenate([effects, unseen])

    def _draw(self, state: State, block: LinearBlock, unit: Array) -> Array:
        """(levels, k) coefficients from their prior."""
        levels = block.levels
        if block.factor.ndim == 2:
            mean = jnp.zeros((levels, block.factor.shape[0]))
            joint = dist.MultivariateNormal(mean, scale_tril=block.factor).to_event(1)
            infer = {"start": mean, "unit": jnp.broadcast_to(unit, mean.shape)}
            return jnp.asarray(numpyro.sample(self._joint_site(), joint, infer=infer))
        columns = [
            numpyro.sample(
                self._effect_site(column),
                dist.Normal(jnp.zeros(levels), sd).to_event(1),
                infer={"start": jnp.zeros(levels), "unit": unit[c]},
            )
            for c, (column, sd) in enumerate(zip(state.columns, block.factor, strict=True))
        ]
        return jnp.stack(columns, axis=-1)

    def _unseen(self, block: LinearBlock, new: int) -> Array:
        """(new, k) coefficients of new levels from their prior."""
        plain = dist.Normal(jnp.zeros((new, len(block.mean))), 1.0).to_event(2)
        noise = jnp.asarray(numpyro.sample(self._new_site(), plain))
        return noise @ block.factor.T if block.factor.ndim == 2 else noise * block.factor

    def grouped(self, state: State) -> tuple[Grouped, ...]:
        sites = tuple(self._effect_site(column) for column in state.columns)
        joint = self.correlated(state)
        return (
            Grouped(
                (self._joint_site(),) if joint else sites,
                len(state.levels),
                self._new_site(),
                len(state.columns),
            ),
        )

    def narrowed(self, state: State, levels: tuple[int, ...]) -> State:
        return replace(state, levels=state.levels[: levels[0]])

    def equation(self, state: State) -> Summand:
        parts: list[Line] = []
        effects: list[Line] = []
        scales: list[Line] = []
        for column in state.titles:
            of = f"{self.prefix}{column}|{self.grouping}"
            times = () if column == "1" else (f" {column}", Sub("i"))
            parts.append(("b", Sub(f"{of}[i]"), *times))
            effects.append(("b", Sub(f"{of}[j]")))
            scales.append(("σ", Sub(of)))
        if not self.correlated(state):
            laws = [(*b, " ~ Normal(0, ", *s, "²)") for b, s in zip(effects, scales, strict=True)]
            return Summand(joined(parts, " + "), tuple(laws))
        corr = ("R", Sub(self.grouping))
        law: Line = ("(", *joined(effects, ", "), ") ~ Normal(0, D ", *corr, " D), D = diag(",
                     *joined(scales, ", "), ")")  # fmt: skip
        return Summand(joined(parts, " + "), (law,))

    def variables(self, state: State) -> dict[str, Variable]:
        dim = f"{self.factor}__factor_dim"
        out: dict[str, Variable] = {}
        each = list(zip(state.columns, state.titles, strict=True))
        for column, title in each:
            shown = f"{self.prefix}{title}|{self.grouping}_sigma"
            out[self._scale_site(column)] = Variable("sd", factor=self.factor, title=shown)
        if self.correlated(state):
            names = (f"{self.factor}__corr_row", f"{self.factor}__corr_column")
            coords = (state.titles, state.titles)
            shown = f"{self.prefix}{self.grouping}_corr"
            out[self._corr_site()] = Variable("correlation", names, coords, self.factor, shown)
        for column, title in each:
            shown = f"{self.prefix}{title}|{self.grouping}"
            out[self._effect_site(column)] = Variable(
                "group", (dim,), (state.levels,), self.factor, shown
            )
        return out

    def derived(self, state: State, sites: Mapping[str, Any]) -> dict[str, Any]:
        if not self.correlated(state):
            return {}
        out: dict[str, Any] = {}
        if self._cholesky_site() in sites:
            factor = sites[self._cholesky_site()]
            out[self._corr_site()] = factor @ np.swapaxes(factor, -1, -2)
        if self._joint_site() in sites:
            for c, column in enumerate(state.columns):
                out[self._effect_site(column)] = sites[self._joint_site()][..., c]
        return out

    def variances(
        self, state: State, design: Design, values: Mapping[str, Any]
    ) -> dict[str, NDArray[np.float64]]:
        """E_i[z_i' Sigma z_i] = trace(Sigma E[z z']), by draw."""
        z = np.asarray(design.arrays["columns"], dtype=np.float64)
        second = z.T @ z / len(z)
        sd = np.stack([np.asarray(values[self._scale_site(c)]) for c in state.columns], axis=-1)
        sd = np.atleast_2d(sd)
        corr = values[self._corr_site()] if self.correlated(state) else np.eye(len(state.columns))
        sigma = sd[..., :, None] * corr * sd[..., None, :]
        return {self.factor: np.einsum("...ij,ij->...", sigma, second)}
