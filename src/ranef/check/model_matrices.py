"""The columns of a fit's model matrices, term by term.

The matrices of all common effects are covered, and of those group effects that have one scale for
each column.
A block knows which of its columns are zero, constant or indicators of empty cells.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.cells import Cell, empty_cells
from ranef.formula import model_matrix
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.terms.blocks import LinearBlock


@dataclass(frozen=True)
class ModelMatrixBlock:
    """The columns of one term's model matrix.

    Attributes:
        labels: names of the columns.
        columns: the columns.
        codings: the coded products of variables that make up the columns, in order; () if they
            are not known.
        intercept: index of the intercept, or None.
        intercept_label: name of the intercept in messages.
        fixed: indices of columns whose coefficient is fixed by the user.
        matrix: how the columns are made from the rows; None if that is not known.
    """

    labels: Sequence[str]
    columns: Float[NDArray, "n k"]
    codings: tuple[model_matrix.Coding, ...]
    intercept: int | None
    intercept_label: str
    fixed: frozenset[int]
    matrix: model_matrix.ModelMatrix | None = None

    @property
    def has_intercept(self) -> bool:
        return self.intercept is not None

    @property
    def free(self) -> list[int]:
        """Indices of columns with a coefficient to estimate, without the intercept."""
        every = range(self.columns.shape[1])
        return [i for i in every if i != self.intercept and i not in self.fixed]

    @property
    def zeros(self) -> list[int]:
        """Indices of free columns that are zero in every row."""
        return [i for i in self.free if not self.columns[:, i].any()]

    @property
    def constants(self) -> list[int]:
        """Indices of free columns that do not vary, if there is an intercept."""
        if not self.has_intercept:
            return []
        away = np.ptp(self.columns, axis=0)
        size = np.abs(self.columns).max(axis=0)
        return [i for i in self.free if size[i] > 0 and away[i] <= 1e-11 * size[i]]

    @property
    def tested(self) -> list[int]:
        """Indices of columns to test for collinearity: free, not zero and not constant."""
        left_out = {*self.zeros, *self.constants}
        return [i for i in self.free if i not in left_out]

    @cached_property
    def cells(self) -> dict[str, list[Cell]]:
        """Cells without rows, by the name of their interaction."""
        return empty_cells(self.codings, self.columns)

    @property
    def named_in_cells(self) -> set[int]:
        """Indices of columns that are indicators of an empty cell, or of one within it."""
        cells = {frozenset(cell) for own in self.cells.values() for cell in own}
        return {
            i
            for i, place in enumerate(_places(self.codings))
            for size in range(2, len(place) + 1)
            for part in combinations(place, size)
            if frozenset(part) in cells
        }

    @property
    def explained(self) -> set[int]:
        """Indices of columns whose collinearity follows from empty cells.

        They are the columns of the factors of an interaction that has empty cells.
        """
        factors = {
            frozenset(factor for factor, _ in cell) for own in self.cells.values() for cell in own
        }
        return {
            i
            for i, place in enumerate(_places(self.codings))
            if place and any({factor for factor, _ in place} <= own for own in factors)
        }


def _places(codings: Sequence[model_matrix.Coding]) -> list[set[tuple[str, str | None]]]:
    """The (factor, level) pairs of which each column is the indicator.

    The level is None for contrasts other than treatment contrasts, which are no indicators.
    """
    out: list[set[tuple[str, str | None]]] = []
    for coding in codings:
        own: list[set[tuple[str, str | None]]] = [set()]
        for part in coding.parts:
            key, known = str(part.expression), part.has_indicators
            names: list[set[tuple[str, str | None]]]
            names = [{(key, n if known else None)} if part.levels else set() for n in part.names]
            own = [a | b for a in own for b in names]
        out += own
    return out


def common_blocks(posterior: Posterior) -> Iterator[ModelMatrixBlock]:
    """The columns of each block of common effects."""
    known, family = posterior.training.state.priors, posterior.program.family
    for term, block in _blocks(posterior):
        if block.codes is not None:
            continue
        labels = _labels(posterior, block)
        sites = [name for name, count in block.sites for _ in range(count)]
        fixed = {i for i, name in enumerate(sites) if isinstance(known.get(name), priors.Fixed)}
        # The intercept of an ordinal model is fixed at zero, and the thresholds take its place. An
        # intercept that the user has fixed does not count: a constant column is then identified.
        places = [
            i
            for i, name in enumerate(sites)
            if name.endswith("Intercept") and (i not in fixed or not family.intercept)
        ]
        intercept = places[0] if places else None
        name = "" if intercept is None else labels[intercept]
        name = "the thresholds" if intercept in fixed else name
        yield ModelMatrixBlock(
            labels,
            np.asarray(block.columns, np.float64),
            _codings(posterior, term, len(labels)),
            intercept,
            name,
            frozenset(fixed - {intercept}),
            _matrix(posterior, term, len(labels)),
        )


def group_blocks(posterior: Posterior) -> Iterator[ModelMatrixBlock]:
    """The columns of each block of group effects that has one scale for each column."""
    for term, block in _blocks(posterior):
        if block.codes is None or len(block.scales) != block.columns.shape[1]:
            continue
        labels = [name.removesuffix("_sigma") for name in block.scales]
        place = intercept_of(block)
        yield ModelMatrixBlock(
            labels,
            np.asarray(block.columns, np.float64),
            _codings(posterior, term, len(labels)),
            place,
            "" if place is None else labels[place],
            frozenset(),
        )


def intercept_of(block: LinearBlock) -> int | None:
    """The index of the varying intercept among the block's columns, or None."""
    return next(
        (
            i
            for i, name in enumerate(block.scales)
            if name.endswith(f"1|{block.grouping}_sigma") and np.all(block.columns[:, i] == 1)
        ),
        None,
    )


def _blocks(posterior: Posterior) -> Iterator[tuple[str, LinearBlock]]:
    """Label and block of every term whose coefficients belong to columns of a model matrix."""
    problem = posterior.written_problem
    for term, block in problem.unit_blocks().items():
        if block is None or not block.sites:
            continue
        if block.codes is not None and block.grouping:
            yield term, block
        elif (
            block.codes is None
            and not block.scales
            and all(name in posterior.variables for name, _ in block.sites)
        ):
            yield term, block  # left out: blocks without such columns, as weights of networks


def _matrix(posterior: Posterior, term: str, width: int) -> model_matrix.ModelMatrix | None:
    """The model matrix of a term, or None if it has none of that width."""
    learned = getattr(posterior.training.state.terms[term], "matrix", None)
    if not isinstance(learned, model_matrix.ModelMatrix):
        return None
    return learned if sum(c.width for c in learned.codings) == width else None


def _codings(posterior: Posterior, term: str, width: int) -> tuple[model_matrix.Coding, ...]:
    """The codings of the columns of a term, or () if it has no model matrix of that width."""
    matrix = _matrix(posterior, term, width)
    return () if matrix is None else matrix.codings


def _labels(posterior: Posterior, block: LinearBlock) -> list[str]:
    return [
        label
        for name, count in block.sites
        for label, _ in posterior.variables[name].elements(name)[:count]
    ]


def common(
    posterior: Posterior, parameter: str | None = None
) -> Iterator[tuple[list[str], Float[NDArray, "n k"]]]:
    """Labels and columns of the blocks of common effects.

    Args:
        posterior: the fit.
        parameter: the family parameter whose predictor they belong to; None for all.

    Yields:
        Labels of the coefficients and columns of each block. If the rows are read in batches,
        each block covers the sample of rows that is kept in memory.
    """
    predicts = posterior.problem.predicts
    for term, block in _blocks(posterior):
        if block.codes is None and parameter in (None, predicts[term]):
            yield _labels(posterior, block), np.asarray(block.columns, np.float64)
