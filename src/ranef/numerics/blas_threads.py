"""How many threads BLAS takes, and what goes side by side instead.

NumPy and SciPy bring a pool of BLAS threads each, and a thread that has nothing to do waits in
a loop. Where calls to the two alternate on few cores, or others are at work, they wait for each
other: on two busy cores InstEval's likelihood took twenty times as long to maximise, and on
two idle ones half as long again. Only large matrices are worth it.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
R = TypeVar("R")

# Columns of a matrix whose factorization takes seconds on one core.
_LARGE = 4_000
# Not every system tells which cores a process may use.
_AFFINITY = hasattr(os, "sched_getaffinity")


@functools.cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def threads_for(columns: int) -> Iterator[None]:
    """One BLAS thread for matrices of so many columns, unless they are large."""
    if columns >= _LARGE:
        yield
        return
    with _pools().limit(limits=1, user_api="blas"):
        yield


def side_by_side(call: Callable[[T], R], items: Iterable[T], columns: int) -> list[R]:
    """`call` of each item, in order, on as many threads as there are cores.

    For work on matrices of so many columns, under `threads_for` them: large ones go one after
    the other, since each takes all the cores, and all the memory.
    """
    items = list(items)
    cores = min(len(items), len(os.sched_getaffinity(0)) if _AFFINITY else os.cpu_count() or 1)
    if cores < 2 or columns >= _LARGE:
        return [call(item) for item in items]
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(call, items))
