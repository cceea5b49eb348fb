"""A model learned from batches of rows that are never held together.

The batches are gone through twice for what the program learns, levels and transforms first,
means and sds then, and as often as the method asks after that: once for the cross-products of
the exact method. A sample of the rows stays, for pictures.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ranef.data.complete_cases import CompleteCases, gaps, refuse_none
from ranef.data.frame import Frame
from ranef.data.parquet import Batches
from ranef.data.tables import concatenate
from ranef.families.base import ResponseDesign
from ranef.program import learning
from ranef.program.program import Program
from ranef.program.training import Designs, Training, TrainingState, evenly


class _CompleteBatches:
    """The rows without a gap, batch by batch, as often as they are gone through.

    The first time counts them and the second takes the sample.
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
        bar = tqdm(
            total=self.batches.n,
            desc=f"reading, pass {self._passes}",
            unit="row",
            unit_scale=True,
            disable=not self.progress,
            leave=False,
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
    """The rows without a gap, batch by batch, as often as they are gone through."""
    return _CompleteBatches(program, batches, progress)


def learn(program: Program, batches: Batches, *, progress: bool) -> Training:
    """What `Program.learn` says, from batches.

    Raises:
        DataError, ColumnError, OptionError: as it does.
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
    """The rows of a program, batch by batch in their order or window by window in none."""

    program: Program
    state: TrainingState
    complete: _CompleteBatches

    @property
    def windows(self) -> int:
        return self.complete.batches.windows

    def of(self, state: TrainingState) -> "_Stream":
        """The rows as a program with another state takes them."""
        return replace(self, state=state)

    def parts(self) -> Iterator[tuple[Designs, ResponseDesign]]:
        for frame in self.complete:
            yield self._rows(frame)

    def window(self, seed: int, number: int) -> tuple[Designs, ResponseDesign]:
        frame = self.complete.batches.window(seed, number)
        whole, _ = gaps(frame, self.complete.needs)
        sampled = np.concatenate(self.complete.sampled)
        return self._rows(frame.keep(whole & ~np.isin(np.asarray(frame.rows), sampled)))

    def _rows(self, frame: Frame) -> tuple[Designs, ResponseDesign]:
        program, state = self.program, self.state
        return program.designs(state, frame), program.family.design(state.family, frame)
