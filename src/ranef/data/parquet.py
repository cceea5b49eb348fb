"""Batches of the rows of Parquet files, in order or in random windows.

`Batches` reads the rows in order, batch by batch, any number of times. A window is a random set of
pieces of the files (row groups, or slices of large ones) with its rows in random order; the
windows of one seed hold every row once. Memory is bounded by the size of a batch.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import dataset

from ranef.data import array_columns
from ranef.data.frame import Frame
from ranef.data.tables import chosen, from_arrow, kind_of
from ranef.errors import FileError, first_line
from ranef.files.atomic_write import refuse_special

# Largest number of rows in a batch.
BATCH = 1_000_000
# Largest number of values (rows x values per row) in a batch.
_CELLS = 16_000_000
# Smallest number of rows in a batch, whatever the number of values per row.
_LEAST = 20_000


@dataclass(frozen=True)
class Batches:
    """The rows of Parquet files in batches; every iteration reads the files anew.

    Attributes:
        path: path of the file or folder.
        columns: names of the columns that are read.
        missing: texts that stand for a missing level.
        n: total number of rows.
        size: smallest number of rows in a batch, except the last.
    """

    path: Path
    columns: tuple[str, ...]
    missing: tuple[str, ...]
    n: int
    size: int

    @property
    def source(self) -> str:
        """The quoted path, for messages."""
        return repr(str(self.path))

    def __iter__(self) -> Iterator[Frame]:
        parts: list[pa.RecordBatch] = []
        held = first = 0
        try:
            stored = dataset.dataset(self.path, format="parquet")
            batches = stored.to_batches(
                columns=list(self.columns),
                batch_size=self.size,
                batch_readahead=1,
                fragment_readahead=1,
            )
            for batch in batches:
                parts.append(batch)
                held += batch.num_rows
                if held >= self.size:
                    yield self._frame(parts, first, held)
                    first, held, parts = first + held, 0, []
            if held:
                yield self._frame(parts, first, held)
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"{self.source} cannot be read: {first_line(error)}") from None

    def _frame(self, parts: list[pa.RecordBatch], first: int, n: int) -> Frame:
        """The frame of n rows, of which the first is row `first` of the whole table."""
        frame = from_arrow(pa.Table.from_batches(parts), self.source)
        return replace(frame, missing=self.missing, rows=np.arange(first, first + n))

    @cached_property
    def _pieces(self) -> list[tuple[dataset.ParquetFileFragment, int, int, int]]:
        """Row groups, large ones in slices: (group, first row of the group, start, rows)."""
        out, first = [], 0
        stored = dataset.dataset(self.path, format="parquet")
        for file in stored.get_fragments():
            for group in file.split_by_row_group():
                n = group.row_groups[0].num_rows
                for start in range(0, n, self.size):
                    out.append((group, first, start, min(self.size, n - start)))
                first += n
        return out

    @property
    def windows(self) -> int:
        """Number of windows: about n / size, at most one for each piece."""
        return max(1, min(len(self._pieces), round(self.n / self.size)))

    def window(self, seed: int, number: int) -> Frame:
        """The rows of one window in random order.

        Args:
            seed: seed of the random order. The windows of one seed hold every row once.
            number: number of the window, from 0 to `windows` - 1.

        Raises:
            FileError: for a file that cannot be read.
        """
        order = np.random.default_rng([seed, 0]).permutation(len(self._pieces))
        own = np.array_split(order, self.windows)[number]
        tables, rows = [], []
        try:
            for place in np.sort(own):
                group, first, start, n = self._pieces[place]
                tables.append(_sliced(group, list(self.columns), start, n))
                rows.append(np.arange(first + start, first + start + n))
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"{self.source} cannot be read: {first_line(error)}") from None
        shuffled = np.random.default_rng([seed, 1, number]).permutation(sum(map(len, rows)))
        whole = pa.concat_tables(tables)
        # Arrow's `take` is not implemented for some of the types that `usual` converts.
        columns = {name: array_columns.usual(whole.column(name)) for name in whole.column_names}
        frame = from_arrow(pa.table(columns).take(pa.array(shuffled)), self.source)
        return replace(frame, missing=self.missing, rows=np.concatenate(rows)[shuffled])


def _sliced(group: dataset.ParquetFileFragment, columns: list[str], start: int, n: int) -> pa.Table:
    """Some rows of a row group, read without holding the whole group in memory."""
    if start == 0 and n == group.row_groups[0].num_rows:
        return group.to_table(columns=columns)
    parts, before = [], 0
    for batch in group.to_batches(columns=columns, batch_readahead=1):
        low, high = max(start - before, 0), min(start + n - before, batch.num_rows)
        if high > low:
            parts.append(batch.slice(low, high - low))
        before += batch.num_rows
        if before >= start + n:
            break
    return pa.Table.from_batches(parts)


def batches(data: object, columns: Sequence[str], missing: Sequence[str] = ()) -> Batches | None:
    """The rows of a Parquet file or folder in batches.

    Args:
        data: as for `ranef.data.tables.read`.
        columns: names of the columns to read.
        missing: texts that stand for a missing level.

    Returns:
        None for other data, and if all rows fit into one batch.

    Raises:
        FileError, ColumnError: as `read`.
    """
    if not isinstance(data, (str, os.PathLike)):
        return None
    path = Path(data)
    refuse_special(path)
    try:
        if not path.exists() or kind_of(path) != "parquet":
            return None
    except OSError:  # `read` will report what is wrong with the path
        return None
    try:
        stored = dataset.dataset(path, format="parquet")
        wanted = tuple(chosen(stored.schema.names, columns, repr(str(path))))
        n, cells = stored.count_rows(), _cells(stored, wanted)
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{str(path)!r} cannot be read: {first_line(error)}") from None
    size = min(BATCH, max(_LEAST, _CELLS // max(1, cells)))
    return Batches(path, wanted, tuple(missing), n, size) if n > size else None


def _cells(stored: dataset.Dataset, columns: Sequence[str]) -> int:
    """Number of values per row; the sizes of arrays in columns are those in the first row."""
    held = [name for name in columns if array_columns.holds_arrays(stored.schema.field(name).type)]
    first = stored.head(1, columns=held) if held else None
    sizes = (
        [np.size(array_columns.of_arrow(name, first.column(name))) for name in held]
        if first
        else []
    )
    return len(columns) - len(held) + sum(sizes)
