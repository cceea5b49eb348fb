"""How many threads BLAS takes.

NumPy and SciPy bring a pool of BLAS threads each, and a thread that has nothing to do waits in
a loop. Where calls to the two alternate on few cores, or others are at work, they wait for each
other: on two busy cores InstEval's likelihood took twenty times as long to maximise, and on
two idle ones half as long again. Only large matrices are worth it.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController

# Columns of a matrix whose factorization takes seconds on one core.
_LARGE = 4_000


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
