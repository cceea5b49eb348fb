"""Runs the model's own NumPyro program on any rows, once for every posterior draw.

The sites of the program are set to the values of the draw. It returns the linear predictor of every
family parameter, in chunks of rows that memory holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.families.base import Family
from ranef.families.response_design import ResponseDesign
from ranef.inference.base import Draws
from ranef.lazy import Array, ArrayLike, jax, jnp
from ranef.numerics.counter_rng import CounterRNG
from ranef.numerics.shapes import Float, Int
from ranef.posterior.level_batches import LevelSubset, batches, level_key, pad_subsets, stepped
from ranef.priors import handlers
from ranef.program.program import Program, Varying
from ranef.program.training import Designs, TrainingState
from ranef.terms.base import LevelSites, RunOptions

# A number for each draw and row.
Matrix = Float[NDArray[np.float64], "draws rows"]
Rows = Int[NDArray[np.int64], "rows"]
Places = Int[NDArray[np.int64], "_"]
# A family parameter at every draw: on the rows, or a vector that is the same for all rows.
Parameter = Float[Array, "draws rows"] | Float[Array, "draws 1 _"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Replay = TypeVar("_Replay", bound="ProgramReplay")

# Largest value of draws x rows that is held at once.
_CELLS = 4_000_000
# Largest number of draws of group effects that is held at once.
_EFFECTS = 10_000_000
# Largest absolute value of a predictor or mean. The sum of a million squares of larger numbers
# would overflow double precision.
_FARTHEST = 1e151
# Smallest number of rows for which a program is compiled; with fewer rows it runs no faster.
_LEAST_ROWS = 64


@dataclass(frozen=True)
class RowChunk:
    """The linear predictors of a chunk of rows, padded to a fixed number of rows.

    Attributes:
        family: the family of the model.
        response: the response design of the chunk.
        predictors: family parameter to its predictor on the link's scale.
        places: positions of the rows among all rows. Rows of the chunk beyond these are padding.
        integrated: for a model with columns in mi(), computes log p(y_i | draw) with the missing
            values integrated out. None for other models, whose log density follows from the
            predictors.
    """

    family: Family
    response: ResponseDesign
    predictors: Mapping[str, Parameter]
    places: Places
    integrated: Callable[[], Float[Array, "draws rows"]] | None = None

    @cached_property
    def values(self) -> dict[str, Array]:
        """Each family parameter on its own scale: the inverse link of its predictor."""
        return self.family.on_own_scale(**self.predictors)

    @property
    def count(self) -> int:
        """Number of rows without the padding."""
        return len(self.places)

    def own(self, values: ArrayLike) -> Matrix:
        """`values` broadcast to draws and rows, without the padding."""
        shape = self.predictors[self.family.parameters[0].name].shape
        return np.broadcast_to(np.asarray(values, dtype=np.float64), shape)[:, : self.count]


class OutOfReachError(DataError):
    """A row whose predictor or mean is not finite, or too large to be squared.

    Attributes:
        place: position of the row, from 0.
    """

    def __init__(self, place: int) -> None:
        super().__init__(
            f"the prediction of row {place + 1} is not a finite number or too large to be squared; "
            "its columns lie too far from the training rows"
        )
        self.place = place

    def __reduce__(self) -> tuple[type[OutOfReachError], tuple[int]]:
        return OutOfReachError, (self.place,)


def refuse_out_of_reach(
    values: Float[NDArray, "draws rows"], places: Rows, most: float = _FARTHEST
) -> None:
    """Refuse values that are not finite or exceed `most` in absolute value.

    Raises:
        OutOfReachError: for the first row with such a value.
    """
    # In the single precision of a network's output, the limit itself would be infinite.
    beyond = ~(np.abs(values.astype(np.float64, copy=False)) <= most)
    if beyond.any():
        raise OutOfReachError(int(places[np.argmax(beyond.any(axis=0))]))


@dataclass
class _Kept:
    """What copies of a `ProgramReplay` share.

    Attributes:
        predictors: compiled function behind `ProgramReplay._run`, once it is needed.
        density: compiled function behind `ProgramReplay._density`, once it is needed.
        latest: levels and draws of the latest batch by site; empty before the first.
    """

    predictors: Callable[..., dict[str, Array]] | None = None
    density: Callable[..., Array] | None = None
    latest: list[tuple[Mapping[str, NDArray[np.int64]], dict[str, Array]]] = field(
        default_factory=list
    )


@dataclass(frozen=True)
class ProgramReplay:
    """The program of a fitted model on any rows, at every posterior draw.

    Attributes:
        program: the model.
        state: what the model learned from the training rows before the fit.
        draws: posterior draws of its sites.
        replay: how the program runs, in particular how new levels are treated.
        seed: seed for the effects of new levels and for sampled responses.
    """

    program: Program
    state: TrainingState
    draws: Draws
    replay: RunOptions
    seed: int
    _kept: _Kept = field(default_factory=_Kept, repr=False, compare=False)

    @cached_property
    def _grouped(self) -> dict[Varying, LevelSites]:
        return self.program.level_sites(self.state)

    @cached_property
    def _count(self) -> int:
        """Number of draws."""
        chains, each = self.draws.shape
        return chains * each

    def with_draws(self: _Replay, draws: Draws) -> _Replay:
        """The same predictions with other draws, of equal number; keeps the compiled program."""
        return replace(self, draws=draws, _kept=_Kept(self._compiled))

    def seeded(self: _Replay, seed: int) -> _Replay:
        """The same with another seed; keeps the compiled programs and the draws of effects."""
        return replace(self, seed=seed)

    def over(self, designs: Designs, response: ResponseDesign, n: int) -> Iterator[RowChunk]:
        """Predictors of all rows, chunk by chunk. Every row occurs in exactly one chunk.

        All chunks have the same number of rows (the last is padded with its last row) and the
        same number of levels, so that one compiled program serves all. The numbers are rounded to
        few sizes: a row that is predicted alone uses the program of a short table, and gets the
        same digits as in that table. The rows keep their order if memory holds the effects of
        all their levels. Otherwise rows are sorted by level, and effects are drawn for as many
        levels at a time as memory holds.

        Args:
            designs: the designs of the rows.
            response: their response design.
            n: number of rows.
        """
        held = max(1, _CELLS // self._count)
        size = min(held, stepped(n, _LEAST_ROWS, held))
        codes = {
            key: np.asarray(designs[key[0]].arrays[g.codes]) for key, g in self._grouped.items()
        }
        width = max(1, sum(g.width for g in self._grouped.values()))
        most = max(1, _EFFECTS // (self._count * width))
        places = batches(list(codes.values()), n, most)
        occurring = pad_subsets(
            [
                {
                    key: LevelSubset.of(codes[key][rows], g.levels)
                    for key, g in self._grouped.items()
                }
                for rows in places
            ],
            most,
        )
        for rows, met in zip(places, occurring, strict=True):
            yield from self._chunks(designs, response, rows, size, met)

    def _chunks(
        self,
        designs: Designs,
        response: ResponseDesign,
        rows: Places,
        size: int,
        met: Mapping[Varying, LevelSubset],
    ) -> Iterator[RowChunk]:
        """The rows of one batch, in chunks; `met` holds the levels that occur in the batch."""
        sites = self._sites(met, designs)
        for start in range(0, len(rows), size):
            places = rows[start : start + size]
            own = np.pad(places, (0, size - len(places)), mode="edge")
            held, beside = jax.tree.map(lambda a, own=own: a[own], (designs, response))
            for key, levels in met.items():
                label, place = key
                codes = self._grouped[key].codes
                held = {**held, label: levels.recoded(held[label], codes, place)}
            held, beside = jax.tree.map(jnp.asarray, (held, beside))
            density = partial(self._density, sites, held, beside, met)
            integrated = density if self.program.columns else None
            predictors = self._run(sites, held, met)
            for eta in predictors.values():
                if eta.ndim == 2:
                    refuse_out_of_reach(np.asarray(eta, np.float64)[:, : len(places)], places)
            yield RowChunk(self.program.family, beside, predictors, places, integrated)

    def _sites(self, met: Mapping[Varying, LevelSubset], designs: Designs) -> dict[str, Array]:
        """Draws by site, (draws, ...); effects are those of the levels in `met` alone."""
        levels = {s: met[key].known for key, g in self._grouped.items() for s in g.sites}
        out = dict(self._at(levels))
        for key, grouped in self._grouped.items():
            label, place = key
            names = [designs[label].new[place][level] for level in met[key].new]
            if names and self.replay.new_levels == "sample":
                out[grouped.new] = jnp.asarray(self._unseen(key, grouped, names))
        return out

    def _at(self, levels: Mapping[str, NDArray[np.int64]]) -> dict[str, Array]:
        """Draws of all sites, effects for `levels` alone; the draws of the last call are kept."""
        latest = self._kept.latest
        if not latest or not all(np.array_equal(latest[0][0][n], own) for n, own in levels.items()):
            # Free the previous draws before new ones are made.
            latest.clear()
            made = {
                name: jnp.asarray(value.reshape(self._count, *value.shape[2:]))
                for name, value in self.draws.at(levels).items()
            }
            latest.append((levels, made))
        return latest[0][1]

    def _unseen(
        self, key: Varying, grouped: LevelSites, names: list[str]
    ) -> Float[NDArray, "draws levels k"]:
        """Standard normal numbers for the effects of new levels.

        They depend on the seed and on the level's name, not on which other levels occur.
        """
        levels = np.array([level_key(name) for name in names], np.uint64)
        stream = level_key(key[0]) + key[1]
        each = CounterRNG(self.seed, stream).of(levels, self._count * grouped.width)
        return each.reshape(len(names), self._count, grouped.width).transpose(1, 0, 2)

    def _run(
        self, sites: dict[str, Array], designs: Designs, met: Mapping[Varying, LevelSubset]
    ) -> dict[str, Parameter]:
        """Each family parameter on its link's scale."""
        return self._compiled(sites, designs, jax.random.key(self.seed), _known(met))

    def _density(
        self,
        sites: dict[str, Array],
        designs: Designs,
        response: ResponseDesign,
        met: Mapping[Varying, LevelSubset],
    ) -> Float[Array, "draws rows"]:
        """Log p(y_i | draw), with missing values of columns integrated out."""
        key = jax.random.key(self.seed)
        return self._compiled_density(sites, designs, key, _known(met), response)

    @property
    def _compiled_density(self) -> Callable[..., Array]:
        if self._kept.density is None:
            self._kept.density = self._compile_density()
        return self._kept.density

    def _compile_density(self) -> Callable[..., Array]:
        """The compiled function behind `_density`."""

        def run(
            state: TrainingState, designs: Designs, replay: RunOptions, response: ResponseDesign
        ) -> Array:
            return self.program.incomplete(state, designs, response, replay).log_density()

        def every(
            sites: dict[str, Array],
            designs: Designs,
            key: Array,
            known: tuple,
            response: ResponseDesign,
        ) -> Array:
            state = self.program.narrowed(self.state, dict(known))

            def one(sites: Mapping[str, Array], key: Array) -> Array:
                return self._at_draw(run, sites, key)(state, designs, self.replay, response)

            # Sequentially over draws: quadrature over missing values takes memory for every row.
            return jax.lax.map(lambda own: one(*own), (sites, jax.random.split(key, self._count)))

        return jax.jit(every, static_argnums=3)

    def _at_draw(
        self, run: Callable[_Arguments, _Result], sites: Mapping[str, Array], key: Array
    ) -> Callable[_Arguments, _Result]:
        """A NumPyro program with its sites set to one draw and to the point estimates."""
        carried = {name: dict(value) for name, value in self.draws.carried.items()}
        values = {**sites, **self.draws.points, **carried}
        return handlers.substituted(handlers.seeded(run, key), values)

    @property
    def _compiled(self) -> Callable[..., dict[str, Array]]:
        if self._kept.predictors is None:
            self._kept.predictors = self._compile_predictors()
        return self._kept.predictors

    def _compile_predictors(self) -> Callable[..., dict[str, Array]]:
        """The compiled function from (draws, designs, key, numbers of levels) to predictors."""
        vectors = {p.name for p in self.program.family.free_parameters() if p.labels}

        def every(
            sites: dict[str, Array], designs: Designs, key: Array, known: tuple
        ) -> dict[str, Array]:
            state = self.program.narrowed(self.state, dict(known))

            def one(sites: Mapping[str, Array], key: Array) -> dict[str, Array]:
                run = self._at_draw(self.program.predictors, sites, key)
                values = run(state, designs, self.replay)
                return {
                    name: v[None] if name in vectors else jnp.atleast_1d(v)
                    for name, v in values.items()
                }

            out = jax.vmap(one)(sites, jax.random.split(key, self._count))
            rows = jax.tree.leaves(designs)[0].shape[0]
            shape = (self._count, rows)
            return {
                name: v if name in vectors else jnp.broadcast_to(v, shape)
                for name, v in out.items()
            }

        return jax.jit(every, static_argnums=3)


def _known(met: Mapping[Varying, LevelSubset]) -> tuple[tuple[Varying, int], ...]:
    """Number of known levels by term, as a hashable argument of the compiled programs."""
    return tuple((name, len(levels.known)) for name, levels in met.items())
