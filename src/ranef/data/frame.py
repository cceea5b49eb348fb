"""Columns as numbers and as levels, and rows without gaps.

Grouping columns are strings as written: "007" is not "7", "NA" is a level, an id above
2**53 keeps its last digit. A number is float64 and missing is NaN, a level is a code and
missing is -1. Columns are held as Arrow arrays; ``ranef.data.tables`` makes them.
"""

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ranef.data.row_labels import Labels
from ranef.errors import ColumnError, DataError, suggestion

# Arrow makes its functions when it is imported, out of sight of type checkers.
pc: Any = pyarrow.compute

# What an untyped text may say instead of a number.
NOT_A_NUMBER = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", ".")

_NUMBER = r"^[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf|Inf|INF)$"
# A column of a file with so small a share of texts among numbers has errors, not levels.
_FEW = 0.05

_INTEGER = re.compile(r"0|-?[1-9]\d*")

# A number as people write it in tables: with a currency, separators, a sign of per cent.
_SPOILED = re.compile(
    r"\(?[+-]?\s?[$€£¥]?\s?[+-]?(\d{1,3}([,.'’\s]\d{3})+|\d+)?([.,]\d+)?([eE][+-]?\d+)?"
    r"\s?[%‰$€£¥]?\)?"
)
# A column with more levels than this, every one a number in disguise, is not meant as a factor.
_MANY_LEVELS = 20

_DAY = re.compile(r"\d{4,}-\d\d-\d\d")
# A point in time as text, with or without a fraction of a second and a zone.
_TIME = re.compile(r"\d{4,}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)?")


@dataclass(frozen=True)
class Levels:
    """A categorical column: `codes` (n,) int32 into `names`, -1 where missing.

    Attributes:
        declared: whether `names` stand in an order that the column declares; they then hold
            levels that no row has, too.
        columns: of levels that several columns form together, some with a declared order, those
            of each of these.
        cells: their names in each of `names`.
    """

    codes: NDArray[np.int32]
    names: NDArray[np.object_]
    declared: bool = False
    columns: tuple["Levels", ...] = ()
    cells: tuple[tuple[str, ...], ...] = ()

    def present(self) -> NDArray[np.int64]:
        """The codes that some row has, in order."""
        return np.flatnonzero(np.bincount(self.codes + 1, minlength=len(self.names) + 1)[1:])


@dataclass
class LevelsSeen:
    """The levels that batches of rows have, and the orders that these batches declare.

    Attributes:
        names: of the levels that some row has.
        orders: different orders, each of levels with or without rows; None as soon as a batch
            with rows declares none.
        columns: of levels that several columns form together, those of each of these.
        cells: by level, its names in these columns.
    """

    names: set[str] = field(default_factory=set)
    orders: tuple[tuple[str, ...], ...] | None = ()
    columns: tuple["LevelsSeen", ...] = ()
    cells: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, found: Levels) -> "LevelsSeen":
        """With the levels of another batch."""
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
        """The levels that some row has, in the declared order; without one as `sorted_levels`.

        Orders of several batches are merged. Where they contradict each other none counts. Levels
        of several columns are ordered by the first, then by the next.
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
    """Named columns of one length, with where they come from for messages.

    Attributes:
        columns: Arrow arrays; numpy arrays where a column holds an array per row.
        untyped: whether the texts may stand for numbers, as in a CSV file.
        missing: texts that stand for a missing level, none unless the user says so.
        rows: where each row stood in the table it was kept from; None for all of them.
        labels: what the rows of that table are called.
    """

    columns: Mapping[str, Any]
    n: int
    source: str
    untyped: bool = False
    missing: tuple[str, ...] = ()
    rows: NDArray[np.int64] | None = None
    labels: Labels = field(default_factory=Labels, repr=False, compare=False)
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def column(self, name: str) -> Any:
        if name not in self.columns:
            raise ColumnError(
                f"column {name!r} is not in {self.source}; {suggestion(name, self.columns)}"
            )
        return self.columns[name]

    def is_text(self, name: str) -> bool:
        """Whether the column holds texts that are not all numbers, or categories."""
        return self._remember(("is_text", name), lambda: self._is_text(name))

    def _is_text(self, name: str) -> bool:
        values = self.column(name)
        if isinstance(values, np.ndarray) or not _holds_text(values.type):
            return not isinstance(values, np.ndarray) and pa.types.is_dictionary(values.type)
        return not self.untyped or self.n == 0 or bool(_not_numbers(values).any())

    def is_boolean(self, name: str) -> bool:
        """Whether the column holds true and false."""
        values = self.column(name)
        return not isinstance(values, np.ndarray) and pa.types.is_boolean(values.type)

    def refuse_spoiled_numbers(self, name: str) -> None:
        """Refuse to take numbers that are written as texts, such as "12.5%", for a factor.

        That is a column of many levels, every one of which reads as a number with a sign of
        per cent, a currency or separators, or with a fraction.

        Raises:
            DataError: naming the first of them and its row.
        """
        values = self.column(name)
        if isinstance(values, np.ndarray) or not _holds_text(values.type):
            return
        if pa.types.is_dictionary(values.type):  # somebody has made a factor of it
            return
        found = self.levels(name)
        present = [str(found.names[i]).strip() for i in found.present()]
        said = [text for text in present if text not in NOT_A_NUMBER]
        if len(said) <= min(_MANY_LEVELS, self.n / 2) or len(said) < 3:
            return
        if not all(_SPOILED.fullmatch(t) and any(c.isdigit() for c in t) for t in said):
            return
        # Whole numbers as texts are what ids are written as.
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
        """Refuse to take a column of a file for a factor because of a few texts among numbers.

        Raises:
            DataError: naming the first of them and its row.
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

    def numbers(self, name: str) -> NDArray[np.float64]:
        """The column as float64, (n,) or (n, ...), NaN where missing.

        Raises:
            DataError: for a text, naming the first one and its row.
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
        """The column as levels, each a string as written; a point in time as `time_texts` does.

        The order of `names` is that of the column's categories where these are declared.

        Raises:
            DataError: for a float that cannot be an id, being above 2**53.
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
        # An empty cell of a file is a gap; so is what the user listed.
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

    def typed(self, name: str, levels: Iterable[str]) -> Any:
        """Levels of a column as values of its type, (m,) Arrow: numbers, dates, true and false.

        Texts, of a column of texts, of one that is not here, and where a level is none of its
        values.
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

    def is_missing(self, name: str) -> NDArray[np.bool_]:
        """(n,) True where the column has no value, NaN included."""
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

    def is_no_level(self, name: str) -> NDArray[np.bool_]:
        """(n,) True where the column, taken as levels, has none."""
        values = self.column(name)
        if self.untyped or self.missing or isinstance(values, np.ndarray):
            return self.levels(name).codes < 0
        if pa.types.is_dictionary(values.type):
            return self.levels(name).codes < 0
        return _to_numpy(values.is_null(nan_is_null=True), bool)

    def keep(self, mask: NDArray[np.bool_]) -> "Frame":
        """The rows where `mask` is true."""
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
        """The rows in which a column of text says one of `texts`."""
        found = pc.is_in(self.column(name).cast(pa.string()), pa.array(texts, pa.string()))
        return self.keep(_to_numpy(found.fill_null(False), bool))

    def take(self, places: NDArray[np.int64]) -> "Frame":
        """The rows at `places`, which may repeat."""
        columns = {
            name: values[places] if isinstance(values, np.ndarray) else values.take(places)
            for name, values in self.columns.items()
        }
        labels = Labels(self.labels.form)
        return replace(self, columns=columns, n=len(places), rows=None, labels=labels, _cache={})

    def rename(self, names: Mapping[str, str]) -> "Frame":
        """Columns under other names; one that is not in `names` keeps its own."""
        columns = {names.get(name, name): values for name, values in self.columns.items()}
        return replace(self, columns=columns, _cache={})

    def row_number(self, i: int) -> int:
        """The number, from 1, that row `i` has in the user's table."""
        return int(i if self.rows is None else self.rows[i]) + 1

    def _remember(self, key: tuple, compute: Any) -> Any:
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]


def _combined(values: Any) -> Any:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _to_numpy(values: Any, dtype: Any = np.float64) -> NDArray:
    return np.asarray(_combined(values).to_numpy(zero_copy_only=False), dtype=dtype)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _parse_numbers(values: Any) -> Any:
    """Texts as numbers, null where they say that there is none."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    blank = pc.is_in(texts, pa.array(NOT_A_NUMBER))
    texts = pc.if_else(blank, pa.scalar(None, pa.string()), texts)
    return pc.cast(texts, pa.float64())


def _not_numbers(values: Any) -> NDArray[np.bool_]:
    """(n,) True for a text that neither is a number nor says that there is none."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    number = pc.match_substring_regex(texts, _NUMBER).fill_null(False)
    return ~_to_numpy(number, bool) & ~_says_nothing(values)


def _says_nothing(values: Any) -> NDArray[np.bool_]:
    """(n,) True for a text that says there is no value."""
    texts = pc.utf8_trim_whitespace(values.cast(pa.string()))
    return _to_numpy(pc.is_in(texts, pa.array(NOT_A_NUMBER)).fill_null(True), bool) | _to_numpy(
        values.is_null(), bool
    )


def _declared_orders(name: str, values: Any) -> list[tuple[str, ...]]:
    """The orders of levels that a column declares: of its categories, chunk by chunk."""
    if not pa.types.is_dictionary(values.type) or not values.type.ordered:
        return []
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    listed: list[pa.Array] = []
    for chunk in chunks:
        if not any(chunk.dictionary.equals(known) for known in listed):
            listed.append(chunk.dictionary)
    return [tuple(text for text in _level_names(name, each) if text is not None) for each in listed]


def merged_order(orders: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """One order in which each of several holds; None where they contradict each other.

    Of levels that no order tells apart the one that is named first comes first.
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
    """The levels in another order of their names; undeclared for None."""
    if order is None:
        return replace(found, declared=False)
    place = {name: i for i, name in enumerate(order)}
    table = np.array([*(place[name] for name in found.names), -1], dtype=np.int32)
    return Levels(table[found.codes], np.array(order, dtype=object), declared=True)


def time_texts(values: pa.Array) -> pa.Array:
    """Points in time as text, the same in any unit and zone: "2024-01-01" for midnight, else
    "2024-01-01 12:30:00", with a fraction of a second where there is one.

    Those of a zone are written in UTC.
    """
    if values.type.tz is not None:
        values = values.cast(pa.timestamp(values.type.unit))
    texts = values.cast(pa.string())
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, r" 00:00:00$", "")


def _as_one_time(texts: pa.Array) -> pa.Array:
    """Texts of points in time as `time_texts` writes them."""
    texts = pc.replace_substring_regex(texts, r"(Z|\+00:?00)$", "")
    texts = pc.replace_substring_regex(texts, r"(\.\d*?)0+$", r"\1")
    texts = pc.replace_substring_regex(texts, r"\.$", "")
    return pc.replace_substring_regex(texts, r"[ T]00:00:00$", "")


def _level_names(column: str, values: pa.Array) -> list[str | None]:
    """Distinct values as text. A whole float is written as the integer it stands for,
    since pandas turns integers with gaps into floats."""
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
    """Names by their place, for many look-ups at once."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = pa.array(list(names), pa.string())
        first = self._names[0].as_py() if len(self._names) else ""
        # Files of before a point in time had one text have such names.
        self._of_times = bool(_TIME.fullmatch(first)) or bool(_DAY.fullmatch(first))

    def places(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Where each name stands, -1 for one that is not among them.

        A point in time is the same one however it is written.
        """
        wanted = pa.array(list(names), pa.string())
        found = pc.index_in(wanted, value_set=self._names)
        if found.null_count and self._of_times:
            again = pc.index_in(_as_one_time(wanted), value_set=_as_one_time(self._names))
            found = pc.coalesce(found, again)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)

    def codes(self, frame: "Frame", name: str) -> NDArray[np.int32] | None:
        """The place of each row's level; None where a row has none, or one that is not here.

        A column of texts is looked up as it is, without listing its own levels first.
        """
        values: Any = frame.column(name)
        if frame.untyped or frame.missing or isinstance(values, np.ndarray):
            return None
        if pa.types.is_dictionary(values.type) or not _holds_text(values.type):
            return None
        found = pc.index_in(values.cast(pa.string()), value_set=self._names)
        return None if found.null_count else _to_numpy(found, np.int32)

    def coded(
        self, frame: "Frame", names: Sequence[str]
    ) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """The place of each row's level, as `crossed_levels` has them, and the new levels.

        These follow those that are here.

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
    """The levels of one grouping column, or those that several form together, as "a:b"."""
    columns = tuple(frame.levels(name) for name in names)
    first, *others = columns
    # Which levels of the columns a pair stands for matters where these have an order.
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


def _joinable(name: Any, joined: bool = False) -> str:
    """A level as a part of "a:b"; one that holds a ":" of its own is put in backticks."""
    return f"`{name}`" if ":" in name and not joined else str(name)


def sorted_levels(names: Iterable[str]) -> list[str]:
    """Levels in the order users expect: whole numbers by value, anything else by the alphabet.

    Whether letters are small or capital tells only levels apart that are the same but for that,
    the small ones first, as in R.
    """
    listed = list(names)
    # "007" is a text: only what an integer would be written as counts as one.
    if all(_INTEGER.fullmatch(name) for name in listed):
        return sorted(listed, key=int)
    return sorted(listed, key=lambda name: (name.casefold(), name.swapcase(), name))
