"""Codes the rows of a table by level: known levels by their place in a list, new ones after them.

The levels of several columns are crossed first.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ranef.data.array_columns import holds_text, pc, to_numpy
from ranef.data.frame import Frame
from ranef.data.level_names import as_one_time
from ranef.data.levels import Levels
from ranef.errors import DataError
from ranef.numerics.shapes import Int

# A date as text.
_DAY = re.compile(r"\d{4,}-\d\d-\d\d")
# A point in time as text, with or without a fraction of a second and a zone.
_TIME = re.compile(r"\d{4,}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


class NameIndex:
    """Positions of names in a list, for looking up many names at once.

    Args:
        names: the list, without repetitions.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = pa.array(list(names), pa.string())
        first = self._names[0].as_py() if len(self._names) else ""
        # In older saved fits, points in time can be written in other notations.
        self._of_times = bool(_TIME.fullmatch(first)) or bool(_DAY.fullmatch(first))

    def places(self, names: Iterable[str]) -> Int[NDArray, "m"]:
        """Position of each name, -1 for a name that is not in the list.

        Points in time are found in any notation.
        """
        wanted = pa.array(list(names), pa.string())
        found = pc.index_in(wanted, value_set=self._names)
        if found.null_count and self._of_times:
            again = pc.index_in(as_one_time(wanted), value_set=as_one_time(self._names))
            found = pc.coalesce(found, again)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)

    def codes(self, frame: Frame, name: str) -> Int[NDArray, "n"] | None:
        """Position of each row's level, by a fast look-up of a text column.

        Returns:
            None if the column is no plain text column, or if some row's level is missing or not
            in the list.
        """
        values = frame.column(name)
        if frame.untyped or frame.missing or isinstance(values, np.ndarray):
            return None
        if pa.types.is_dictionary(values.type) or not holds_text(values.type):
            return None
        found = pc.index_in(values.cast(pa.string()), value_set=self._names)
        return None if found.null_count else to_numpy(found, np.int32)

    def coded(
        self, frame: Frame, names: Sequence[str]
    ) -> tuple[Int[NDArray, "n"], tuple[str, ...]]:
        """Codes of the rows' levels, combined over the columns `names`, and the new levels.

        The code of a known level is its position in the list. The codes of new levels follow.

        Raises:
            DataError: for a row without a level.
        """
        known = self.codes(frame, names[0]) if len(names) == 1 else None
        if known is not None:
            return known, ()
        found = crossed_levels(frame, names)
        place = self.places(found.names)
        present = found.present()
        unseen = present[place[present] < 0]
        new = tuple(found.names[unseen])
        place[unseen] = len(self._names) + np.arange(len(new))
        codes = np.append(place, -1).astype(np.int32)[found.codes]
        if (codes < 0).any():
            row = frame.row_number(int(np.argmax(codes < 0)))
            raise DataError(
                f"the grouping {':'.join(names)!r} is missing in row {row}; fill or drop it"
            )
        return codes, new


def crossed_levels(frame: Frame, names: Sequence[str]) -> Levels:
    """The levels of one column, or the combined levels "a:b" of several columns."""
    columns = tuple(frame.levels(name) for name in names)
    first, *others = columns
    # The levels that a combination consists of are kept only if their order matters.
    declared = bool(others) and any(column.declared for column in columns)
    cells = [(name,) for name in first.names] if declared else []
    for level, other in enumerate(others, start=1):
        size = len(other.names)
        pairs = first.codes.astype(np.int64) * size + other.codes
        pairs[(first.codes < 0) | (other.codes < 0)] = -1
        seen, codes = np.unique(pairs, return_inverse=True)
        if len(seen) and seen[0] == -1:
            seen, codes = seen[1:], codes - 1
        joined = [
            f"{_joinable(first.names[p // size], level > 1)}:{_joinable(other.names[p % size])}"
            for p in seen
        ]
        cells = [(*cells[p // size], other.names[p % size]) for p in seen] if declared else []
        first = Levels(codes.astype(np.int32), np.array(joined, dtype=object))
    return replace(first, columns=columns, cells=tuple(cells)) if declared else first


def _joinable(name: object, joined: bool = False) -> str:
    """A level as a part of "a:b", in backticks if it contains a ":" itself."""
    text = str(name)
    return f"`{text}`" if ":" in text and not joined else text
