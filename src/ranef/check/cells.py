"""Counts the rows in each cell of interactions of factors, from sums of indicator columns."""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from ranef.formula.model_matrix import Coding
from ranef.numerics.shapes import Float

# A cell of an interaction: one (factor, level) pair for each of its factors.
Cell = tuple[tuple[str, str], ...]

# Largest number of cells of an interaction that is checked.
_MOST = 20_000
# Largest number of cells of an interaction of contrasts other than treatment contrasts, whose
# counts are solved for.
_MOST_SOLVED = 500


def empty_cells(codings: Sequence[Coding], columns: Float[NDArray, "n k"]) -> dict[str, list[Cell]]:
    """Find the cells of interactions that have no rows.

    The number of rows in a cell is the sum of the cell's indicator column. A cell at the reference
    level of a factor has no column. Its count is that of the cell without that factor, less the
    counts of the cells at the factor's other levels. Other contrasts than treatment contrasts have
    no indicator columns. The counts are then the solution of linear equations: each column sums to
    its values in the cells, times the counts.

    Args:
        codings: the coded products of a model matrix, in order.
        columns: the columns of these codings.

    Returns:
        The empty cells by the name of their interaction, without those that lie in an empty cell
        of a lower interaction.
    """
    counts = _Counts(codings, columns)
    out: dict[str, list[Cell]] = {}
    for coding in codings:
        factors = [part for part in coding.parts if part.levels]
        sizes = prod(len(part.levels or ()) for part in factors)
        if len(factors) < 2 or len(factors) < len(coding.parts) or sizes > _MOST:
            continue
        names = [str(part.expression) for part in factors]
        known = [set(cell) for own in out.values() for cell in own]
        cells: list[Cell] = []
        for levels in product(*(part.levels or () for part in factors)):
            cell = tuple(zip(names, levels, strict=True))
            inside = any(set(part) in known for part in _parts(cell))
            if not inside and counts.of(dict(cell)) == 0:
                cells.append(cell)
        if cells:
            out[coding.name] = cells
    return out


def _parts(cell: Cell) -> list[Cell]:
    """The cells of lower interactions, of two factors or more, that contain a cell."""
    return [part for size in range(2, len(cell)) for part in combinations(cell, size)]


class _Counts:
    """Numbers of rows in cells, from the sums of indicator columns.

    Attributes:
        rows: number of all rows.
        sums: number of rows by cell.
        levels: levels by factor, the reference level first.
    """

    def __init__(self, codings: Sequence[Coding], columns: Float[NDArray, "n k"]) -> None:
        self.rows = len(columns)
        self.sums: dict[frozenset[tuple[str, str]], float] = {}
        self.levels: dict[str, tuple[str, ...]] = {}
        sums, start = columns.sum(axis=0), 0
        for coding in codings:
            own = sums[start : start + coding.width]
            start += coding.width
            if any(part.levels is None for part in coding.parts):
                continue
            names = [str(part.expression) for part in coding.parts]
            self.levels |= {str(part.expression): part.levels or () for part in coding.parts}
            if not all(part.has_indicators for part in coding.parts):
                self._solve(coding, codings, sums)
                continue
            for levels, value in zip(product(*(p.names for p in coding.parts)), own, strict=True):
                self.sums[frozenset(zip(names, levels, strict=True))] = float(value)

    def of(self, cell: Mapping[str, str]) -> int | None:
        """The number of rows in a cell, or None if the columns do not determine it."""
        key = frozenset(cell.items())
        if not key:
            return self.rows
        if key not in self.sums:
            # A cell without a column is at the reference level, the first, of some factor.
            factor = next((f for f, level in cell.items() if level == self._first(f)), None)
            if factor is None:
                return None
            rest = self.of({f: level for f, level in cell.items() if f != factor})
            others = [self.of({**cell, factor: level}) for level in self.levels[factor][1:]]
            if rest is None or None in others:
                return None
            self.sums[key] = rest - sum(filter(None, others))
        return round(self.sums[key])

    def _solve(self, coding: Coding, codings: Sequence[Coding], sums: Float[NDArray, "k"]) -> None:
        """Solve for the counts of the cells of an interaction, from the sums of all columns."""
        factors = {str(part.expression): part.levels or () for part in coding.parts}
        cells = list(product(*factors.values()))
        if len(factors) < 2 or len(cells) > _MOST_SOLVED:
            return
        known, values, start = [], [], 0
        for other in codings:
            own = sums[start : start + other.width]
            start += other.width
            if not {str(part.expression) for part in other.parts} <= factors.keys():
                continue
            block = np.ones((len(cells), 1))
            for part in other.parts:
                place = list(factors).index(str(part.expression))
                rows = [(part.levels or ()).index(cell[place]) for cell in cells]
                each = part.by_level[rows]
                block = (block[:, :, None] * each[:, None, :]).reshape(len(cells), -1)
            known.append(own)
            values.append(block)
        matrix = np.concatenate(values, axis=1).T
        if np.linalg.matrix_rank(matrix) < len(cells):
            return
        counts = np.linalg.lstsq(matrix, np.concatenate(known), rcond=None)[0]
        for cell, count in zip(cells, counts, strict=True):
            self.sums[frozenset(zip(factors, cell, strict=True))] = float(count)

    def _first(self, factor: str) -> str | None:
        return self.levels[factor][0] if factor in self.levels else None
