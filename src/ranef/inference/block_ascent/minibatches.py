"""Minibatches: rows in random order, some held out, and how long a network is trained.

What is held out are single rows, whose levels others are of, and whole levels of groupings. Group
effects can stand in for a mean that the networks have not learned in the rows of known levels; in
those of new ones they cannot.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import jax
from ranef.program.problem import Problem

# Rounds where every one has all rows.
ROUNDS = 30
# Passes over a hundred thousand rows; of fewer rows more, of more fewer.
_PASSES, _MOST_PASSES, _LEAST_PASSES = 30.0, 300.0, 3.0
# Of Adam at its highest; shares of the rounds where it rises, and of the last part.
RATE, _RISE, LAST = 0.005, 0.05, 0.25


def batch_size(n: int) -> int:
    """Rows of a minibatch: about the square root of all, a power of two."""
    return int(2 ** np.clip(round(math.log2(1.8 * math.sqrt(n))), 5, 12))


def passes(n: int, predicted: int = 1) -> float:
    """Over n rows, where networks predict so many parameters of the response.

    What one of them is to learn depends on the others, as the share of a component on its mean.
    """
    alone = float(np.clip(_PASSES * math.sqrt(1e5 / n), _LEAST_PASSES, _MOST_PASSES))
    return alone * predicted


def rate(done: float) -> float:
    """Share of the highest learning rate when a share `done` of the rounds is done."""
    return min(1.0, (done + 1e-9) / _RISE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


# Share of the rows in memory that is held out.
_HELD_OUT = 0.1
# The most rows that are held out: more would only make a round slower.
_MOST_HELD_OUT = 200_000
# Rows from which on some are held out; of fewer each is needed.
_LEAST_ROWS = 50
# Share of the held-out rows that are whole levels of groupings, all groupings together.
_BY_LEVEL = 0.5
# Levels of a grouping from which on some are held out; of fewer each tells much of its sd.
_LEAST_LEVELS = 20
# Rows of a window, where rows in memory make several; fewer than twice as many make one.
_WINDOW = 1_000_000


@dataclass(frozen=True)
class Windows:
    """The rows of a problem.

    Attributes:
        count: how many windows make one pass.
        n: rows of a pass.
        held: rows that no window has, None where all are needed.
        unseen: which levels (J,) of each grouping no window has, by its name; empty where the
            rows are read in batches.
        at: the rows of any window by its number, counted over all passes.
    """

    count: int
    n: int
    held: Any
    unseen: Mapping[str, NDArray[np.bool_]]
    at: Callable[[int], Any]

    @classmethod
    def of(cls, problem: Problem, seed: int) -> "Windows":
        return _streamed(problem, seed) if problem.windows else _in_memory(problem, seed)


def _in_memory(problem: Problem, seed: int) -> Windows:
    n = problem.n
    held = min(int(_HELD_OUT * n), _MOST_HELD_OUT) if n >= _LEAST_ROWS else 0
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(n)
    codes = _codes(problem)
    whole_levels = _whole_levels(codes, n, int(_BY_LEVEL * held), rng)
    # Rows of the levels first, then single ones until there are enough.
    order = np.concatenate([order[whole_levels[order]], order[~whole_levels[order]]])
    rows, out = np.sort(order[held:]), np.sort(order[:held])
    count = round(len(rows) / _WINDOW) if len(rows) >= 2 * _WINDOW else 1
    whole = kept(problem.data, rows) if count == 1 else None

    def at(number: int) -> Any:
        if whole is not None:
            return whole
        shuffled = np.random.default_rng([seed, 2, number // count]).permutation(rows)
        return kept(problem.data, np.sort(np.array_split(shuffled, count)[number % count]))

    unseen = {
        name: np.bincount(own[rows], minlength=levels) == 0 for name, (own, levels) in codes.items()
    }
    return Windows(count, len(rows), kept(problem.data, out) if held else None, unseen, at)


def _codes(problem: Problem) -> dict[str, tuple[NDArray[np.int64], int]]:
    """The level of each row and the number of levels, by the name of the grouping."""
    return {
        block.grouping: (np.asarray(block.codes, np.int64), block.levels)
        for block in problem.unit_blocks().values()
        if block is not None and block.codes is not None
    }


def _whole_levels(
    codes: Mapping[str, tuple[NDArray[np.int64], int]], n: int, most: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which rows are of levels that are held out as a whole.

    Of each grouping levels are drawn until its share of the rows is full; a level with more rows
    than that stays.
    """
    able = [name for name, (_, levels) in codes.items() if levels >= _LEAST_LEVELS]
    held = np.zeros(n, bool)
    for name in able:
        own, levels = codes[name]
        sizes = np.bincount(own, minlength=levels)
        drawn = rng.permutation(levels)
        drawn = drawn[(sizes[drawn] > 0) & (sizes[drawn] <= most / len(able))]
        drawn = drawn[np.cumsum(sizes[drawn]) <= most / len(able)]
        held |= np.isin(own, drawn)
    return held


def _streamed(problem: Problem, seed: int) -> Windows:
    """One window ahead is read while the one before it is used."""
    count, reader = problem.windows, ThreadPoolExecutor(1)
    ahead: dict[int, Future] = {}

    def read(number: int) -> Any:
        return problem.window(seed + number // count, number % count)

    def at(number: int) -> Any:
        found = ahead.pop(number, None) or reader.submit(read, number)
        ahead.clear()
        ahead[number + 1] = reader.submit(read, number + 1)
        return found.result()

    held = len(problem.data[1].value)
    return Windows(count, problem.n - held, problem.data, {}, at)


def kept(data: Any, rows: Any) -> Any:
    """Some of the rows."""
    return jax.tree.map(lambda a: np.asarray(a)[rows], data)
