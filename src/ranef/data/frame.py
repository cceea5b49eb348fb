"""`Frame`: a table whose columns can be taken as numbers or as levels.

Columns are held as Arrow arrays, which ``ranef.data.tables`` makes. As numbers, a column is
float64 with NaN for missing values. As levels, it is integer codes, with -1 for missing values, and
the levels' names as texts. Names are the values as written: "007" is not "7", "NA" is a level, and
an id above 2**53 keeps its last digit.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ranef.data.array_columns import ArrowColumn, Column, combined, holds_text, pc, to_numpy
from ranef.data.dates import days_of, holds_dates
from ranef.data.level_names import level_names, not_levels
from ranef.data.levels import Levels, merged_order, reordered
from ranef.data.number_texts import (
    FORMATTED_NUMBER,
    NOT_A_NUMBER,
    not_numbers,
    parse_numbers,
    says_nothing,
)
from ranef.data.row_labels import Labels
from ranef.errors import ColumnError, DataError, suggestion
from ranef.numerics.shapes import Bool, Float, Int

_Value = TypeVar("_Value")

# Largest share of texts in a numeric column of a file that is taken for typing errors. A column
# with a larger share of texts is a factor.
_FEW = 0.05
# A text column with more levels than this, all of them formatted numbers or dates, is no factor.
_MANY_LEVELS = 20
# The start of a date or a point in time as text.
_DATE = re.compile(r"\d{4}-\d\d-\d\d($|[ T])")


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
        if isinstance(values, np.ndarray) or not holds_text(values.type):
            return not isinstance(values, np.ndarray) and pa.types.is_dictionary(values.type)
        return not self.untyped or self.n == 0 or bool(not_numbers(values).any())

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
        if isinstance(values, np.ndarray) or not holds_text(values.type):
            return
        if pa.types.is_dictionary(values.type):  # the user has made it a factor
            return
        found = self.levels(name)
        present = [str(found.names[i]).strip() for i in found.present()]
        said = [text for text in present if text not in NOT_A_NUMBER]
        if len(said) <= min(_MANY_LEVELS, self.n / 2) or len(said) < 3:
            return
        if not all(FORMATTED_NUMBER.fullmatch(t) and any(c.isdigit() for c in t) for t in said):
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
        bad = not_numbers(values)
        wrong, said = int(bad.sum()), int((~says_nothing(values)).sum())
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
        if holds_text(values.type):
            bad = not_numbers(values) if self.untyped else ~to_numpy(values.is_null(), bool)
            if bad.any():
                row = int(np.argmax(bad))
                raise DataError(
                    f"column {name!r} holds text where a number is needed, such as "
                    f"{str(values[row])!r} in row {self.row_number(row)}; convert it to numbers, "
                    f"or use the column by itself, as C({name}), for a factor"
                )
            values = parse_numbers(values)
        elif pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if holds_dates(values.type):
            raise DataError(
                f"column {name!r} holds {values.type} where a number is needed; write "
                f"days({name}) for the number of days, or C({name}) for a level of each date"
            )
        try:
            values = pc.cast(values, pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise DataError(
                f"column {name!r} holds {values.type} where a number is needed; convert it first"
            ) from None
        return to_numpy(values)

    def days(self, name: str) -> Float[NDArray, "n"]:
        """A column of dates as days since 1970-01-01, NaN for missing values.

        Raises:
            DataError: for a column that holds no dates, and for a text that is none, naming the
                first one and its row.
        """
        return self._remember(("days", name), lambda: self._days(name))

    def _days(self, name: str) -> NDArray[np.float64]:
        values = self.column(name)
        found = None if isinstance(values, np.ndarray) else days_of(values)
        if isinstance(values, np.ndarray) or found is None:
            kind = "arrays" if isinstance(values, np.ndarray) else values.type
            raise DataError(
                f"column {name!r} holds {kind}, and days() takes dates; write the column by "
                "itself if it holds numbers"
            )
        if holds_text(values.type):
            gaps = to_numpy(values.is_null(), bool)
            gaps = says_nothing(values) if self.untyped else gaps
            wrong = np.isnan(found) & ~gaps
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"column {name!r} holds {str(values[row])!r} in row {self.row_number(row)}, "
                    "which is no date; days() takes texts such as '2024-03-01'"
                )
        return found

    def refuse_spelled_dates(self, name: str) -> None:
        """Refuse to use a column of many dates written as texts as a factor.

        Raises:
            DataError: naming the column.
        """
        values = self.column(name)
        if isinstance(values, np.ndarray) or pa.types.is_dictionary(values.type):
            return
        found = self.levels(name)
        present = [str(found.names[i]) for i in found.present()]
        if len(present) > _MANY_LEVELS and all(map(_DATE.match, present)):
            raise DataError(
                f"column {name!r} holds dates written as text, such as {present[0]!r}, and would "
                f"be a factor of {len(present):,} levels; write days({name}) for the number of "
                f"days, or C({name}) if it is meant as a factor"
            )

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
        encoded = combined(values)
        try:
            if not pa.types.is_dictionary(encoded.type):
                encoded = encoded.dictionary_encode()
        except pa.ArrowNotImplementedError:
            raise not_levels(name, values.type) from None
        names = level_names(name, encoded.dictionary)
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
            return reordered(found, merged_order(orders))
        return replace(found, declared=bool(orders))

    def typed(self, name: str, levels: Iterable[str]) -> pa.ChunkedArray:
        """Levels of a column converted back to the type of the column, as an Arrow array (m,).

        They remain texts if the column holds texts, if there is no such column, or if a level
        cannot be converted without loss. Categories that are texts are a dictionary.
        """
        texts = pa.chunked_array([pa.array([str(level) for level in levels], pa.string())])
        values = self.columns.get(name)
        if values is None or isinstance(values, np.ndarray):
            return texts
        if holds_text(values.type):
            return self._categories(name, values, texts)
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        try:
            found = pc.cast(texts, kind)
            same = level_names(name, found.combine_chunks()) == texts.to_pylist()
        except (pa.ArrowException, DataError):
            return texts
        return found if same else texts

    def _categories(
        self, name: str, values: ArrowColumn, texts: pa.ChunkedArray
    ) -> pa.ChunkedArray:
        """Texts as categories of a column, with all of these and their order, if it has any."""
        if not pa.types.is_dictionary(values.type):
            return texts
        known = pa.array(self.levels(name).names.tolist(), pa.string())
        places = pc.index_in(texts.combine_chunks(), value_set=known)
        if places.null_count:
            return texts
        ordered = bool(values.type.ordered)
        own = pa.DictionaryArray.from_arrays(places, known, ordered=ordered)
        return pa.chunked_array([own])

    def is_missing(self, name: str) -> Bool[NDArray, "n"]:
        """Whether each row's value is missing, NaN included."""
        values = self.column(name)
        if isinstance(values, np.ndarray):
            return np.asarray(np.isnan(values).reshape(self.n, -1).any(axis=1))
        if pa.types.is_dictionary(values.type):
            return self.levels(name).codes < 0
        if holds_text(values.type) and self.is_text(name):
            return self.levels(name).codes < 0
        if holds_text(values.type):
            return np.isnan(self.numbers(name))
        return to_numpy(values.is_null(nan_is_null=True), bool)

    def is_no_level(self, name: str) -> Bool[NDArray, "n"]:
        """Whether each row's level is missing when the column is taken as levels."""
        values = self.column(name)
        if self.untyped or self.missing or isinstance(values, np.ndarray):
            return self.levels(name).codes < 0
        if pa.types.is_dictionary(values.type):
            return self.levels(name).codes < 0
        return to_numpy(values.is_null(nan_is_null=True), bool)

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
        return self.keep(to_numpy(found.fill_null(False), bool))

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


def _declared_orders(name: str, values: ArrowColumn) -> list[tuple[str, ...]]:
    """The distinct orders of levels that the chunks of a column declare."""
    if not pa.types.is_dictionary(values.type) or not values.type.ordered:
        return []
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    listed: list[pa.Array] = []
    for chunk in chunks:
        if not any(chunk.dictionary.equals(known) for known in listed):
            listed.append(chunk.dictionary)
    return [tuple(text for text in level_names(name, each) if text is not None) for each in listed]
