"""A Gaussian process: eta_i = f(x_i), f ~ GP(0, a^2 k(|x - x'| / l)).

The process is approximated on a Hilbert-space basis (Solin and Sarkka, 2020; ``hilbert_basis``),

    f(x) = sum_j phi_j(x) b_j,   b_j ~ N(0, S(w_j; a, l)),

where S is the spectral density of the kernel with amplitude a and length scale l. With `by=g` each
level of g has a function of its own, and all functions share the amplitude and the length scale.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.level_codes import NameIndex, crossed_levels
from ranef.data.levels import LevelsSeen
from ranef.data.moments import Scale
from ranef.errors import DataError, FormulaError, suggestion
from ranef.formula.equation import Line, Sub, Summand, joined
from ranef.formula.term_call import TermCall
from ranef.lazy import Array, dist, jnp, numpyro, stats
from ranef.numerics.shapes import Float
from ranef.priors import Prior, sites
from ranef.terms.base import (
    Design,
    LevelSites,
    LinearTerm,
    Parameter,
    Run,
    Variable,
    clean_name,
)
from ranef.terms.blocks import AnyArray, LinearBlock
from ranef.terms.capabilities import Diagnosed, Sites, VariesByLevel
from ranef.terms.smooth import hilbert_basis, length_scales, ranges

_OPTIONS = {"by": None, "kernel": "matern52", "m": None, "boundary": None, "iso": False}

# Largest default boundary factor c, by the number of columns.
_FARTHEST = {1: 4.0, 2: 1.8, 3: 1.5}
# Upper bound on c for a function of every level.
_FARTHEST_BY_LEVEL = 2.0
# Smallest default boundary factor c.
_LEAST_BOUNDARY = 1.2
# Largest number of basis functions of a term.
_MOST_FUNCTIONS = 2_000


@dataclass(frozen=True)
class ProcessScan:
    """What has been learned from the batches so far.

    Attributes:
        seen: ranges of the columns.
        levels: levels of the grouping.
    """

    seen: ranges.ColumnRanges
    levels: LevelsSeen


@dataclass(frozen=True)
class ProcessState:
    """The basis of a process of d columns.

    Attributes:
        middle: middle of the range of each column over the training rows.
        half: half of that range.
        sizes: number of basis functions m of each column.
        factors: boundary factor c of each column; the basis extends to middle -+ c half.
        plausible: shortest and longest plausible length scale of each column.
        levels: levels of the grouping, in the order of their codes; empty without one.
    """

    middle: Float[NDArray[np.float64], "d"]
    half: Float[NDArray[np.float64], "d"]
    sizes: tuple[int, ...]
    factors: tuple[float, ...]
    plausible: length_scales.Lengths
    levels: tuple[str, ...]

    @cached_property
    def index(self) -> NameIndex:
        """Look-up table of the levels."""
        return NameIndex(self.levels)

    @property
    def width(self) -> int:
        """The number of basis functions K."""
        return math.prod(self.sizes)


class Process(
    LinearTerm[ProcessScan, ProcessState], VariesByLevel[ProcessState], Diagnosed[ProcessState]
):
    """The terms gp(x), gp(lat, lon) and gp(x, by=g).

    Options are `kernel`, one of "matern52", "matern32" and "sqexp"; `m`, the number of basis
    functions of each column, as one number or a list; `boundary`, the factor c by which the basis
    extends beyond the half range of each column; `by`, a grouping with a function for each level;
    and `iso=True`, one length scale for all columns, which must have the same unit.
    """

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
                f"gp() has no option {unknown[0]!r}; {suggestion(unknown[0], _OPTIONS)}"
            )
        self.options = {**_OPTIONS, **options}
        if not 1 <= len(self.call.arguments) <= 3:
            raise FormulaError("gp() takes one to three columns, as in gp(x) or gp(lat, lon)")
        ranges.check(self.call)
        self._check()

    def _check(self) -> None:
        """Raise FormulaError for an option with an invalid value."""
        o = self.options
        if o["kernel"] not in hilbert_basis.KERNELS:
            known = ", ".join(map(repr, hilbert_basis.KERNELS))
            raise FormulaError(f"gp(kernel={o['kernel']!r}) must be one of {known}")
        if o["by"] is not None and not isinstance(o["by"], str):
            raise FormulaError(f"gp(by={o['by']!r}): write the name of one grouping column")
        if not isinstance(o["iso"], bool):
            raise FormulaError(f"gp(iso={o['iso']!r}) must be True or False")
        sizes = self._each("m")
        if sizes is not None and not all(type(m) is int and m >= 1 for m in sizes):
            raise FormulaError(f"gp(m={o['m']!r}) must be whole numbers above zero")
        if sizes is not None and math.prod(sizes) > _MOST_FUNCTIONS:
            raise FormulaError(f"gp(m={o['m']!r}) is more than {_MOST_FUNCTIONS:,} functions")
        factors = self._each("boundary")
        if factors is not None and not all(
            isinstance(c, (int, float)) and 1 < c <= 100 for c in factors
        ):
            raise FormulaError(
                f"gp(boundary={o['boundary']!r}) must be above 1, the ends of the data, as 1.5"
            )

    def _each(self, option: str) -> list[Any] | None:
        """The value of an option for each column; None for the default.

        Raises:
            FormulaError: for a list whose length is not the number of columns.
        """
        value, d = self.options[option], len(self.call.arguments)
        if value is None:
            return None
        each = value if isinstance(value, list) else [value] * d
        if len(each) != d:
            raise FormulaError(f"gp({option}={value}) must have one number for each of {d} columns")
        return each

    @property
    def short(self) -> str:
        """The term without its settings, which names its variables."""
        shown = ", ".join(str(a) for a in self.call.arguments)
        by = f", by={self.options['by']}" if self.options["by"] else ""
        return clean_name(f"{self.prefix}gp({shown}{by})")

    @property
    def _amplitude(self) -> str:
        return f"{self.short}_sigma"

    @property
    def _lengths(self) -> tuple[str, ...]:
        """Sites of the length scales, one for each column or one for all."""
        if len(self.call.arguments) == 1 or self.options["iso"]:
            return (f"{self.short}_ell",)
        return tuple(f"{self.short}_ell_{clean_name(str(a))}" for a in self.call.arguments)

    @property
    def _weights(self) -> str:
        return f"{self.short}_weights"

    @property
    def _new(self) -> str:
        return f"{self.label}/weights_new"

    @property
    def factor(self) -> str:
        """The grouping of `by`, as it names variables; "" without one."""
        return clean_name(self.options["by"] or "")

    def needs(self) -> dict[str, str]:
        out = {name: use for a in self.call.arguments for name, use in a.needs().items()}
        by = self.options["by"]
        if by in out:
            raise FormulaError(f"{self.label}: {by} cannot be both a number and the grouping")
        return {**out, by: "level"} if by else out

    def scan(self, accumulator: ProcessScan | None, frame: Frame) -> ProcessScan:
        seen = ranges.scan(accumulator and accumulator.seen, self.call.arguments, frame)
        levels = accumulator.levels if accumulator else LevelsSeen()
        if self.options["by"]:
            found = crossed_levels(frame, (self.options["by"],))
            levels = levels.add(found)
        return ProcessScan(seen, levels)

    def finish(self, accumulator: ProcessScan) -> ProcessState:
        """Choose the size of the basis from the range of plausible length scales.

        The boundary factor c suits the 90% quantile of the prior of the length scale, and the
        number of functions m its shortest plausible value.

        Raises:
            DataError: for a constant column, or for too many basis functions.
        """
        seen = accumulator.seen
        ranges.refuse_constant(seen, self.call)
        half = (seen.high - seen.low) / 2
        kernel, d = hilbert_basis.KERNELS[self.options["kernel"]], len(half)
        by_level = bool(self.options["by"])
        farthest = min(_FARTHEST[d], _FARTHEST_BY_LEVEL) if by_level else _FARTHEST[d]
        lengths = length_scales.plausible(seen, by_level)
        if self.options["iso"]:
            lengths = length_scales.common(lengths)
        factors, sizes = [], []
        boundaries, chosen = self._each("boundary"), self._each("m")
        for i in range(d):
            alpha, beta = length_scales.inverse_gamma(*lengths[i])
            usual = float(stats.invgamma(alpha, scale=beta).ppf(0.9)) / half[i]
            c = float(np.clip(kernel.boundary * usual, _LEAST_BOUNDARY, farthest))
            factors.append(float(boundaries[i]) if boundaries else c)
            m = math.ceil(kernel.functions * factors[i] * half[i] / lengths[i, 0])
            sizes.append(int(chosen[i]) if chosen else max(m, 5))
        if math.prod(sizes) > _MOST_FUNCTIONS:
            raise DataError(
                f"{self.label}: {math.prod(sizes):,} basis functions are more than "
                f"{_MOST_FUNCTIONS:,}; give a smaller boundary, or m"
            )
        levels = accumulator.levels.ordered()
        middle = (seen.high + seen.low) / 2
        return ProcessState(middle, half, tuple(sizes), tuple(factors), lengths, levels)

    def design(self, state: ProcessState, frame: Frame) -> Design:
        x = ranges.values_of(self.call.arguments, frame)
        arrays: dict[str, NDArray] = {"x": (x - state.middle) / state.half}
        if not self.options["by"]:
            return Design(arrays)
        codes, new = state.index.coded(frame, (self.options["by"],))
        return Design({**arrays, "codes": codes}, (new,))

    def parameters(self, state: ProcessState, scale: Scale) -> dict[str, Parameter]:
        out = {self._amplitude: Parameter(priors.HalfNormal(2.5 * scale.sd), "positive")}
        for i, name in enumerate(self._lengths):
            alpha, beta = length_scales.inverse_gamma(*state.plausible[i])
            out[name] = Parameter(priors.InverseGamma(alpha, beta), "positive")
        return out

    def _starts(self, state: ProcessState) -> tuple[float, ...]:
        """Starting values of the length scales: geometric means of the plausible extremes."""
        each = np.sqrt(state.plausible.prod(axis=1))[: len(self._lengths)]
        return tuple(float(e) for e in each)

    def _spectrum(self, state: ProcessState) -> hilbert_basis.SpectralSds:
        """The sds of the weights as a function of amplitude and length scales."""
        ends = tuple(float(c * h) for c, h in zip(state.factors, state.half, strict=True))
        return hilbert_basis.SpectralSds(
            self.options["kernel"],
            self._amplitude,
            self._lengths,
            state.sizes,
            ends,
            self._starts(state),
        )

    def hyperparameters(
        self, state: ProcessState, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        starts = {self._amplitude: scale.sd}
        starts.update(zip(self._lengths, self._starts(state), strict=True))
        return {
            name: sites.parameter(name, priors_[name], support="positive", start=start)
            for name, start in starts.items()
        }

    def block(
        self,
        state: ProcessState,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, AnyArray],
    ) -> LinearBlock:
        x, k, spectrum = design.arrays["x"], state.width, self._spectrum(state)
        xp: ModuleType = np if isinstance(x, np.ndarray) and not hyperparameters else jnp
        sds = spectrum.sds(hyperparameters, jnp) if hyperparameters else np.ones(k)
        return LinearBlock(
            hilbert_basis.columns(x, state.sizes, state.factors, xp),
            design.arrays.get("codes"),
            max(1, len(state.levels)),
            np.zeros(k),
            sds,
            sites=((self._weights, k),),
            shapes=((k,),),
            scales=(self._amplitude, *self._lengths),
            grouping=self.factor,
            spectrum=spectrum,
        )

    def coefficients(self, run: Run[ProcessState], block: LinearBlock) -> Float[Array, "*levels k"]:
        state = run.state
        shape = (block.levels, state.width) if state.levels else (state.width,)
        zeros = jnp.zeros(shape)
        prior = dist.Normal(zeros, block.factor).to_event(len(shape))
        unit = jnp.full(shape, 0.3 * run.scale.sd / math.sqrt(state.width))
        drawn = numpyro.sample(self._weights, prior, infer={"start": zeros, "unit": unit})
        weights, new = jnp.asarray(drawn), run.design.unseen()
        if not new:
            return weights
        if run.options.new_levels == "zero":
            unseen = jnp.zeros((new, state.width))
        else:
            plain = dist.Normal(jnp.zeros((new, state.width)), 1.0).to_event(2)
            unseen = jnp.asarray(numpyro.sample(self._new, plain)) * block.factor
        return jnp.concatenate([weights, unseen])

    @property
    def groupings(self) -> tuple[str, ...]:
        return (self.options["by"],) if self.options["by"] is not None else ()

    def level_sites(self, state: ProcessState) -> tuple[LevelSites, ...]:
        if not state.levels:
            return ()
        return (LevelSites((self._weights,), len(state.levels), self._new, state.width),)

    def varying_columns(self, state: ProcessState) -> tuple[frozenset[str], ...]:
        own = frozenset(name for a in self.call.arguments for name in a.columns())
        return (own,) * state.width if state.levels else ()

    def narrowed(self, state: ProcessState, levels: tuple[int, ...]) -> ProcessState:
        return replace(state, levels=state.levels[: levels[0]])

    def variables(self, state: ProcessState) -> dict[str, Variable]:
        out = {name: Variable("scale") for name in (self._amplitude, *self._lengths)}
        labels = tuple(",".join(map(str, j)) for j in hilbert_basis.orders(state.sizes))
        dims, coords = (f"{self.short}_basis",), (labels,)
        if state.levels:
            dims, coords = (f"{self.factor}__factor_dim", *dims), (state.levels, *coords)
        return {**out, self._weights: Variable("weight", dims, coords)}

    def diagnostics(self, state: ProcessState, sites: Sites) -> Iterator[tuple[str, str, str, str]]:
        """Report length scales for which the basis has too few functions or too near a boundary."""
        kernel = hilbert_basis.KERNELS[self.options["kernel"]]
        for i, half in enumerate(state.half):
            name = self._lengths[min(i, len(self._lengths) - 1)]
            if name not in sites:
                continue
            length = float(np.median(sites[name]))
            m, c = state.sizes[i], state.factors[i]
            shortest, longest = kernel.shortest(m, c) * half, kernel.longest(c) * half
            if length < shortest:
                wanted = math.ceil(kernel.functions * c * half / length)
                yield (
                    f"{name} is {length:.3g}, {m} basis functions follow {shortest:.3g} or more",
                    "the process may bend more than its basis can",
                    f"give m={wanted} or more",
                    "caution",
                )
            # Up to twice the longest length scale, the boundary hardly restricts the process.
            elif length > 2 * longest:
                yield (
                    f"{name} is {length:.3g}, long for boundary={c:.2g}, which suits {longest:.3g}",
                    "the curve is right where the rows are, its scales less so",
                    f"give boundary={kernel.boundary * length / half:.1f} to read them",
                    "trust",
                )

    def equation(self, state: ProcessState) -> Summand:
        shown = [str(a) for a in self.call.arguments]
        inside = joined([(name, Sub("i")) for name in shown], ", ")
        of = f"{self.prefix}{','.join(shown)}"
        at = (Sub(f"{of}|{self.factor}[i]") if state.levels else Sub(of),)
        each = Sub(f"{of}|{self.factor}[j]") if state.levels else Sub(of)
        kernel: Line = (self.options["kernel"], "(ℓ", Sub(of), ")")
        prior: Line = ("f", each, " ~ GP(0, σ", Sub(of), "² ", *kernel, ")")
        return Summand(("f", *at, "(", *inside, ")"), (prior,))
