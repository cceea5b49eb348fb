"""Limits the threads of BLAS, and runs independent calls in parallel instead.

NumPy and SciPy each have a pool of BLAS threads, and idle threads wait in busy loops. If calls
of the two alternate on few cores, or other processes use the cores, the pools slow each other
down. Maximising the likelihood of the InstEval data took twenty times as long on two busy cores,
and one and a half times as long on two idle ones. BLAS threads are therefore used for large
matrices only.
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

# Number of columns from which a matrix counts as large: its factorization takes seconds on one
# core.
_LARGE = 4_000
# Whether the operating system reports the cores that the process may use.
_AFFINITY = hasattr(os, "sched_getaffinity")


@functools.cache
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def threads_for(columns: int) -> Iterator[None]:
    """A context with a single BLAS thread, unless matrices have many `columns`."""
    if columns >= _LARGE:
        yield
        return
    with _pools().limit(limits=1, user_api="blas"):
        yield


def side_by_side(call: Callable[[T], R], items: Iterable[T], columns: int) -> list[R]:
    """Apply `call` to each item, on as many threads as there are cores.

    It is meant for use within `threads_for(columns)`.

    Args:
        call: the function.
        items: its arguments.
        columns: number of columns of the matrices that a call works on. For large matrices the
            calls run in sequence, because each takes all cores and much memory.

    Returns:
        The results in the order of the items.
    """
    items = list(items)
    cores = min(len(items), len(os.sched_getaffinity(0)) if _AFFINITY else os.cpu_count() or 1)
    if cores < 2 or columns >= _LARGE:
        return [call(item) for item in items]
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(call, items))
