"""What a program learns from its training rows, and those rows as it takes them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.data.complete_cases import CompleteCases
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families.base import ResponseDesign
from ranef.lazy import jax
from ranef.priors import Prior
from ranef.terms.base import Design

# Term label to the term's design; a minibatch indexes every leaf.
Designs = Mapping[str, Design]

# Rows of the training table that are kept as they were read.
SAMPLE = 20_000


@dataclass(frozen=True)
class TrainingState:
    """What was learned from the training rows.

    Attributes:
        terms: term label to the term's state.
        family: the family's state.
        priors: every parameter that takes a prior, the user's or the default.
        scales: family parameter to the scale of its predictor.
        columns: each column whose missing values are parameters to the state of its family.
        gaps: how many rows have such a value.
    """

    terms: Mapping[str, Any]
    family: Any
    priors: Mapping[str, Prior]
    scales: Mapping[str, Scale]
    columns: Mapping[str, Any] = field(default_factory=dict)
    gaps: int = 0


@runtime_checkable
class Stream(Protocol):
    """Rows that are too many to be held."""

    @property
    def windows(self) -> int:
        """How many windows there are."""
        ...

    def of(self, state: "TrainingState") -> "Stream":
        """The rows as a program with another state takes them."""
        ...

    def parts(self) -> Iterator[tuple[Designs, ResponseDesign]]:
        """Every row that is used, in batches, in order."""
        ...

    def window(self, seed: int, number: int) -> tuple[Designs, ResponseDesign]:
        """Rows in random order, none of the sample's; all windows of a seed hold each once."""
        ...


@dataclass(frozen=True)
class Training:
    """The training rows as the program takes them.

    Attributes:
        state, designs, response: what was learned, and every row that is used.
        rows: what became of the rows of the table.
        sample: the used rows as they were read, or evenly spaced ones where there are many:
            for pictures, and for what is typical of a column.
        stream: where the rows are too many to be held, what goes through all of them;
            `designs` and `response` are then those of `sample`.
    """

    state: TrainingState
    designs: Designs
    response: ResponseDesign
    rows: CompleteCases
    sample: Frame
    stream: Stream | None = None

    @property
    def held(self) -> int:
        """How many rows `designs` and `response` have."""
        return len(self.response.value)

    def parts(self) -> Iterator[tuple[Designs, ResponseDesign]]:
        """Every row that is used, in batches."""
        if self.stream is None:
            yield self.designs, self.response
        else:
            yield from self.stream.parts()


def evenly(n: int) -> NDArray[np.int64]:
    """Places of the rows of the sample among n."""
    return np.unique(np.linspace(0, n - 1, SAMPLE).astype(np.int64))


def length(designs: Designs) -> int:
    """The number of rows."""
    return len(next(iter(jax.tree.leaves(designs))))
