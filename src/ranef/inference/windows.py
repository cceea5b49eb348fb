"""The rows a search goes through: windows of them in random order, and some held out."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ranef.inference.base import Problem

# Share of the rows in memory that is held out, how many at most, and from how many rows on.
_HELD_OUT, _MOST_HELD_OUT, _LEAST_ROWS = 0.1, 200_000, 50
# Rows of a window, where rows in memory make several; fewer than twice as many make one.
_WINDOW = 1_000_000


@dataclass(frozen=True)
class Windows:
    """The rows of a problem.

    Attributes:
        count: how many windows make one pass.
        n: rows of a pass.
        held: rows that no window has, None where all are needed.
        at: the rows of any window by its number, counted over all passes.
    """

    count: int
    n: int
    held: Any
    at: Callable[[int], Any]

    @classmethod
    def of(cls, problem: Problem, seed: int) -> "Windows":
        return _streamed(problem, seed) if problem.windows else _in_memory(problem, seed)


def _in_memory(problem: Problem, seed: int) -> Windows:
    n = problem.n
    held = min(int(_HELD_OUT * n), _MOST_HELD_OUT) if n >= _LEAST_ROWS else 0
    order = np.random.default_rng([seed, 0]).permutation(n)
    rows = np.sort(order[held:])
    count = round(len(rows) / _WINDOW) if len(rows) >= 2 * _WINDOW else 1
    whole = kept(problem.data, rows) if count == 1 else None

    def at(number: int) -> Any:
        if whole is not None:
            return whole
        shuffled = np.random.default_rng([seed, 2, number // count]).permutation(rows)
        return kept(problem.data, np.sort(np.array_split(shuffled, count)[number % count]))

    out = kept(problem.data, np.sort(order[:held])) if held else None
    return Windows(count, len(rows), out, at)


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
    return Windows(count, problem.n - held, problem.data, at)


def kept(data: Any, rows: Any) -> Any:
    """Some of the rows."""
    return jax.tree.map(lambda a: np.asarray(a)[rows], data)
