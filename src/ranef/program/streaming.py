"""Training on batches of rows that are never held in memory together.

Preprocessing reads the batches twice: first for levels and transforms, then for means and sds. A
method reads them as often as it needs to after that, the exact method once, for its cross-products.
A sample of the rows is kept, for plots and for typical values of columns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef.data.complete_cases import CompleteCases, gaps, refuse_none
from ranef.data.frame import Frame
from ranef.data.parquet import Batches
from ranef.data.tables import concatenate
from ranef.program import learning
from ranef.program.program import Program
from ranef.program.training import Rows, Training, TrainingState, evenly
from ranef.progress import progress_bar


class _CompleteBatches:
    """Batches of complete cases, which can be iterated over repeatedly.

    The first iteration counts the complete rows; the second one keeps an evenly spaced sample.
    """

    def __init__(self, program: Program, batches: Batches, progress: bool) -> None:
        self.batches, self.progress = batches, progress
        self.needs = program.needs()
        self.rows: CompleteCases | None = None
        self.sample: list[Frame] = []
        self.sampled: list[NDArray[np.int64]] = []
        self._passes = 0

    def __iter__(self) -> Iterator[Frame]:
        self._passes += 1
        places = evenly(self.rows.used) if self.rows and self._passes == 2 else None
        used, dropped = 0, dict.fromkeys(self.needs, 0)
        bar = progress_bar(
            f"reading, pass {self._passes}",
            "rows",
            shown=self.progress,
            total=self.batches.n,
            scaled=True,
        )
        with bar:
            for frame in self.batches:
                whole, missing = gaps(frame, self.needs)
                for name, count in missing.items():
                    dropped[name] += count
                kept = frame.keep(whole)
                if kept.n and places is not None:
                    own = places[(places >= used) & (places < used + kept.n)] - used
                    self.sample.append(kept.take(own))
                    self.sampled.append(np.asarray(kept.rows)[own])
                used += kept.n
                if kept.n:
                    yield kept
                bar.update(frame.n)
        counts = {name: count for name, count in dropped.items() if count}
        self.rows = CompleteCases(self.batches.n, used, counts)
        refuse_none(self.rows, self.batches.source)


def complete_rows(program: Program, batches: Batches, *, progress: bool) -> Iterable[Frame]:
    """Batches of the complete cases, which can be iterated over repeatedly."""
    return _CompleteBatches(program, batches, progress)


def prepare(program: Program, batches: Batches, *, progress: bool) -> Training:
    """Prepare a table that is read in batches for a fit, as `learning.prepare` does in memory.

    Args:
        program: the program.
        batches: batches of rows of the table.
        progress: whether to show a progress bar.

    Returns:
        The training rows, with a stream of all rows; `designs` and `response` are those of the
        sample.

    Raises:
        DataError, ColumnError, OptionError: as `learning.prepare`.
    """
    complete = _CompleteBatches(program, batches, progress)
    state = learning.fit_preprocessing(program, complete)
    sample = concatenate(complete.sample)
    return Training(
        state,
        program.designs(state, sample),
        program.family.design(state.family, sample),
        complete.rows or CompleteCases(0, 0),
        sample,
        _Stream(program, state, complete),
    )


@dataclass(frozen=True)
class _Stream:
    """The rows of a program: batches in the order of the table, or windows in random order."""

    program: Program
    state: TrainingState
    complete: _CompleteBatches

    @property
    def windows(self) -> int:
        """Number of windows that the rows are divided into."""
        return self.complete.batches.windows

    def of(self, state: TrainingState) -> "_Stream":
        """The stream with designs made by another state."""
        return replace(self, state=state)

    def parts(self) -> Iterator[Rows]:
        """All complete rows, batch by batch."""
        for frame in self.complete:
            yield self._rows(frame)

    def window(self, seed: int, number: int) -> Rows:
        """The complete rows of a window that are not in the sample."""
        frame = self.complete.batches.window(seed, number)
        whole, _ = gaps(frame, self.complete.needs)
        sampled = np.concatenate(self.complete.sampled)
        return self._rows(frame.keep(whole & ~np.isin(np.asarray(frame.rows), sampled)))

    def _rows(self, frame: Frame) -> Rows:
        """The rows of `frame` as the program takes them."""
        program, state = self.program, self.state
        return Rows(program.designs(state, frame), program.family.design(state.family, frame))
