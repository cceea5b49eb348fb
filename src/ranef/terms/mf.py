"""Probabilistic matrix factorization: eta_i = sum_k u[a_i, k] v[b_i, k].

    u_jk ~ N(0, tau_k^2),   v_mk ~ N(0, 1)

for the levels j of one grouping and m of another, such as users and items (Salakhutdinov and Mnih,
2008); a_i and b_i are the levels of row i. The posterior of tau_k is near zero for a component that
the data do not support, as in Bayesian principal components (Bishop, 1999), so that the rank only
has to be large enough.

The likelihood depends on u and v through the product u v' alone, which rotations of the components
and flips of their signs leave unchanged. The priors with tau_k identify the axes, unless two scales
are equal; signs are not identified.
"""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.level_codes import NameIndex, crossed_levels
from ranef.data.levels import LevelsSeen
from ranef.data.moments import Scale
from ranef.errors import DataError, FormulaError, suggestion
from ranef.formula.equation import Line, Sub, Summand
from ranef.formula.expression import Column
from ranef.formula.term_call import TermCall
from ranef.lazy import Array, dist, jax, jnp, numpyro
from ranef.numerics.shapes import Float
from ranef.priors import sites
from ranef.terms.base import Design, LevelSites, Parameter, Run, Term, Variable, clean_name
from ranef.terms.blocks import Bilinear
from ranef.terms.capabilities import Diagnosed, HasBilinear, HasVariances, Sites, VariesByLevel

_OPTIONS = {"rank": 8}
# Largest rank.
_MOST = 64
# A component counts as unused if the median of its scale is below this share of the largest.
_UNUSED = 0.05


@dataclass(frozen=True)
class FactorizationState:
    """The levels of both groupings.

    Attributes:
        levels: the levels of each grouping, in the order of their codes.
    """

    levels: tuple[tuple[str, ...], tuple[str, ...]]

    @cached_property
    def index(self) -> tuple[NameIndex, NameIndex]:
        """Look-up tables of the levels."""
        return NameIndex(self.levels[0]), NameIndex(self.levels[1])


class Factorization(
    Term[list[LevelsSeen], FactorizationState],
    VariesByLevel[FactorizationState],
    HasBilinear[FactorizationState],
    Diagnosed[FactorizationState],
    HasVariances[FactorizationState],
):
    """The term mf(user, item, rank=8).

    Attributes:
        rank: the number of components K.
    """

    takes_factors = True

    def __init__(
        self,
        call: TermCall,
        prefix: str = "",
        networks: Mapping[str, object] | None = None,
        *,
        main: bool = True,
    ) -> None:
        super().__init__(call, prefix, networks, main=main)
        options = dict(self.call.options)
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise FormulaError(
                f"mf() has no option {unknown[0]!r}; {suggestion(unknown[0], _OPTIONS)}"
            )
        self.rank = {**_OPTIONS, **options}["rank"]
        if type(self.rank) is not int or not 1 <= self.rank <= _MOST:
            raise FormulaError(
                f"mf(rank={self.rank!r}) must be a whole number from 1 to {_MOST}, as rank=8"
            )
        both = self.call.arguments
        if len(both) != 2 or not all(isinstance(a, Column) for a in both) or both[0] == both[1]:
            raise FormulaError(
                f"{self.label}: mf() takes two different grouping columns, as in mf(user, item)"
            )

    @property
    def sides(self) -> tuple[str, str]:
        """The two grouping columns."""
        first, second = (a.name for a in self.call.arguments)
        return first, second

    @property
    def groupings(self) -> tuple[str, str]:
        return self.sides

    @property
    def short(self) -> str:
        """The term without its rank, which names its variables."""
        return clean_name(f"{self.prefix}mf({', '.join(self.sides)})")

    @property
    def _scale(self) -> str:
        return f"{self.short}_sigma"

    @property
    def _sites(self) -> tuple[str, str]:
        first, second = (f"{self.short}_{clean_name(side)}" for side in self.sides)
        return first, second

    def needs(self) -> dict[str, str]:
        return dict.fromkeys(self.sides, "level")

    def scan(self, accumulator: list[LevelsSeen] | None, frame: Frame) -> list[LevelsSeen]:
        seen = accumulator or [LevelsSeen(), LevelsSeen()]
        return [
            levels.add(crossed_levels(frame, (name,)))
            for levels, name in zip(seen, self.sides, strict=True)
        ]

    def finish(self, accumulator: list[LevelsSeen]) -> FactorizationState:
        first, second = (levels.ordered() for levels in accumulator)
        for name, levels in zip(self.sides, (first, second), strict=True):
            if len(levels) < max(2, self.rank):
                count = "one level" if len(levels) == 1 else f"{len(levels)} levels"
                raise DataError(
                    f"{self.label}: {name!r} has {count}, too few for rank={self.rank}; "
                    + (f"give rank={len(levels)} or less" if len(levels) > 1 else "leave mf() out")
                )
        return FactorizationState((first, second))

    def design(self, state: FactorizationState, frame: Frame) -> Design:
        coded = [
            index.coded(frame, (name,)) for index, name in zip(state.index, self.sides, strict=True)
        ]
        codes, new = zip(*coded, strict=True)
        return Design({"left": codes[0], "right": codes[1]}, tuple(new))

    def parameters(self, state: FactorizationState, scale: Scale) -> dict[str, Parameter]:
        return {self._scale: Parameter(priors.HalfNormal(scale.sd), "positive")}

    def eta(self, run: Run[FactorizationState]) -> Float[Array, "n"]:
        design, size = run.design, 0.3 * run.scale.sd
        start = size * 0.8 ** np.arange(self.rank)
        tau = sites.parameter(
            self._scale,
            run.priors[self._scale],
            shape=(self.rank,),
            support="positive",
            start=start,
        )
        u = self._side(0, run, tau, size)
        v = self._side(1, run, jnp.ones(self.rank), 1.0)
        return jnp.sum(u[design.arrays["left"]] * v[design.arrays["right"]], axis=-1)

    def _side(
        self, side: int, run: Run[FactorizationState], sds: Float[Array, "k"], size: float
    ) -> Float[Array, "levels k"]:
        """Sample the factors of one side, those of new levels last."""
        site, shape = self._sites[side], (len(run.state.levels[side]), self.rank)
        new = run.design.unseen(side)
        # u = v = 0 is a stationary point of the likelihood, so a search starts at random values,
        # which depend on the site's name alone.
        away = jax.random.normal(jax.random.key(zlib.crc32(site.encode())), shape)
        prior = dist.Normal(jnp.zeros(shape), sds).to_event(2)
        infer = {"start": 0.3 * size * away, "unit": jnp.full(shape, 0.3 * size)}
        known = jnp.asarray(numpyro.sample(site, prior, infer=infer))
        if not new:
            return known
        if run.options.new_levels == "zero":
            return jnp.concatenate([known, jnp.zeros((new, self.rank))])
        plain = dist.Normal(jnp.zeros((new, self.rank)), 1.0).to_event(2)
        unseen = jnp.asarray(numpyro.sample(f"{self.label}/{side}_new", plain))
        return jnp.concatenate([known, unseen * sds])

    def bilinear(self, state: FactorizationState, design: Design) -> Bilinear:
        codes = (design.arrays["left"], design.arrays["right"])
        levels = (len(state.levels[0]), len(state.levels[1]))
        return Bilinear(codes, levels, self.rank, self._sites, self._scale)

    def level_sites(self, state: FactorizationState) -> tuple[LevelSites, ...]:
        return tuple(
            LevelSites((site,), len(levels), f"{self.label}/{side}_new", self.rank, codes)
            for side, (site, levels, codes) in enumerate(
                zip(self._sites, state.levels, ("left", "right"), strict=True)
            )
        )

    def narrowed(self, state: FactorizationState, levels: tuple[int, ...]) -> FactorizationState:
        return FactorizationState((state.levels[0][: levels[0]], state.levels[1][: levels[1]]))

    def variables(self, state: FactorizationState) -> dict[str, Variable]:
        dim = f"{self.short}_component"
        components = tuple(str(k + 1) for k in range(self.rank))
        out = {self._scale: Variable("scale", (dim,), (components,))}
        for site, side, levels in zip(self._sites, self.sides, state.levels, strict=True):
            dims = (f"{clean_name(side)}__factor_dim", dim)
            out[site] = Variable("weight", dims, (levels, components))
        return out

    def variances(
        self, state: FactorizationState, design: Design, values: Sites
    ) -> dict[str, Float[NDArray[np.float64], "draws"]]:
        """Variance of u_j . v_m under the prior, sum_k tau_k^2, by draw."""
        if self._scale not in values:
            return {}
        tau = np.asarray(values[self._scale], np.float64)
        each = tau[:, None].repeat(self.rank, axis=1) if tau.ndim == 1 else tau
        return {self.short: (each**2).sum(axis=-1)}

    def diagnostics(
        self, state: FactorizationState, sites: Sites
    ) -> Iterator[tuple[str, str, str, str]]:
        """Report a rank at which all components are in use, as more may be needed."""
        if self._scale not in sites or self.rank == min(map(len, state.levels)):
            return
        tau = np.median(np.asarray(sites[self._scale]).reshape(-1, self.rank), axis=0)
        if tau.min() > _UNUSED * tau.max():
            yield (
                f"all {self.rank} components of {self.short} are in use",
                "the table may hold more than this rank can say",
                f"compare with rank={2 * self.rank}",
                "trust",
            )

    def equation(self, state: FactorizationState) -> Summand:
        first, second = self.sides
        u: Line = ("u", Sub(f"{self.prefix}{first}[i]"))
        v: Line = ("v", Sub(f"{self.prefix}{second}[i]"))
        priors_of: tuple[Line, ...] = (
            ("u", Sub(f"{self.prefix}{first}[j]"), " ~ Normal(0, diag(τ²))"),
            ("v", Sub(f"{self.prefix}{second}[m]"), " ~ Normal(0, I)"),
        )
        return Summand((*u, " · ", *v), priors_of)
