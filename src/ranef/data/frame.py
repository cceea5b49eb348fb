"""`Frame`: a table whose columns can be taken as numbers or as levels.

Columns are held as Arrow arrays, which ``ranef.data.tables`` makes. As numbers, a column is
float64 with NaN for missing values. As levels, it is integer codes, with -1 for missing values, and
the levels' names as texts. Names are the values as written: "007" is not "7", "NA" is a level, and
an id above 2**53 keeps its last digit.
"""

import heapq
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ranef.data.array_columns import ArrowColumn, Column, pc
from ranef.data.row_labels import Labels
from ranef.errors import ColumnError, DataError, suggestion
from ranef.numerics.shapes import Bool, Float, Int, Shaped

_Value = TypeVar("_Value")

# Texts that stand for a missing value in a column of numbers of an untyped file.
NOT_A_NUMBER = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", ".")

_NUMBER = r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|Inf|INF)$"
# Largest share of texts in a numeric column of a file that is taken for typing errors. A column
# with a larger share of texts is a factor.
_FEW = 0.05

_INTEGER = re.compile(r"0|-?[1-9]\d*")

# A number as written for people, with a currency sign, thousands separators or a per cent sign.
_SPOILED = re.compile(
    r"\(?[+-]?\s?[$€£¥]?\s?[+-]?(\d{1,3}([,.'’\s]\d{3})+|\d+)?([.,]\d+)?([eE][+-]?\d+)?"
    r"\s?[%‰$€£¥]?\)?"
)
# A text column with more levels than this, all of them formatted numbers, is no factor.
_MANY_LEVELS = 20

# A date as text.
_DAY = re.compile(r"\d{4,}-\d\d-\d\d")
# A point in time as text, with or without a fraction of a second and a zone.
_TIME = re.compile(r"\d{4,}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


@dataclass(frozen=True)
class Levels:
    """A column as levels.

    Attributes:
        codes: position of each row's level in `names`, -1 for a missing value.
        names: the levels as texts.
        declared: whether the column declares the order of its levels, as ordered categories do.
            `names` are then in this order and include levels without rows.
        columns: for levels combined from several columns, at least one of which declares an
            order: the levels of each of these columns. Empty otherwise.
        cells: for such levels, the names in `columns` that each of `names` is combined from.
    """

    codes: Int[NDArray, "n"]
    names: Shaped[NDArray, "levels"]
    declared: bool = False
    columns: tuple["Levels", ...] = ()
    cells: tuple[tuple[str, ...], ...] = ()

    def present(self) -> Int[NDArray, "present"]:
        """The codes that occur in some row, in increasing order."""
        return np.flatnonzero(np.bincount(self.codes + 1, minlength=len(self.names) + 1)[1:])


@dataclass
class LevelsSeen:
    """The levels of a column, collected over batches of rows.

    Attributes:
        names: the levels that occur in some row.
        orders: the distinct orders that the batches declare, including levels without rows. None
            once a batch with rows declares no order.
        columns: for levels combined from several columns, the levels of each of these columns.
        cells: for such levels, level to its names in `columns`.
    """

    names: set[str] = field(default_factory=set)
    orders: tuple[tuple[str, ...], ...] | None = ()
    columns: tuple["LevelsSeen", ...] = ()
    cells: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, found: Levels) -> "LevelsSeen":
        """The levels of the batches so far and of another batch."""
        places = found.present()
        present = found.names[places].tolist()
        names = self.names | set(present)
        if found.cells:
            known = self.columns or tuple(LevelsSeen() for _ in found.columns)
            columns = tuple(k.add(c) for k, c in zip(known, found.columns, strict=True))
            own = {str(found.names[place]): found.cells[place] for place in places.tolist()}
            return LevelsSeen(names, None, columns, self.cells | own)
        orders = self.orders
        if orders is not None and found.declared:
            order = tuple(found.names.tolist())
            orders = orders if order in orders else (*orders, order)
        elif present:
            orders = None
        return LevelsSeen(names, orders, self.columns, self.cells)

    def ordered(self) -> tuple[str, ...]:
        """The levels that occur, in their declared order, or else sorted by `sorted_levels`.

        Orders of several batches are merged; if they contradict each other, the levels are
        sorted. Combined levels are ordered by their first column, then by the next.
        """
        if self.cells.keys() >= self.names and self.names:
            ranks = [{n: i for i, n in enumerate(column.ordered())} for column in self.columns]

            def place(name: str) -> tuple[int, ...]:
                cell = self.cells[name]
                return tuple(rank[own] for rank, own in zip(ranks, cell, strict=True))

            return tuple(sorted(self.names, key=place))
        order = merged_order(self.orders) if self.orders else None
        if order is None:
            return tuple(sorted_levels(self.names))
        return tuple(name for name in order if name in self.names)


@dataclass(frozen=True)
class Frame:
    """A table of named columns.

    Attributes:
        columns: name to Arrow array; a NumPy array (n, ...) for a column with an array per row.
        n: number of rows.
        source: description of the table for messages, such as a quoted path.
        untyped: whether texts may stand for numbers, as in a CSV file.
        missing: texts that stand for a missing level, as given by the user.
        rows: position of each row in the original table; None if this is that table.
        labels: the row labels of the original table.
    """

    columns: Mapping[str, Column]
    n: int
    source: str
    untyped: bool = False
    missing: tuple[str, ...] = ()
    rows: Int[NDArray, "n"] | None = None
    labels: Labels = field(default_factory=Labels, repr=False, compare=False)
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def column(self, name: str) -> Column:
        """The column as it is held.

        Raises:
            ColumnError: if there is no such column.
        """
        if name not in self.columns:
            raise ColumnError(
                f"column {name!r} is not in {self.source}; {suggestion(name, self.columns)}"
            )
        return self.columns[name]

    def is_text(self, name: str) -> bool:
        """Whether the column holds categories, or texts of which some are not numbers."""
        return self._remember(("is_text", name), lambda: self._is_text(name))

    def _is_text(self, name: str) -> bool:
        values = self.column(name)
        if isinstance(values, np.ndarray) or not _holds_text(values.type):
            return not isinstance(values, np.ndarray) and pa.types.is_dictionary(values.type)
        return not self.untyped or self.n == 0 or bool(_not_numbers(values).any())

    def is_boolean(self, name: str) -> bool:
        """Whether the column holds Booleans."""
        values = self.column(name)
        return not isinstance(values, np.ndarray) and pa.types.is_boolean(values.type)

    def refuse_spoiled_numbers(self, name: str) -> None:
        """Refuse to use a column of numbers formatted as texts, such as "12.5%", as a factor.

        This applies to text columns with many levels, all of which are numbers with a per cent
        sign, a currency sign, separators or a fraction. Whole numbers without these are
        accepted, since ids are often written as texts.

        Raises:
            DataError: naming the first such text and its row.
        """
        values = self.column(name)
        if isinstance(values, np.ndarray) or not _holds_text(values.type):
            return
        if pa.types.is_dictionary(values.type):  # the user has made it a factor
            return
        found = self.levels(name)
        present = [str(found.names[i]).strip() for i in found.present()]
        said = [text for text in present if text not in NOT_A_NUMBER]
        if len(said) <= min(_MANY_LEVELS, self.n / 2) or len(said) < 3:
            return
        if not all(_SPOILED.fullmatch(t) and any(c.isdigit() for c in t) for t in said):
            return
        spoiled = next((text for text in said if not re.fullmatch(r"[+-]?\d+", text)), None)
        if spoiled is None:
            return
        row = int(np.argmax([str(found.names[c]).strip() == spoiled for c in found.codes]))
        raise DataError(
            f"column {name!r} holds numbers written as text, such as {spoiled!r} in row "
            f"{self.row_number(row)}, and would be a factor of {len(said):,} levels; convert it to "
            f"numbers first, or write C({name}) if it is meant as a factor"
        )

    def refuse_stray_texts(self, name: str) -> None:
        """Refuse to use a column of a file as a factor because of a few texts among its numbers.

        Raises:
            DataError: naming the first such text and its row.
        """
        values = self.column(name)
        if not self.untyped or isinstance(values, np.ndarray):
            return
        bad = _not_numbers(values)
        wrong, said = int(bad.sum()), int((~_says_nothing(values)).sum())
        if 0 < wrong <= _FEW * said:
            row = int(np.argmax(bad))
            raise DataError(
                f"column {name!r} holds numbers but for {wrong:,} of {said:,} values, such as "
                f"{str(values[row])!r} in row {self.row_number(row)}; correct them, or write "
                f"C({name}) to use it as a factor"
            )

    def numbers(self, name: str) -> Float[NDArray, "n ..."]:
        """The column as float64, with further axes for an array per row; NaN for missing values.

        Raises:
            DataError: for a text that is no number, naming the first one and its row.
        """
        return self._remember(("numbers", name), lambda: self._numbers(name))

    def _numbers(self, name: str) -> NDArray[np.float64]:
        values = self.column(name)
        if isinstance(values, np.ndarray):
            return values
        if _holds_text(values.type):
            bad = _not_numbers(values) if self.untyped else ~_to_numpy(values.is_null(), bool)
            if bad.any():
                row = int(np.argmax(bad))
                raise DataError(
                    f"column {name!r} holds text where a number is needed, such as "
                    f"{str(values[row])!r} in row {self.row_number(row)}; convert it to numbers, "
                    f"or use the column by itself, as C({name}), for a factor"
                )
            values = _parse_numbers(values)
        elif pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        try:
            values = pc.cast(values, pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f"column {name!r} holds {values.type} where a number is needed; convert it first"
            ) from None
        return _to_numpy(values)

    def levels(self, name: str) -> Levels:
        """The column as levels, whose names are the values as written.

        Points in time are written as by `time_texts`. If the column declares an order of its
        categories, the names are in this order.

        Raises:
            DataError: for a column of arrays, a type that has no text, or floats of 2**53 or more,
                which do not hold all digits of an id.
        """
        return self._remember(("levels", name), lambda: self._levels(name))

    def _levels(self, name: str) -> Levels:
        values = self.column(name)
        if isinstance(values, np.ndarray):
            raise DataError(f"column {name!r} holds arrays and cannot be used as levels")
        orders = _declared_orders(name, values)
        encoded = _combined(values)
        try:
            if not pa.types.is_dictionary(encoded.type):
                encoded = encoded.dictionary_encode()
        except pa.ArrowNotImplementedError:
            raise _not_levels(name, values.type) from None
        names = _level_names(name, encoded.dictionary)
        codes = encoded.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
        # Missing levels are nulls, the texts listed by the user, and empty cells of a file.
        gaps = {None, *self.missing, *([""] if self.untyped else [])}
        keep = np.array([text not in gaps for text in names], dtype=bool)
        if not keep.all() or len(set(names)) < len(names):
            unique = list(dict.fromkeys(t for t, k in zip(names, keep, strict=True) if k))
            place = {text: i for i, text in enumerate(unique)}
            table = np.array([*(place.get(t, -1) for t in names), -1], dtype=np.int32)
            codes, names = table[codes], unique
        found = Levels(codes, np.array(names, dtype=object))
        if len(orders) > 1:
            return _reordered(found, merged_order(orders))
        return replace(found, declared=bool(orders))

    def typed(self, name: str, levels: Iterable[str]) -> pa.ChunkedArray:
        """Levels of a column converted back to the type of the column, as an Arrow array (m,).

        They remain texts if the column holds texts, if there is no such column, or if a level
        cannot be converted without loss.
        """
        texts = pa.chunked_array([pa.array([str(level) for level in levels], pa.string())])
        values = self.columns.get(name)
        if values is None or isinstance(values, np.ndarray) or _holds_text(values.type):
            return texts
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        try:
            found = pc.cast(texts, kind)
            same = _level_names(name, found.combine_chunks()) == texts.to_pylist()
        except (pa.ArrowException, DataError):
            return texts
        return found if same else texts

    def is_missing(self, name: str) -> Bool[NDArray, "n"]:
        """Whether each row's value is missing, NaN included."""
        values = self.column(name)
        if isinstance(values, np.ndarray):
            return np.asarray(np.isnan(values).reshape(self.n, -1).any(axis=1))
        if pa.types.is_dictionary(values.type):
            return self.levels(name).codes < 0
        if _holds_text(values.type) and self.is_text(name):
            return self.levels(name).codes < 0
        if _holds_text(values.type):
            return np.isnan(self.numbers(name))
        return _to_numpy(values.is_null(nan_is_null=True), bool)

    def is_no_level(self, name: str) -> Bool[NDArray, "n"]:
        """Whether each row's level is missing when the column is taken as levels."""
        values = self.column(name)
        if self.untyped or self.missing or isinstance(values, np.ndarray):
            return self.levels(name).codes < 0
        if pa.types.is_dictionary(values.type):
            return self.levels(name).codes < 0
        return _to_numpy(values.is_null(nan_is_null=True), bool)

    def keep(self, mask: Bool[NDArray, "n"]) -> "Frame":
        """The rows for which `mask` is true."""
        if mask.all():
            return self
        arrow = pa.array(mask)
        columns = {
            name: values[mask] if isinstance(values, np.ndarray) else values.filter(arrow)
            for name, values in self.columns.items()
        }
        rows = np.flatnonzero(mask) if self.rows is None else self.rows[mask]
        return replace(self, columns=columns, n=len(rows), rows=rows, _cache={})

    def where(self, name: str, texts: Sequence[str]) -> "Frame":
        """The rows in which a text column has one of the given texts."""
        found = pc.is_in(pc.cast(self.column(name), pa.string()), pa.array(texts, pa.string()))
        return self.keep(_to_numpy(found.fill_null(False), bool))

    def take(self, places: Int[NDArray, "m"]) -> "Frame":
        """The rows at `places`, which may repeat."""
        columns = {
            name: values[places] if isinstance(values, np.ndarray) else values.take(places)
            for name, values in self.columns.items()
        }
        labels = Labels(self.labels.form)
        return replace(self, columns=columns, n=len(places), rows=None, labels=labels, _cache={})

    def rename(self, names: Mapping[str, str]) -> "Frame":
        """The frame with columns renamed by `names` (old to new); other columns are kept."""
        columns = {names.get(name, name): values for name, values in self.columns.items()}
        return replace(self, columns=columns, _cache={})

    def row_number(self, i: int) -> int:
        """The number, from 1, of row `i` in the user's table."""
        return int(i if self.rows is None else self.rows[i]) + 1

    def _remember(self, key: tuple[str, str], compute: Callable[[], _Value]) -> _Value:
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]


def _combined(values: ArrowColumn) -> pa.Array:
    """An Arrow column as a single chunk."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _to_numpy(values: ArrowColumn, dtype: type = np.float64) -> NDArray:
    return np.asarray(_combined(values).to_numpy(zero_copy_only=False), dtype=dtype)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _parse_numbers(values: ArrowColumn) -> ArrowColumn:
    """Texts as numbers; null for a text that stands for a missing value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    blank = pc.is_in(texts, pa.array(NOT_A_NUMBER))
    texts = pc.if_else(blank, pa.scalar(None, pa.string()), texts)
    return pc.cast(texts, pa.float64())


def _not_numbers(values: ArrowColumn) -> Bool[NDArray, "n"]:
    """True for a text that is neither a number nor stands for a missing value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    number = pc.match_substring_regex(texts, _NUMBER).fill_null(False)
    return ~_to_numpy(number, bool) & ~_says_nothing(values)


def _says_nothing(values: ArrowColumn) -> Bool[NDArray, "n"]:
    """True for null and for a text that stands for a missing value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return _to_numpy(pc.is_in(texts, pa.array(NOT_A_NUMBER)).fill_null(True), bool) | _to_numpy(
        values.is_null(), bool
    )


def _declared_orders(name: str, values: ArrowColumn) -> list[tuple[str, ...]]:
    """The distinct orders of levels that the chunks of a column declare."""
    if not pa.types.is_dictionary(values.type) or not values.type.ordered:
        return []
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    listed: list[pa.Array] = []
    for chunk in chunks:
        if not any(chunk.dictionary.equals(known) for known in listed):
            listed.append(chunk.dictionary)
    return [tuple(text for text in _level_names(name, each) if text is not None) for each in listed]


def merged_order(orders: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Merge several orders of levels into one by topological sorting (Kahn, 1962).

    Levels whose order is not determined stand in the order of their first occurrence.

    Returns:
        An order that agrees with all the given ones; None if they contradict each other.
    """
    if len(orders) == 1:
        return orders[0]
    first = {name: i for i, name in enumerate(dict.fromkeys(n for o in orders for n in o))}
    after: dict[str, set[str]] = {name: set() for name in first}
    for order in orders:
        for one, other in pairwise(order):
            after[one].add(other)
    before = dict.fromkeys(first, 0)
    for others in after.values():
        for name in others:
            before[name] += 1
    ready = [(place, name) for name, place in first.items() if not before[name]]
    heapq.heapify(ready)
    out = []
    while ready:
        _, name = heapq.heappop(ready)
        out.append(name)
        for other in after[name]:
            before[other] -= 1
            if not before[other]:
                heapq.heappush(ready, (first[other], other))
    return tuple(out) if len(out) == len(first) else None


def _reordered(found: Levels, order: Sequence[str] | None) -> Levels:
    """The levels with their names in the given order; for None, with no declared order."""
    if order is None:
        return replace(found, declared=False)
    place = {name: i for i, name in enumerate(order)}
    table = np.array([*(place[name] for name in found.names), -1], dtype=np.int32)
    return Levels(table[found.codes], np.array(order, dtype=object), declared=True)


def time_texts(values: pa.Array) -> pa.Array:
    """Points in time as texts that do not depend on their unit and time zone.

    Midnight is "2024-01-01", other times are "2024-01-01 12:30:00", followed by the fraction of a
    second if it is not zero. Times with a zone are written in UTC.
    """
    if values.type.tz is not None:
        values = values.cast(pa.timestamp(values.type.unit))
    texts = values.cast(pa.string())
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, r" 00:00:00$", "")


def _as_one_time(texts: pa.Array) -> pa.Array:
    """Texts of points in time in any of several notations, rewritten as by `time_texts`."""
    texts = pc.replace_substring_regex(texts, r"(Z|\+00:?00)$", "")
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, r"[ T]00:00:00$", "")


def _level_names(column: str, values: pa.Array) -> list[str | None]:
    """Distinct values as texts, None for missing ones.

    Whole floats are written as integers, since pandas turns integers into floats if some are
    missing.
    """
    kind = values.type
    if pa.types.is_floating(kind):
        numbers = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)
        if np.nanmax(np.abs(numbers), initial=0.0) >= 2**53:
            raise DataError(
                f"column {column!r} holds ids of 2**53 or more as floats, which have lost digits; "
                "read it as text or as integers"
            )
        return [
            None if np.isnan(x) else f"{x:.0f}" if x == int(x) else repr(float(x)) for x in numbers
        ]
    if pa.types.is_boolean(kind):
        return [None if v is None else str(v) for v in values.to_pylist()]
    try:
        if pa.types.is_timestamp(kind):
            return time_texts(values).to_pylist()
        return values.cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise _not_levels(column, kind) from None


def _not_levels(column: str, kind: pa.DataType) -> DataError:
    return DataError(
        f"column {column!r} holds {kind}, which cannot be used as levels; convert it to text"
    )


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
            again = pc.index_in(_as_one_time(wanted), value_set=_as_one_time(self._names))
            found = pc.coalesce(found, again)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)

    def codes(self, frame: "Frame", name: str) -> Int[NDArray, "n"] | None:
        """Position of each row's level, by a fast look-up of a text column.

        Returns:
            None if the column is no plain text column, or if some row's level is missing or not
            in the list.
        """
        values = frame.column(name)
        if frame.untyped or frame.missing or isinstance(values, np.ndarray):
            return None
        if pa.types.is_dictionary(values.type) or not _holds_text(values.type):
            return None
        found = pc.index_in(values.cast(pa.string()), value_set=self._names)
        return None if found.null_count else _to_numpy(found, np.int32)

    def coded(
        self, frame: "Frame", names: Sequence[str]
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


def sorted_levels(names: Iterable[str]) -> list[str]:
    """Levels in natural order: by value if all are whole numbers, else alphabetically.

    Upper and lower case matter only for levels that are otherwise the same; lower case comes first,
    as in R.
    """
    listed = list(names)
    # Only texts in the notation of an integer count as whole numbers; "007" does not.
    if all(_INTEGER.fullmatch(name) for name in listed):
        return sorted(listed, key=int)
    return sorted(listed, key=lambda name: (name.casefold(), name.swapcase(), name))
