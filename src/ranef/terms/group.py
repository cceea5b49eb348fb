"""Group (random) effects: eta_i = z_i . b_{g(i)}, b_j ~ N(0, Sigma), Sigma = D R D.

g(i) is the level of row i, D the diagonal matrix of the sds of the effects, and R their correlation
matrix, which is the identity under `||`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.level_codes import NameIndex, crossed_levels
from ranef.data.levels import LevelsSeen
from ranef.data.moments import ColumnMoments, Scale
from ranef.errors import ColumnError, DataError
from ranef.formula import model_matrix
from ranef.formula.equation import Line, Sub, Summand, joined
from ranef.lazy import Array, dist, jnp, numpyro
from ranef.numerics.shapes import Float
from ranef.priors import Prior, RescaledDefault, sites
from ranef.terms.base import (
    CENTRED,
    Design,
    LevelSites,
    LinearTerm,
    Parameter,
    Run,
    Variable,
    clean_name,
)
from ranef.terms.blocks import AnyArray, LinearBlock
from ranef.terms.capabilities import (
    Columns,
    Constant,
    HasVariances,
    Measured,
    Renamed,
    Reparametrized,
    Sites,
    VariesByLevel,
)
from ranef.terms.group_coordinates import coordinates

# One number for each column of z, or for each pair of them.
Vector = Float[NDArray[np.float64], "k"]
Square = Float[NDArray[np.float64], "k k"]


@dataclass(frozen=True)
class GroupScan:
    """What has been learned from the batches so far.

    Attributes:
        matrix: factor levels and transforms of the columns of z.
        levels: levels of the grouping.
    """

    matrix: model_matrix.MatrixScan
    levels: LevelsSeen


@dataclass(frozen=True)
class GroupState:
    """The coding of the columns, their moments over the training rows, and the levels.

    Attributes:
        matrix: the coding of the columns of z.
        levels: levels of the grouping, in the order of their codes.
        mean: means of the columns.
        sd: sds of the columns.
        carry: T of `group_coordinates`; None if effects refer to the formula's columns.
        sizes: sizes of the columns of Z T; None without coordinates.
        labels: names of the coordinates; empty without coordinates.
        covariance: covariance matrix of the columns; None once the coordinates are known.
        apart: whether the correlations are named after their columns too, because the grouping
            has several sets of correlated effects.
    """

    matrix: model_matrix.ModelMatrix
    levels: tuple[str, ...]
    mean: Vector
    sd: Vector
    carry: Square | None = None
    sizes: Vector | None = None
    labels: tuple[str, ...] = ()
    covariance: Square | None = None
    apart: bool = False

    @cached_property
    def index(self) -> NameIndex:
        """Look-up table of the levels."""
        return NameIndex(self.levels)

    @property
    def columns(self) -> tuple[str, ...]:
        """Name of each column in the posterior, such as the 1 of `1|g`."""
        return tuple(clean_name(name) for name in self.titles)

    @property
    def titles(self) -> tuple[str, ...]:
        """Name of each column as the formula writes it."""
        names: list[str] = []
        for coding in self.matrix.codings:
            base = "1" if coding.name == "Intercept" else coding.name
            names += [f"{base}[{label}]" for label in coding.names] or [base]
        return tuple(names)


class Group(
    LinearTerm[GroupScan, GroupState],
    Measured[GroupState],
    Renamed[GroupState],
    Reparametrized[GroupState],
    VariesByLevel[GroupState],
    HasVariances[GroupState],
):
    """Coefficients that vary by the levels of one grouping.

    Correlated effects with default priors are held in the coordinates of `group_coordinates`, whose
    sds and correlations are the sites. Those of the formula's columns are computed from these.
    """

    needs_covariance = True

    @property
    def factor(self) -> str:
        """The grouping, as it names variables."""
        return clean_name(":".join(self.call.options["factor"]))

    @property
    def grouping(self) -> str:
        """The grouping as the formula writes it."""
        return ":".join(self.call.options["factor"])

    @property
    def groupings(self) -> tuple[str, ...]:
        return (self.grouping,)

    def correlated(self, state: GroupState) -> bool:
        """Whether the effects of a level are correlated under their prior."""
        return self.call.options["correlated"] and len(state.columns) > 1

    def needs(self) -> dict[str, str]:
        return {
            **model_matrix.needs(self.call.arguments),
            **dict.fromkeys(self.call.options["factor"], "level"),
        }

    def scan(self, accumulator: GroupScan | None, frame: Frame) -> GroupScan:
        found = crossed_levels(frame, self.call.options["factor"])
        levels = (accumulator.levels if accumulator else LevelsSeen()).add(found)
        seen = accumulator.matrix if accumulator else None
        return GroupScan(model_matrix.scan(seen, self.call.arguments, frame), levels)

    def finish(self, accumulator: GroupScan) -> GroupState:
        levels = accumulator.levels.ordered()
        if len(levels) == 1:
            raise DataError(
                f"the grouping {self.factor!r} has one level, {levels[0]!r}, and nothing can vary "
                f"by it; leave ({self.call.label}) out"
            )
        learned = model_matrix.finish(accumulator.matrix, self.call.arguments)
        width = sum(coding.width for coding in learned.codings)
        state = GroupState(learned, levels, np.zeros(width), np.ones(width))
        if len(set(state.columns)) < len(state.columns):
            raise ColumnError(
                f"two columns of ({self.call.label}) have one name; rename the column '1'"
            )
        return state

    def design(self, state: GroupState, frame: Frame) -> Design:
        codes, new = state.index.coded(frame, self.call.options["factor"])
        columns = state.matrix.build(frame)
        if state.carry is not None:
            columns = columns @ state.carry
        return Design({"columns": columns, "codes": codes}, (new,))

    def columns(self, state: GroupState, frame: Frame) -> Columns:
        return state.matrix.build(frame)

    def measured(self, state: GroupState, measures: ColumnMoments) -> GroupState:
        return replace(state, mean=measures.mean, sd=measures.sd, covariance=measures.covariance)

    def renamed(self, state: GroupState, taken: Collection[str]) -> GroupState:
        """The state with correlations named after their columns, if another term has the name."""
        apart = self.correlated(state) and self._corr_name(state) in taken
        return replace(state, apart=True) if apart else state

    def placed(
        self, state: GroupState, has_prior: Callable[[str, str], bool], constant: Constant
    ) -> GroupState:
        covariance = state.covariance
        state = replace(state, covariance=None)
        names = [*(self._sd_name(column) for column in state.columns), self._corr_name(state)]
        held = any(has_prior(name, "") for name in names)
        if held or not self.correlated(state) or covariance is None:
            return state
        if not np.isfinite(covariance).all():
            return state  # columns that overflow are refused with their names where they are used
        carry, sizes, labels = coordinates(state.matrix.codings, state.mean, covariance)
        return replace(state, carry=carry, sizes=sizes, labels=labels)

    def as_written(self, state: GroupState) -> GroupState:
        return replace(state, carry=None, sizes=None, labels=())

    def design_as_written(self, state: GroupState, design: Design) -> Design:
        if state.carry is None:
            return design
        columns = np.asarray(design.arrays["columns"]) @ np.linalg.inv(state.carry)
        return replace(design, arrays={**design.arrays, "columns": columns})

    def _sizes(self, state: GroupState) -> Vector:
        """Sizes of the columns that the effects refer to: sds, or the size of a constant."""
        if state.sizes is not None:
            return state.sizes
        size = np.where(state.mean != 0, np.abs(state.mean), 1.0)
        return np.where(state.sd > 1e-12 * size, state.sd, size)

    def _unit(self, state: GroupState, scale: Scale) -> Vector:
        """The effect of each column that adds one sd of the predictor."""
        return scale.sd / self._sizes(state)

    def _sd_name(self, column: str) -> str:
        return f"{self.prefix}{column}|{self.factor}_sigma"

    def _correlated(self, state: GroupState) -> str:
        """What the correlations are named after, as the formula writes it: g, or x|g."""
        if not state.apart:
            return self.grouping
        return f"{self.call.label.rsplit(' | ', 1)[0]}|{self.grouping}"

    def _corr_name(self, state: GroupState) -> str:
        return f"{self.prefix}{clean_name(self._correlated(state))}_corr"

    def _sd_sites(self, state: GroupState) -> list[str]:
        """The sites of the sds of the effects, in the coordinates in which they are held."""
        if state.carry is None:
            return [self._sd_name(column) for column in state.columns]
        return [self._sd_name(clean_name(label)) + CENTRED for label in state.labels]

    def _corr_site(self, state: GroupState) -> str:
        """The parameter that takes the prior of the correlations in these coordinates."""
        return self._corr_name(state) + ("" if state.carry is None else CENTRED)

    def _cholesky_site(self) -> str:
        return f"({self.label})/cholesky"

    def _effect_site(self, column: str) -> str:
        return f"{self.prefix}{column}|{self.factor}"

    def _joint_site(self) -> str:
        return f"({self.label})/effects"

    def _new_site(self) -> str:
        return f"({self.label})/effects_new"

    def parameters(self, state: GroupState, scale: Scale) -> dict[str, Parameter]:
        """Half-normal sds and LKJ(1) correlations.

        The scale of the half-normal prior lets a column add 2.5 sds of the predictor.
        """
        out: dict[str, Parameter] = {}
        width = 2.5 * self._unit(state, scale)
        constant = [column == "1" for column in state.columns]
        if state.carry is None and self.correlated(state) and any(constant):
            # A prior by the user keeps the formula's columns, and the sd of the intercepts is that
            # at x = 0. It is widened by what the slopes contribute between x = 0 and the means.
            size = self._sizes(state)
            away = np.where(constant, 0.0, state.mean / size)
            width = np.where(constant, width * np.sqrt(1.0 + np.sum(away**2)), width)
        for site, sigma in zip(self._sd_sites(state), width, strict=True):
            out[site] = Parameter(priors.HalfNormal(float(sigma)), "positive")
        if self.correlated(state):
            out[self._corr_site(state)] = Parameter(priors.LKJ(1.0), "correlation")
        return out

    def stated(self, state: GroupState, priors_: Mapping[str, Prior]) -> dict[str, Prior]:
        """Priors of sds and correlations in the coordinates, with words on what they refer to."""
        if state.carry is None:
            return {}
        out: dict[str, Prior] = {}
        for label, site in zip(state.labels, self._sd_sites(state), strict=True):
            name = clean_name(label)
            prior = priors_[site]
            if name == "1":
                prior = RescaledDefault(prior, "where the other columns are at their means")
            elif name not in state.columns:
                prior = RescaledDefault(prior, "in this level")
            out[self._sd_name(name)] = prior
        about = "where the columns are at their means"
        out[self._corr_name(state)] = RescaledDefault(priors_[self._corr_site(state)], about)
        return out

    def hyperparameters(
        self, state: GroupState, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        sds = [
            sites.parameter(site, priors_[site], support="positive", start=0.3 * float(unit))
            for site, unit in zip(self._sd_sites(state), self._unit(state, scale), strict=True)
        ]
        out = {"sd": jnp.stack(sds)}
        if self.correlated(state):
            k = len(state.columns)
            eta = getattr(priors_[self._corr_site(state)], "eta", 1.0)
            density = dist.LKJCholesky(k, eta)
            infer = {"start": jnp.eye(k), "unit": 1.0}
            site = self._cholesky_site()
            out["cholesky"] = jnp.asarray(numpyro.sample(site, density, infer=infer))
        return out

    def block(
        self,
        state: GroupState,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, AnyArray],
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
            scales=tuple(self._sd_sites(state)),
            grouping=self.factor,
            cholesky=self._cholesky_site() if "cholesky" in hyperparameters else "",
            correlation=self._corr_site(state) if "cholesky" in hyperparameters else "",
            carry=state.carry,
            carried=()
            if state.carry is None
            else tuple((self._effect_site(column), 1, ()) for column in state.columns),
        )

    def structure(
        self, state: GroupState, design: Design, priors_: Mapping[str, Prior]
    ) -> LinearBlock:
        k = len(state.columns)
        unit: dict[str, AnyArray] = {"sd": np.ones(k)}
        if self.correlated(state):
            unit["cholesky"] = np.eye(k)
        return self.block(state, design, priors_, unit)

    def coefficients(self, run: Run[GroupState], block: LinearBlock) -> Float[Array, "levels k"]:
        effects = self._draw(run.state, block, jnp.asarray(self._unit(run.state, run.scale)))
        new = run.design.unseen()
        if new == 0:
            return effects
        if run.options.new_levels == "zero":
            unseen = jnp.zeros((new, effects.shape[1]))
        else:
            unseen = self._unseen(block, new)
        return jnp.concatenate([effects, unseen])

    def _draw(
        self, state: GroupState, block: LinearBlock, unit: Float[Array, "k"]
    ) -> Float[Array, "levels k"]:
        """Sample the effects of the known levels from their prior."""
        levels = block.levels
        if block.factor.ndim == 2:
            mean = jnp.zeros((levels, block.factor.shape[0]))
            joint = sites.BatchedNormal(mean, scale_tril=block.factor).to_event(1)
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

    def _unseen(self, block: LinearBlock, new: int) -> Float[Array, "{new} k"]:
        """Sample the effects of new levels from their prior."""
        plain = dist.Normal(jnp.zeros((new, len(block.mean))), 1.0).to_event(2)
        noise = jnp.asarray(numpyro.sample(self._new_site(), plain))
        return noise @ block.factor.T if block.factor.ndim == 2 else noise * block.factor

    def level_sites(self, state: GroupState) -> tuple[LevelSites, ...]:
        sites = tuple(self._effect_site(column) for column in state.columns)
        joint = self.correlated(state)
        return (
            LevelSites(
                (self._joint_site(),) if joint else sites,
                len(state.levels),
                self._new_site(),
                len(state.columns),
            ),
        )

    def varying_columns(self, state: GroupState) -> tuple[frozenset[str], ...]:
        named = [
            frozenset(name for part in coding.parts for name in part.expression.columns())
            for coding in state.matrix.codings
            for _ in range(coding.width)
        ]
        if state.carry is None:
            return tuple(named)
        return tuple(
            frozenset().union(*(named[i] for i in np.flatnonzero(own))) for own in state.carry.T
        )

    def narrowed(self, state: GroupState, levels: tuple[int, ...]) -> GroupState:
        return replace(state, levels=state.levels[: levels[0]])

    def equation(self, state: GroupState) -> Summand:
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
            each = [(*b, " ~ Normal(0, ", *s, "²)") for b, s in zip(effects, scales, strict=True)]
            return Summand(joined(parts, " + "), tuple(each))
        corr = ("R", Sub(self._correlated(state)))
        prior: Line = ("(", *joined(effects, ", "), ") ~ Normal(0, D ", *corr, " D), D = diag(",
                     *joined(scales, ", "), ")")  # fmt: skip
        return Summand(joined(parts, " + "), (prior,))

    def variables(self, state: GroupState) -> dict[str, Variable]:
        dim = f"{self.factor}__factor_dim"
        out: dict[str, Variable] = {}
        each = list(zip(state.columns, state.titles, strict=True))
        for column, title in each:
            shown = f"{self.prefix}{title}|{self.grouping}_sigma"
            out[self._sd_name(column)] = Variable("sd", factor=self.factor, title=shown)
        if self.correlated(state):
            own = self._correlated(state)
            names = (f"{clean_name(own)}__corr_row", f"{clean_name(own)}__corr_column")
            coords = (state.titles, state.titles)
            shown = f"{self.prefix}{own}_corr"
            out[self._corr_name(state)] = Variable("correlation", names, coords, self.factor, shown)
        for column, title in each:
            shown = f"{self.prefix}{title}|{self.grouping}"
            out[self._effect_site(column)] = Variable(
                "group", (dim,), (state.levels,), self.factor, shown
            )
        return out

    def site_labels(self, state: GroupState) -> dict[str, tuple[str, ...]]:
        if state.carry is None:
            return {}
        return {site: (site.removesuffix(CENTRED),) for site in self._sd_sites(state)}

    def derived(self, state: GroupState, sites: Sites) -> dict[str, NDArray]:
        """Correlations, sds and effects of the formula's columns, by draw.

        With sds D and Cholesky factor L of the correlations in the coordinates, the covariance of
        the effects is A A' with A = T D L, and the effects are b = T c.
        """
        if not self.correlated(state):
            return {}
        out: dict[str, NDArray] = {}
        if self._cholesky_site() in sites:
            factor = np.asarray(sites[self._cholesky_site()])
            if state.carry is None:
                out[self._corr_name(state)] = factor @ np.swapaxes(factor, -1, -2)
            else:
                held = np.stack([np.asarray(sites[s]) for s in self._sd_sites(state)], axis=-1)
                root = state.carry @ (held[..., None] * factor)
                sd = np.linalg.norm(root, axis=-1)
                unit = root / np.where(sd > 0, sd, 1.0)[..., None]
                corr = unit @ np.swapaxes(unit, -1, -2)
                k = np.arange(len(state.columns))
                corr[..., k, k] = 1.0
                out[self._corr_name(state)] = np.clip(corr, -1.0, 1.0)
                for c, column in enumerate(state.columns):
                    out[self._sd_name(column)] = sd[..., c]
        if self._joint_site() in sites:
            effects = np.asarray(sites[self._joint_site()])
            if state.carry is not None:
                effects = effects @ state.carry.T
            for c, column in enumerate(state.columns):
                out[self._effect_site(column)] = effects[..., c]
        return out

    def variances(
        self, state: GroupState, design: Design, values: Sites
    ) -> dict[str, Float[NDArray[np.float64], "draws"]]:
        """Mean over rows of z_i' Sigma z_i = trace(Sigma E[z z']), by draw."""
        z = np.asarray(design.arrays["columns"], dtype=np.float64)
        if state.carry is not None:
            z = z @ np.linalg.inv(state.carry)
        second = z.T @ z / len(z)
        sd = np.stack([np.asarray(values[self._sd_name(c)]) for c in state.columns], axis=-1)
        sd = np.atleast_2d(sd)
        corr = (
            values[self._corr_name(state)] if self.correlated(state) else np.eye(len(state.columns))
        )
        sigma = sd[..., :, None] * corr * sd[..., None, :]
        return {self.factor: np.einsum("...ij,ij->...", sigma, second)}
