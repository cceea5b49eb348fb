"""Reads tables and files into a `Frame`, and writes columns to files.

Columns of a CSV file are read as texts, since only the formula says whether 007 is a number.
Parquet files too large for memory are read in batches by `ranef.data.parquet`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
from narwhals.typing import IntoDType
from numpy.typing import NDArray
from pyarrow import csv, dataset, parquet

from ranef.data import array_columns, categoricals
from ranef.data.array_columns import ArrowColumn, Column, pc
from ranef.data.frame import Frame
from ranef.data.number_texts import NOT_A_NUMBER
from ranef.data.row_labels import Labels
from ranef.errors import ColumnError, DataError, FileError, OptionError, RanefError, suggestion
from ranef.files.atomic_write import refuse_special, replacing

_Name = TypeVar("_Name")


def read(data: object, columns: Sequence[str] | None = None, missing: Sequence[str] = ()) -> Frame:
    """Read a table into a `Frame`.

    Args:
        data: a pandas, polars or pyarrow table, a dict of arrays, or the path of a CSV file, a
            Parquet file or a folder of Parquet files. A `Frame` is returned as it is.
        columns: names of the columns to read; None for all. Other columns of a file are not
            parsed.
        missing: texts that stand for a missing level.

    Raises:
        FileError: for a path that cannot be read.
        ColumnError: for a column that does not exist.
        DataError: for columns of different lengths, or values that cannot be read.
        OptionError: if `data` is no table.
    """
    if isinstance(data, Frame):
        return data
    if isinstance(data, (str, os.PathLike)):
        frame = _read_path(Path(data), columns)
    elif isinstance(data, Mapping):
        frame = _from_dict(data, columns)
    else:
        frame = _from_table(data, columns)
    return replace(frame, missing=tuple(missing))


def chosen(
    available: Sequence[_Name], columns: Sequence[str] | None, source: str
) -> dict[str, _Name]:
    """Map the names of the wanted columns, as texts, to the table's own names for them.

    If no column is wanted, the first one is chosen, so that the number of rows is known.

    Raises:
        ColumnError: for a column that does not exist.
        DataError: for a column name that occurs twice.
    """
    own: dict[str, _Name] = {}
    for name in available:
        if str(name) in own and (columns is None or str(name) in columns):
            raise DataError(f"{source} has the column {str(name)!r} twice; rename one")
        own[str(name)] = name
    if columns is None:
        return own
    for name in columns:
        if name not in own:
            raise ColumnError(f"column {name!r} is not in {source}; {suggestion(name, own)}")
    wanted = columns or list(own)[:1]
    return {name: own[name] for name in wanted}


def _from_table(data: Any, columns: Sequence[str] | None) -> Frame:
    """A pandas, polars, pyarrow or other table that narwhals knows, as a `Frame`."""
    if isinstance(data, pd.DataFrame):
        data = _without_twins(data, columns)
    try:
        table = nw.from_native(data)
    except TypeError:
        raise OptionError(
            "data must be a pandas, polars or pyarrow table, a dict of arrays, or a path, "
            f"not {type(data).__name__}"
        ) from None
    except (nw.exceptions.NarwhalsError, ValueError) as error:
        raise DataError(f"the table cannot be used: {first_line(error)}") from None
    try:
        names = chosen(table.collect_schema().names(), columns, "the table")
        selected = table.select(list(names.values()))
        if isinstance(selected, nw.LazyFrame):
            selected = selected.collect()
    except RanefError:
        raise
    except Exception as error:  # a lazy table runs its whole query here, and any step may fail
        raise DataError(f"the table cannot be computed: {first_line(error)}") from None
    columns_ = {name: _arrow_column(name, selected[own]) for name, own in names.items()}
    if isinstance(data, pa.Table):
        columns_ = _with_orders(columns_, data.schema)
    return Frame(columns_, len(selected), "the table", labels=Labels.of(selected))


def _without_twins(data: pd.DataFrame, columns: Sequence[str] | None) -> pd.DataFrame:
    """A pandas table without its columns of the same name; tables of no other kind have any.

    Raises:
        DataError: if a column that occurs twice is wanted.
    """
    if data.columns.is_unique:
        return data
    chosen(list(data.columns), columns, "the table")
    return data.loc[:, ~data.columns.duplicated()]


def _with_orders(columns: dict[str, Column], schema: pa.Schema) -> dict[str, Column]:
    """The columns, with the order of categories declared where the schema comes from pandas."""
    known = categoricals.by_schema(schema)
    return {
        name: categoricals.declared(values) if name in known else values
        for name, values in columns.items()
    }


# Errors of Arrow and of conversions for columns with values that it cannot read.
_UNREADABLE = (pa.ArrowException, OverflowError, TypeError, ValueError)


def _arrow_column(name: str, series: nw.Series) -> Column:
    """One column as an Arrow array, or as a NumPy array if it holds an array per row.

    NaN in a float column of pandas stays NaN and does not become null.
    """
    native = series.to_native()
    try:
        if isinstance(native, pd.Series):
            native = _of_pandas(name, native)
            known = categoricals.of_pandas(native)
            if known is not None:
                return known
            series = nw.from_native(native, series_only=True)
            plain = isinstance(native.dtype, np.dtype)
            if plain and native.dtype.kind == "f":
                return pa.chunked_array([pa.array(native.to_numpy(), from_pandas=False)])
            stacked = array_columns.of_objects(name, native) if plain else None
            if stacked is not None:
                return stacked
        elif series.dtype == nw.Object:
            return _dict_column(name, native.to_list())
        elif series.dtype in (nw.Int128, nw.UInt128):
            return array_columns.of_arrow(
                name, _of_128_bits(series).to_frame().to_arrow().column(0)
            )
        elif isinstance(series.dtype, (nw.List, nw.Array)):
            kind = _without_128_bits(series.dtype)
            series = series if kind == series.dtype else series.cast(kind)
        return array_columns.of_arrow(name, series.alias("column").to_frame().to_arrow().column(0))
    except RanefError:
        raise
    except _UNREADABLE as error:
        raise _mixed(name, native, error) from None


def _of_pandas(name: str, column: pd.Series) -> pd.Series:
    """A pandas column in a type that Arrow has, and without its index.

    Raises:
        DataError: for complex numbers.
    """
    column, kind = column.reset_index(drop=True), column.dtype
    if isinstance(kind, pd.SparseDtype):
        return column.sparse.to_dense()
    if isinstance(kind, (pd.IntervalDtype, pd.PeriodDtype)):
        column = column.astype("category")
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = column.cat.categories
        if isinstance(names.dtype, (pd.IntervalDtype, pd.PeriodDtype)):
            return column.cat.rename_categories([str(each) for each in names])
    if getattr(kind, "kind", "") == "c":
        raise DataError(
            f"column {name!r} holds {kind}, which is no number on a line; use its real and "
            "imaginary parts as columns of their own"
        )
    return column


def _of_128_bits(series: nw.Series) -> nw.Series:
    """128-bit integers of polars, which Arrow lacks, as 64-bit integers or 38-digit decimals."""
    for kind in (nw.Int64(), nw.Decimal(38, 0)):
        try:
            return series.cast(kind)
        except Exception:  # an exception type of polars, which need not be installed
            continue
    raise DataError(
        f"column {series.name!r} holds integers of more than 38 digits; write them as text to use "
        "them as levels, or as floats"
    )


def _without_128_bits(kind: IntoDType) -> IntoDType:
    """A polars type with floats in place of 128-bit integers in lists and arrays.

    Arrow has no such integers, and arrays in rows are taken as floats in any case.
    """
    if isinstance(kind, nw.List):
        return nw.List(_float_for_128_bits(kind.inner))
    if isinstance(kind, nw.Array):
        return nw.Array(_float_for_128_bits(kind.inner), kind.size)
    return kind


def _float_for_128_bits(inner: IntoDType) -> IntoDType:
    return nw.Float64() if inner in (nw.Int128, nw.UInt128) else _without_128_bits(inner)


def _axes(values: object) -> int:
    """Number of axes of any object, as by `np.ndim`."""
    known = getattr(values, "ndim", None)
    return np.asarray(values).ndim if known is None else known


def _is_gap(value: object) -> bool:
    """Whether a Python object stands for a missing value."""
    return value is None or value is pd.NA or value is pd.NaT or bool(value != value)


def _mixed(name: str, values: Iterable[object], error: Exception) -> DataError:
    """The error for a column that Arrow could not read, naming the types of its values."""
    seen: dict[type, str] = {}
    for row, value in enumerate(values):
        if _axes(value) == 0 and not _is_gap(value):
            seen.setdefault(type(value), f"{value!r:.40} in row {row + 1}")
    if len(seen) > 1:
        (one, first), (other, second), *_ = ((kind.__name__, v) for kind, v in seen.items())
        return DataError(
            f"column {name!r} mixes values of type {one} and {other}, such as {first} and "
            f"{second}; make it all numbers or all text"
        )
    reason = first_line(error).split("', '")[0].strip("(\"'")
    return DataError(
        f"column {name!r} cannot be read as one kind of value ({reason}); make it all numbers or "
        "all text"
    )


def from_arrow(table: pa.Table, source: str, untyped: bool = False) -> Frame:
    """An Arrow table as a `Frame`."""
    columns = {
        name: array_columns.of_arrow(name, table.column(name)) for name in table.column_names
    }
    return Frame(_with_orders(columns, table.schema), table.num_rows, source, untyped)


def _booleans(frame: Frame) -> Frame:
    """The frame of a whole file, with columns of the texts "true" and "false" as Booleans.

    The texts may be in upper or lower case.
    """
    columns = {name: _as_boolean(values) for name, values in frame.columns.items()}
    return replace(frame, columns=columns)


def _as_boolean(values: Column) -> Column:
    """A text column of "true" and "false" as Booleans; any other column as it is."""
    # The first rows suffice to exclude most columns.
    for part in (values[:1000], values):
        texts = pc.utf8_lower(pc.utf8_trim_whitespace(part))
        nothing = pc.is_in(texts, pa.array(["", *(text.lower() for text in NOT_A_NUMBER)]))
        said = pc.is_in(texts, pa.array(["true", "false"]))
        if not pc.all(pc.or_(nothing, said)).as_py():
            return values
    if not pc.any(said).as_py():
        return values
    return pc.if_else(said, pc.equal(texts, "true"), pa.scalar(None, pa.bool_()))


def _from_dict(data: Mapping[object, Iterable[object]], columns: Sequence[str] | None) -> Frame:
    """A dict of columns as a `Frame`."""
    names = chosen(list(data), columns, "the table")
    columns_ = {name: _dict_column(name, data[own]) for name, own in names.items()}
    lengths = {name: len(values) for name, values in columns_.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"the columns differ in length ({shown}); they must have one row each")
    return Frame(columns_, next(iter(lengths.values()), 0), "the table")


def _dict_column(name: str, values: Iterable[object]) -> Column:
    """An array or list as an Arrow array; as float64 NumPy if it holds an array per row."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            values = np.where(np.ma.getmaskarray(values), np.nan, np.ma.getdata(values))
        known = _categories(values)
        if known is not None:
            return known
        if isinstance(values, pa.Array):
            values = pa.chunked_array([values])
        if isinstance(values, pa.ChunkedArray):
            return array_columns.of_arrow(name, values)
        if isinstance(values, (pd.Index, pd.api.extensions.ExtensionArray)):
            values = pd.Series(values)
        if nw.dependencies.is_into_series(values):
            return _arrow_column(name, nw.from_native(values, series_only=True))
        stacked = array_columns.of_objects(name, values)
        if stacked is not None:
            return stacked
        if _axes(values) == 0:
            raise DataError(f"column {name!r} is a single value; it must be an array of n values")
        if _axes(values) > 1:
            return np.asarray(values, dtype=np.float64)
        if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
            return pa.chunked_array([pa.array(values, from_pandas=False)])
        listed = [None if v is pd.NA or v is pd.NaT else v for v in values]
        if any(isinstance(value, str) for value in listed):
            # Among texts, pandas and NumPy write NaN for an empty cell.
            listed = [None if isinstance(v, float) and v != v else v for v in listed]
        return array_columns.of_arrow(name, pa.chunked_array([pa.array(listed, from_pandas=False)]))
    except RanefError:
        raise
    except _UNREADABLE as error:
        raise _mixed(name, values, error) from None


def _categories(values: object) -> ArrowColumn | None:
    """Categories of pandas, polars or Arrow as an Arrow dictionary; None for anything else."""
    known = categoricals.of_pandas(values)
    if known is not None:
        return known
    if isinstance(values, pa.Array):
        values = pa.chunked_array([values])
    if isinstance(values, pa.ChunkedArray):
        return values if _is_dictionary(values) else None
    if hasattr(values, "dtype") and not isinstance(values, np.ndarray):
        series = nw.from_native(values, series_only=True, pass_through=True)
        if isinstance(series, nw.Series) and series.dtype in (nw.Enum, nw.Categorical):
            return series.alias("column").to_frame().to_arrow().column(0)
    return None


def _is_dictionary(column: ArrowColumn) -> bool:
    return pa.types.is_dictionary(column.type)


def _read_path(path: Path, columns: Sequence[str] | None) -> Frame:
    """A CSV file, a Parquet file or a folder of Parquet files as a `Frame`."""
    try:
        found = str(path) != "." and path.exists()
    except OSError as error:
        raise FileError(f"the path cannot be used: {error.strerror}; check it") from None
    if not found:
        raise FileError(f"there is no file or folder {str(path)!r}; check the path")
    refuse_special(path)
    kind = kind_of(path)
    source = repr(str(path))
    try:
        if kind == "csv":
            names = _csv_names(path)
            table = csv.read_csv(path, **_csv_options(list(chosen(names, columns, source))))
            return _booleans(from_arrow(table, source, untyped=True))
        stored = dataset.dataset(path, format=kind)
        wanted = list(chosen(stored.schema.names, columns, source))
        return from_arrow(stored.to_table(columns=wanted), source)
    except RanefError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileError(f"{source} cannot be read as {kind}: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if there is none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def kind_of(path: Path) -> str:
    """The format, "csv" or "parquet", by the suffix of a file or of the first file in a folder.

    Raises:
        FileError: for any other file, and an empty folder.
    """
    inner = path
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        if not files:
            raise FileError(f"the folder {str(path)!r} is empty; expected Parquet files in it")
        inner = files[0]
    suffixes = [s.lower() for s in inner.suffixes]
    if any(s in (".parquet", ".pq") for s in suffixes):
        return "parquet"
    if any(s in (".csv", ".txt") for s in suffixes) and not path.is_dir():
        return "csv"
    raise FileError(
        f"{str(path)!r} is of no known kind; expected a .csv or .parquet file or a folder of "
        ".parquet files"
    )


def _csv_names(path: Path) -> list[str]:
    """The column names in the header of a CSV file."""
    with pa.input_stream(path) as stream:
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=1 << 20),
            parse_options=csv.ParseOptions(newlines_in_values=True),
        )
        return reader.schema.names


def _csv_options(columns: list[str]) -> dict[str, csv.ParseOptions | csv.ConvertOptions]:
    """Options of Arrow's CSV reader to read every column as text."""
    return {
        "parse_options": csv.ParseOptions(newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    }


def scan_csv(path: str | os.PathLike, columns: Sequence[str] | None = None) -> Iterator[Frame]:
    """Read a CSV file in batches of constant memory, every column as text.

    Raises:
        FileError: for a file that cannot be read.
        ColumnError: for a column that does not exist.
    """
    place, source = Path(path), repr(str(path))
    refuse_special(place)
    if not os.path.isfile(place):
        raise FileError(f"there is no file {source}; check the path")
    try:
        names = list(chosen(_csv_names(place), columns, source))
        options = _csv_options(names)
        read_options = csv.ReadOptions(block_size=1 << 24)
        for batch in csv.open_csv(place, read_options=read_options, **options):
            yield from_arrow(pa.Table.from_batches([batch]), source, untyped=True)
    except pa.ArrowException as error:
        raise FileError(f"{source} cannot be read as csv: {first_line(error)}") from None


def from_arrays(table: Mapping[str, NDArray]) -> Frame:
    """A `Frame` of arrays of one length; masked elements of masked arrays are missing."""
    columns = {}
    for name, values in table.items():
        if np.ndim(values) > 1:
            columns[name] = np.asarray(values, np.float64)
            continue
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        columns[name] = pa.chunked_array([pa.array(np.ma.getdata(values), mask=mask)])
    return Frame(columns, len(next(iter(columns.values()))), "the table")


def concatenate(frames: Sequence[Frame]) -> Frame:
    """One frame with the rows of all the given frames, which have the same columns."""
    first = frames[0]
    columns = {name: _joined([frame.columns[name] for frame in frames]) for name in first.columns}
    n, labels = sum(frame.n for frame in frames), Labels(first.labels.form)
    return replace(first, columns=columns, n=n, rows=None, labels=labels, _cache={})


def _joined(parts: Sequence[Column]) -> Column:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate([np.asarray(part) for part in parts])
    chunks = [c for part in parts if not isinstance(part, np.ndarray) for c in part.chunks]
    return pa.chunked_array(chunks, type=parts[0].type)


def write_csv(path: str | os.PathLike, frames: Iterable[Frame]) -> None:
    """Write the rows of several frames with the same columns to one CSV file.

    Raises:
        FileError: if the file cannot be written; an existing file is then left as it was.
    """
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    writer = None
    with replacing(path) as file:
        for frame in frames:
            batch = pa.table(dict(frame.columns))
            if writer is None:
                file.write((",".join(map(_quoted, batch.column_names)) + "\n").encode())
                writer = csv.CSVWriter(file, batch.schema, write_options=options)
            writer.write_table(batch)
        if writer is not None:
            writer.close()


def write(path: str | os.PathLike, columns: Mapping[str, NDArray | ArrowColumn]) -> Path:
    """Write Arrow or NumPy columns to a CSV or Parquet file, depending on the suffix of its name.

    Returns:
        The path of the file.

    Raises:
        FileError: for another suffix, or if the file cannot be written.
        DataError: for a column with an array per row and a CSV file, which cannot hold it.
    """
    with replacing(path) as file:
        kind = kind_of(Path(path))
        arrayed = [name for name, values in columns.items() if np.ndim(values) > 1]
        if arrayed and kind == "csv":
            raise DataError(
                f"column {arrayed[0]!r} holds an array in each row, which a CSV file cannot hold; "
                "write a .parquet file, or leave the column out"
            )
        listed = {name: np.asarray(columns[name]).tolist() for name in arrayed}
        table = pa.table({**columns, **listed})
        if kind == "csv":
            csv.write_csv(table, file, csv.WriteOptions(quoting_style="needed"))
        else:
            parquet.write_table(table, file)
    return Path(path)


def _quoted(name: str) -> str:
    """A column name as a cell of the CSV header, quoted only if needed; Arrow always quotes."""
    if any(char in name for char in ',"\n\r'):
        return '"' + name.replace('"', '""') + '"'
    return name
