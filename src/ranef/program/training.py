"""The training rows of a program: their designs, and the state that was learned from them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef.data.complete_cases import CompleteCases
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.families.response_design import ResponseDesign
from ranef.families.state import FamilyState
from ranef.lazy import jax, pytree
from ranef.numerics.shapes import Int
from ranef.priors import Prior
from ranef.terms.base import Design

# Term label to the term's design. A minibatch is a selection of rows of every array in it.
Designs = Mapping[str, Design]

# Largest number of rows in the sample that is kept as read from the table.
SAMPLE = 20_000


@pytree(data=["designs", "response"], meta=[])
@dataclass(frozen=True)
class Rows:
    """Rows of a table as a program takes them: all of a fit, or a batch of them.

    Every leaf of this pytree has the rows as its leading axis.

    Attributes:
        designs: the design of every term, by label.
        response: the response, with weights, trials or standard errors beside it.
    """

    designs: Designs
    response: ResponseDesign

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.response.value)


@dataclass(frozen=True)
class TrainingState:
    """What is learned from the training rows before the fit.

    Attributes:
        terms: term label to the state of the term.
        family: state of the response's family.
        priors: parameter name to its prior, the user's or the default one.
        scales: family parameter to location and sd of its predictor, on the scale of its link.
        columns: incomplete column to the state of its family.
        gaps: number of training rows with a missing value in at least one incomplete column.
    """

    terms: Mapping[str, Any]
    family: FamilyState
    priors: Mapping[str, Prior]
    scales: Mapping[str, Scale]
    columns: Mapping[str, FamilyState] = field(default_factory=dict)
    gaps: int = 0


@runtime_checkable
class Stream(Protocol):
    """Training rows that are read in batches because they do not fit in memory."""

    @property
    def windows(self) -> int:
        """Number of windows that the rows are divided into."""
        ...

    def of(self, state: "TrainingState") -> "Stream":
        """The stream with designs made by another state."""
        ...

    def parts(self) -> Iterator[Rows]:
        """All rows used, in batches, in the order of the table."""
        ...

    def window(self, seed: int, number: int) -> Rows:
        """Rows in random order, without those of the sample.

        The windows of one seed together hold every other row once.
        """
        ...


@dataclass(frozen=True)
class Training:
    """The training rows in the form that the program takes.

    Attributes:
        state: what was learned from the rows.
        designs: designs of the rows used, by term label.
        response: response of the rows used.
        rows: how many rows of the table are used and why others were dropped.
        sample: the rows used, as read from the table, or `SAMPLE` evenly spaced ones where there
            are more. Plots and typical values of columns are based on it.
        stream: reads all rows where they do not fit in memory; `designs` and `response` are then
            those of `sample`. None otherwise.
    """

    state: TrainingState
    designs: Designs
    response: ResponseDesign
    rows: CompleteCases
    sample: Frame
    stream: Stream | None = None

    @property
    def held(self) -> int:
        """Number of rows in `designs` and `response`."""
        return len(self.response.value)

    @property
    def in_memory(self) -> Rows:
        """The rows in `designs` and `response`."""
        return Rows(self.designs, self.response)

    def parts(self) -> Iterator[Rows]:
        """All rows used, in batches."""
        if self.stream is None:
            yield self.in_memory
        else:
            yield from self.stream.parts()


def evenly(n: int) -> Int[NDArray[np.int64], "sample"]:
    """Places of at most `SAMPLE` evenly spaced rows among n."""
    return np.unique(np.linspace(0, n - 1, SAMPLE).astype(np.int64))


def length(designs: Designs) -> int:
    """Number of rows of the designs."""
    return len(next(iter(jax.tree.leaves(designs))))
