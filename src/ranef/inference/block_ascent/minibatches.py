"""Minibatches, held-out rows and the learning rate schedule for training networks.

Two kinds of rows are held out: single rows, whose levels also have training rows, and all rows of
some levels of groupings. In rows of known levels, group effects can make up for a mean that the
networks have not learned; in rows of unseen levels they cannot.
"""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.inference.block_ascent.parameter_expansion import UnseenLevels
from ranef.lazy import jax
from ranef.numerics.shapes import Bool, Int, Shaped
from ranef.program.problem import Problem
from ranef.program.training import Rows

_Tree = TypeVar("_Tree")
# The level of each row and the number of levels, by grouping.
_Codes = Mapping[str, tuple[Int[NDArray[np.int64], "n"], int]]

# Minimal number of rounds if every round has all rows.
ROUNDS = 30
# Passes over 100,000 rows; for n rows the number is this times sqrt(100,000 / n), within bounds.
_PASSES = 30.0
# Maximal number of passes.
_MOST_PASSES = 300.0
# Minimal number of passes.
_LEAST_PASSES = 3.0
# Highest learning rate of Adam.
RATE = 0.005
# Share of the schedule over which the learning rate rises linearly.
_RISE = 0.05
# Share of the schedule that is its last part, to which a search skips once its held-out error no
# longer falls.
LAST = 0.25


def batch_size(n: int) -> int:
    """Rows of a minibatch: the power of two nearest to 1.8 sqrt(n), from 32 to 4,096."""
    return int(2 ** np.clip(round(math.log2(1.8 * math.sqrt(n))), 5, 12))


def passes(n: int, predicted: int = 1) -> float:
    """Number of passes over the rows for training.

    The number grows with the number of parameters predicted by networks, because what one of them
    should learn depends on the others: the share of a mixture component, for example, on its mean.

    Args:
        n: number of rows.
        predicted: number of family parameters that networks predict.
    """
    alone = float(np.clip(_PASSES * math.sqrt(1e5 / n), _LEAST_PASSES, _MOST_PASSES))
    return alone * predicted


def rate(done: float) -> float:
    """Learning rate as a share of the highest: a linear rise times a cosine decay to zero.

    Args:
        done: share of the schedule that is done, from 0 to 1.
    """
    return min(1.0, (done + 1e-9) / _RISE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


# Share of the rows that is held out, if the rows are in memory.
_HELD_OUT = 0.1
# Maximal number of held-out rows. More would only make a round slower.
_MOST_HELD_OUT = 200_000
# With fewer rows than this, none are held out, because all are needed for training.
_LEAST_ROWS = 50
# Maximal share of the held-out rows that belong to whole held-out levels, all groupings together.
_BY_LEVEL = 0.5
# A grouping with fewer levels than this has none held out, because each level carries much of the
# information about its sd.
_LEAST_LEVELS = 20
# Approximate rows of a window, if there are at least twice as many rows; otherwise one window has
# all rows.
_WINDOW = 1_000_000


@dataclass(frozen=True)
class Windows:
    """The training rows of a problem in windows, and its held-out rows.

    Attributes:
        count: number of windows that make one pass.
        n: number of training rows.
        held: the held-out rows, None if there are none.
        unseen: whether no training row has a level, by grouping; empty if the rows are read
            in batches.
        at: function from the number of a window, counted over all passes, to its rows.
    """

    count: int
    n: int
    held: Rows | None
    unseen: UnseenLevels
    at: Callable[[int], Rows]

    @classmethod
    def of(cls, problem: Problem, seed: int) -> "Windows":
        """The windows of a problem; the seed determines their order and the held-out rows."""
        return _streamed(problem, seed) if problem.windows else _in_memory(problem, seed)


def _in_memory(problem: Problem, seed: int) -> Windows:
    """Windows of rows in memory, shuffled anew in each pass."""
    n = problem.n
    held = min(int(_HELD_OUT * n), _MOST_HELD_OUT) if n >= _LEAST_ROWS else 0
    rng = np.random.default_rng([seed, 0])
    order = rng.permutation(n)
    codes = _codes(problem)
    whole_levels = _whole_levels(codes, n, int(_BY_LEVEL * held), rng)
    # Hold out rows of whole levels first, then single rows up to the number wanted.
    order = np.concatenate([order[whole_levels[order]], order[~whole_levels[order]]])
    rows, out = np.sort(order[held:]), np.sort(order[:held])
    count = round(len(rows) / _WINDOW) if len(rows) >= 2 * _WINDOW else 1
    whole = kept(problem.data, rows) if count == 1 else None

    def at(number: int) -> Rows:
        if whole is not None:
            return whole
        shuffled = np.random.default_rng([seed, 2, number // count]).permutation(rows)
        return kept(problem.data, np.sort(np.array_split(shuffled, count)[number % count]))

    unseen = {
        name: np.bincount(own[rows], minlength=levels) == 0 for name, (own, levels) in codes.items()
    }
    return Windows(count, len(rows), kept(problem.data, out) if held else None, unseen, at)


def _codes(problem: Problem) -> _Codes:
    """The level of each row and the number of levels, by grouping."""
    return {
        block.grouping: (np.asarray(block.codes, np.int64), block.levels)
        for block in problem.unit_blocks().values()
        if block is not None and block.codes is not None
    }


def _whole_levels(
    codes: _Codes, n: int, most: int, rng: np.random.Generator
) -> Bool[NDArray[np.bool_], "{n}"]:
    """Whether a row belongs to a level that is held out as a whole.

    Each grouping with enough levels gets an equal share of `most` rows. Its levels are drawn at
    random while their rows stay within this share; a level with more rows than that is not drawn.

    Args:
        codes: level of each row and number of levels, by grouping.
        n: number of rows.
        most: maximal number of rows.
        rng: random number generator.
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
    """Windows read from a stream; a thread reads the next one while a round uses the current."""
    count, reader = problem.windows, ThreadPoolExecutor(1)
    ahead: dict[int, Future[Rows]] = {}

    def read(number: int) -> Rows:
        return problem.window(seed + number // count, number % count)

    def at(number: int) -> Rows:
        found = ahead.pop(number, None) or reader.submit(read, number)
        ahead.clear()
        ahead[number + 1] = reader.submit(read, number + 1)
        return found.result()

    held = problem.data.n
    return Windows(count, problem.n - held, problem.data, {}, at)


def kept(data: _Tree, rows: Shaped[NDArray, "_"]) -> _Tree:
    """The rows of a tree of arrays at the indices `rows`, or where a mask `rows` is true."""
    return jax.tree.map(lambda a: np.asarray(a)[rows], data)
