"""The program replayed on new rows with draws of its sites: never a second implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ranef.errors import DataError
from ranef.families.base import Family, ResponseDesign
from ranef.inference.base import Draws
from ranef.lazy import Array, jax, jnp, numpyro, xr
from ranef.numerics.blas_threads import side_by_side
from ranef.numerics.counter_rng import CounterRNG
from ranef.posterior.level_batches import LevelSubset, batches, level_key, pad_subsets, stepped
from ranef.program.program import Program, Varying
from ranef.program.training import Designs, TrainingState
from ranef.terms.base import LevelSites, RunOptions

# Draws times rows held at once, and draws of group effects.
_CELLS, _EFFECTS = 4_000_000, 10_000_000
# The squares of means beyond this cannot be added up over a million draws in double precision.
_FARTHEST = 1e151
# The exponential of numbers up to this, of either sign, is neither zero nor infinite.
_LARGEST_EXPONENT = 700.0
# Rows that a program is compiled for at least: fewer take it no less time.
_LEAST_ROWS = 64
# Rows whose quantiles are sought at once, on each core.
_STRIPE = 500


@dataclass(frozen=True)
class RowChunk:
    """A chunk of rows.

    Attributes:
        family: of the model.
        response: its response design.
        predictors: each family parameter on its link's scale, (draws, rows); a vector of k
            numbers is (draws, 1, k).
        places: of the rows among all; those after them are padding.
        integrated: makes log p(response) (draws, rows), where missing values of columns are to be
            integrated over; None where the predictors say it.
    """

    family: Family
    response: ResponseDesign
    predictors: Mapping[str, Array]
    places: NDArray[np.int64]
    integrated: Callable[[], Array] | None = None

    @cached_property
    def values(self) -> dict[str, Array]:
        """Each family parameter on its own scale."""
        return self.family.on_own_scale(**self.predictors)

    @property
    def count(self) -> int:
        """Rows that count."""
        return len(self.places)

    def own(self, values: Any) -> NDArray[np.float64]:
        """`values`, which broadcast to (draws, rows), without the padding."""
        shape = self.predictors[self.family.parameters[0].name].shape
        return np.broadcast_to(np.asarray(values, dtype=np.float64), shape)[:, : self.count]


class OutOfReachError(DataError):
    """A row whose predictor or mean is not a finite number, or too large to be squared.

    Attributes:
        place: of the row, from 0.
    """

    def __init__(self, place: int) -> None:
        super().__init__(
            f"the prediction of row {place + 1} is not a finite number or too large to be squared; "
            "its columns lie too far from the training rows"
        )
        self.place = place


def _refuse_out_of_reach(
    values: NDArray[np.float64], places: NDArray[np.int64], most: float = _FARTHEST
) -> None:
    """Refuse numbers by draw and row, (draws, rows), beyond `most`, by default what can be squared.

    Raises:
        OutOfReachError: for the first row that has one.
    """
    # In the precision of a network's output the limit itself would be infinite.
    beyond = ~(np.abs(values.astype(np.float64, copy=False)) <= most)
    if beyond.any():
        raise OutOfReachError(int(places[np.argmax(beyond.any(axis=0))]))


@dataclass(frozen=True)
class Predictive:
    """Parameters of the response on any rows, one set for each draw.

    Attributes:
        program, state: the model and what it learned.
        draws: of its sites.
        replay: how new levels are treated.
        seed: for coefficients of new levels and for response noise.
    """

    program: Program
    state: TrainingState
    draws: Draws
    replay: RunOptions
    seed: int

    @cached_property
    def _grouped(self) -> dict[Varying, LevelSites]:
        return self.program.level_sites(self.state)

    @cached_property
    def _count(self) -> int:
        """Draws."""
        none = {site: np.zeros(0, np.int64) for g in self._grouped.values() for site in g.sites}
        return next((v.shape[0] * v.shape[1] for v in self.draws.at(none).values()), 1)

    def given(self, draws: Draws) -> Predictive:
        """The same with other draws, of as many: the program stays compiled."""
        out = replace(self, draws=draws)
        out.__dict__["_compiled"] = self._compiled
        return out

    def seeded(self, seed: int) -> Predictive:
        """The same with another seed: the programs stay compiled, and draws of effects made."""
        out = replace(self, seed=seed)
        for kept in ("_compiled", "_compiled_density", "_latest"):
            out.__dict__[kept] = getattr(self, kept)
        return out

    def over(self, designs: Designs, response: ResponseDesign, n: int) -> Iterator[RowChunk]:
        """The rows in chunks, each row once.

        Every chunk has the same number of rows, the last padded with its last row, and knows
        as many levels as any, so that one compiled program serves all. These numbers are of few
        sizes: a row that is predicted alone goes through the program of a short table, which is
        compiled once, and has the same digits there. Rows are taken in their
        order where memory holds the effects of all levels in them; else those of a level follow
        each other, and effects are drawn for as many levels at a time as it does hold.
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
        rows: NDArray[np.int64],
        size: int,
        met: Mapping[Varying, LevelSubset],
    ) -> Iterator[RowChunk]:
        """The rows of one batch, in which the levels `met` occur."""
        sites = self._sites(met, designs)
        for start in range(0, len(rows), size):
            places = rows[start : start + size]
            own = np.pad(places, (0, size - len(places)), mode="edge")
            part, beside = jax.tree.map(lambda a, own=own: a[own], (designs, response))
            for key, levels in met.items():
                label, place = key
                codes = self._grouped[key].codes
                part = {**part, label: levels.recoded(part[label], codes, place)}
            part, beside = jax.tree.map(jnp.asarray, (part, beside))
            density = partial(self._density, sites, part, beside, met)
            integrated = density if self.program.columns else None
            predictors = self._run(sites, part, met)
            for eta in predictors.values():
                if eta.ndim == 2:
                    _refuse_out_of_reach(np.asarray(eta, np.float64)[:, : len(places)], places)
            yield RowChunk(self.program.family, beside, predictors, places, integrated)

    def _sites(self, met: Mapping[Varying, LevelSubset], designs: Designs) -> dict[str, Array]:
        """Draws in one leading axis, of effects those of the levels at hand."""
        levels = {s: met[key].known for key, g in self._grouped.items() for s in g.sites}
        out = dict(self._at(levels))
        for key, grouped in self._grouped.items():
            label, place = key
            names = [designs[label].new[place][level] for level in met[key].new]
            if names and self.replay.new_levels == "sample":
                out[grouped.new] = jnp.asarray(self._unseen(key, grouped, names))
        return out

    def _at(self, levels: Mapping[str, NDArray[np.int64]]) -> dict[str, Array]:
        """Draws of effects of some levels and of all else, those of the latest batch kept."""
        latest = self._latest
        if not latest or not all(np.array_equal(latest[0][n], own) for n, own in levels.items()):
            # Those before make room first.
            latest.clear()
            made = {
                name: jnp.asarray(value.reshape(self._count, *value.shape[2:]))
                for name, value in self.draws.at(levels).items()
            }
            latest.extend((levels, made))
        return latest[1]

    @cached_property
    def _latest(self) -> list[Any]:
        """The levels of the latest batch and their draws, once there are some."""
        return []

    def _unseen(self, key: Varying, grouped: LevelSites, names: list[str]) -> NDArray[np.float64]:
        """Standard normal numbers behind the effects of new levels, (draws, u, k)."""
        levels = np.array([level_key(name) for name in names], np.uint64)
        stream = level_key(key[0]) + key[1]
        each = CounterRNG(self.seed, stream).of(levels, self._count * grouped.width)
        return each.reshape(len(names), self._count, grouped.width).transpose(1, 0, 2)

    def _run(
        self, sites: dict[str, Array], designs: Designs, met: Mapping[Varying, LevelSubset]
    ) -> dict[str, Array]:
        """Each family parameter on its link's scale, (draws, rows)."""
        return self._compiled(sites, designs, jax.random.key(self.seed), _known(met))

    def _density(
        self,
        sites: dict[str, Array],
        designs: Designs,
        response: ResponseDesign,
        met: Mapping[Varying, LevelSubset],
    ) -> Array:
        """Log p(response), (draws, rows), missing values of columns integrated over."""
        key = jax.random.key(self.seed)
        return self._compiled_density(sites, designs, key, _known(met), response)

    @cached_property
    def _compiled_density(self) -> Any:
        """As `_compiled`, and a response, to its log density."""

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
                return self._given(run, sites, key)(state, designs, self.replay, response)

            # One draw after the other: quadrature takes room for each row.
            return jax.lax.map(lambda own: one(*own), (sites, jax.random.split(key, self._count)))

        return jax.jit(every, static_argnums=3)

    def _given(self, run: Callable, sites: Mapping[str, Array], key: Array) -> Any:
        """A NumPyro program with its sites known."""
        carried = {name: dict(value) for name, value in self.draws.carried.items()}
        data = {**sites, **self.draws.points, **carried}
        return numpyro.handlers.substitute(numpyro.handlers.seed(run, key), data=data)

    @cached_property
    def _compiled(self) -> Any:
        """Draws, designs, a key and how many levels they know to each family parameter."""
        vectors = {p.name for p in self.program.family.free_parameters() if p.labels}

        def every(
            sites: dict[str, Array], designs: Designs, key: Array, known: tuple
        ) -> dict[str, Array]:
            state = self.program.narrowed(self.state, dict(known))

            def one(sites: Mapping[str, Array], key: Array) -> dict[str, Array]:
                run = self._given(self.program.predictors, sites, key)
                values: Any = run(state, designs, self.replay)
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

    def summaries(
        self, designs: Designs, response: ResponseDesign, n: int, kind: str, interval: float
    ) -> dict[str, NDArray[np.float64]]:
        """mean, sd, lower and upper of each row, of the mean or of a response.

        And ``p[c]``, the mean probability of each category c, for a family that has them.
        """
        family = self.program.family
        tails = [(1 - interval) / 2, (1 + interval) / 2]
        rng = np.random.default_rng(self.seed)

        def describe(part: RowChunk) -> dict[str, NDArray]:
            location = cells = self._location(part)
            variance = location.var(axis=0)
            if kind == "response":
                _refuse_limits(part)
                spread = family.variance(part.response, **part.values)
                variance = variance + part.own(spread).mean(axis=0)
                cells = part.own(family.sample(rng, part.response, **part.values))
            lower, upper = _quantiles(cells, tails)
            sd = np.sqrt(variance)
            shares = {
                f"p[{name}]": part.own(each).mean(axis=0)
                for name, each in family.probabilities(**part.values).items()
            }
            mean = location.mean(axis=0)
            return {"mean": mean, "sd": sd, "lower": lower, "upper": upper, **shares}

        return self._by_row(designs, response, n, describe)

    def components(self, designs: Designs, response: ResponseDesign, n: int) -> dict[str, NDArray]:
        """The most probable component of each row, and P(component c | y_i) as ``p[c]``."""
        family = self.program.family

        def judge(part: RowChunk) -> dict[str, NDArray]:
            found = family.responsibilities(part.response, **part.predictors)
            return {f"p[{name}]": part.own(each).mean(axis=0) for name, each in found.items()}

        shares = self._by_row(designs, response, n, judge)
        largest = np.argmax(np.stack(list(shares.values())), axis=0)
        return {"component": 1 + largest, **shares}

    def log_scores(self, designs: Designs, response: ResponseDesign, n: int) -> NDArray[np.float64]:
        """Log mean_s p(y_i | draw s), (n,)."""

        def score(part: RowChunk) -> dict[str, NDArray]:
            return {"score": _log_mean(self.log_density(part))}

        return self._by_row(designs, response, n, score)["score"]

    def validation(self, designs: Designs, response: ResponseDesign, n: int) -> xr.Dataset:
        """By row: observed, mean, pit = P(response <= observed), log_score.

        The PIT is a mean over draws of responses with ties, of which there are none in a
        continuous family, broken at random (Czado, Gneiting and Held, 2009).
        """
        family = self.program.family
        rng = np.random.default_rng(self.seed)

        def judge(part: RowChunk) -> dict[str, NDArray]:
            _refuse_limits(part)
            drawn = part.own(family.sample(rng, part.response, **part.values))
            observed = np.asarray(part.response.value, np.float64)[: part.count]
            below, equal = (drawn < observed).sum(axis=0), (drawn == observed).sum(axis=0)
            uniform = rng.random(part.count)
            return {
                "observed": observed,
                "mean": self._location(part).mean(axis=0),
                "pit": (below + uniform * (equal + 1)) / (len(drawn) + 1),
                "log_score": _log_mean(self.log_density(part)),
            }

        columns = self._by_row(designs, response, n, judge)
        return xr.Dataset({name: ("row", values) for name, values in columns.items()})

    def centre(self, designs: Designs, response: ResponseDesign, n: int) -> NDArray[np.float64]:
        """Posterior mean of the location, (n,)."""

        def mean(part: RowChunk) -> dict[str, NDArray]:
            return {"mean": self._location(part).mean(axis=0)}

        return self._by_row(designs, response, n, mean)["mean"]

    def locations(self, designs: Designs, response: ResponseDesign, n: int) -> NDArray[np.float64]:
        """Draws of the location, (draws, n)."""
        each = self._by_row(designs, response, n, lambda part: {"a": self._location(part).T})
        return each["a"].T

    def responses(self, designs: Designs, response: ResponseDesign, n: int) -> NDArray[np.float64]:
        """Draws of the response, (draws, n)."""
        rng = np.random.default_rng(self.seed)

        def draw(part: RowChunk) -> dict[str, NDArray]:
            _refuse_limits(part)
            return {"a": part.own(self.program.family.sample(rng, part.response, **part.values)).T}

        return self._by_row(designs, response, n, draw)["a"].T

    def log_likelihood(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> NDArray[np.float64]:
        """Log p(y_i | draw s), (draws, n)."""
        each = self._by_row(designs, response, n, lambda part: {"a": self.log_density(part).T})
        return each["a"].T

    def by_log_density(
        self,
        designs: Designs,
        response: ResponseDesign,
        n: int,
        describe: Callable[[NDArray[np.float64]], Mapping[str, NDArray]],
    ) -> dict[str, NDArray]:
        """What `describe` says of log p(y_i | draw s), (draws, m), by row, chunk by chunk."""
        return self._by_row(
            designs, response, n, lambda part: dict(describe(self.log_density(part)))
        )

    def means(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> dict[str, NDArray[np.float64]]:
        """Posterior mean of each family parameter on its link's scale, (n,), or (n, k)."""

        def mean(part: RowChunk) -> dict[str, NDArray]:
            return {
                name: part.own(eta).mean(axis=0)
                if eta.ndim == 2
                else np.repeat(np.asarray(eta.mean(axis=0)), part.count, axis=0)
                for name, eta in part.predictors.items()
            }

        return self._by_row(designs, response, n, mean)

    def _by_row(
        self,
        designs: Designs,
        response: ResponseDesign,
        n: int,
        describe: Callable[[RowChunk], dict[str, NDArray]],
    ) -> dict[str, NDArray]:
        """What `describe` says of each chunk of rows, rows leading, in the order of the rows."""
        out: dict[str, NDArray] = {}
        with jax.enable_x64(True):
            for part in self.over(designs, response, n):
                for name, values in describe(part).items():
                    whole = out.setdefault(name, np.empty((n, *values.shape[1:]), values.dtype))
                    whole[part.places] = values
        return out

    def _location(self, part: RowChunk) -> NDArray[np.float64]:
        location = part.own(self.program.family.mean(part.response, **part.values))
        _refuse_out_of_reach(location, part.places)
        return location

    def log_density(self, part: RowChunk) -> NDArray[np.float64]:
        """Log p(y_i | draw s) of a chunk, (draws, rows).

        Raises:
            OutOfReachError: for a row of which a parameter is at the end of what it may be.
        """
        if part.integrated is not None:
            return part.own(part.integrated())
        _refuse_limits(part)
        return part.own(self.program.family.log_density(part.response, **part.predictors))


def _refuse_limits(part: RowChunk) -> None:
    """Refuse rows with a positive number that has become zero or infinite, or a share one of both.

    Raises:
        OutOfReachError: for the first of them.
    """
    for parameter in part.family.parameters:
        eta = part.predictors.get(parameter.name)
        # The density of what is not discrete is taken of the share itself, not of its logit.
        shared = parameter.link == "logit" and not part.family.discrete
        if eta is not None and eta.ndim == 2 and (parameter.link == "log" or shared):
            # A count whose mean has become zero is zero.
            own = np.maximum(part.own(eta), 0.0) if part.family.discrete else part.own(eta)
            _refuse_out_of_reach(own, part.places, _LARGEST_EXPONENT)


def _known(met: Mapping[Varying, LevelSubset]) -> tuple[tuple[Varying, int], ...]:
    """How many levels of each term training saw, of those that are at hand."""
    return tuple((name, len(levels.known)) for name, levels in met.items())


def _log_mean(log_density: NDArray[np.float64]) -> NDArray[np.float64]:
    return logsumexp(log_density, axis=0) - np.log(len(log_density))


def _quantiles(values: NDArray[np.float64], tails: list[float]) -> NDArray[np.float64]:
    """Quantiles of each column, which take most of the time of a prediction."""
    stripes = [values[:, start : start + _STRIPE] for start in range(0, values.shape[1], _STRIPE)]
    found = side_by_side(lambda stripe: np.quantile(stripe, tails, axis=0), stripes, _STRIPE)
    return np.concatenate(found, axis=1)
