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
from numpy.typing import NDArray
from pyarrow import csv, dataset, parquet

from ranef.data import array_columns, categoricals
from ranef.data.array_columns import ArrowColumn, Column, pc
from ranef.data.arrow_conversion import arrow_column, dict_column
from ranef.data.frame import Frame
from ranef.data.number_texts import NOT_A_NUMBER
from ranef.data.row_labels import Labels
from ranef.errors import (
    ColumnError,
    DataError,
    FileError,
    OptionError,
    RanefError,
    first_line,
    suggestion,
)
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


def column_names(data: Any) -> list[str]:
    """The names of all columns of a table or file; no values are read.

    Args:
        data: as for `read`.

    Raises:
        FileError, OptionError, DataError: as `read`.
    """
    if isinstance(data, Frame):
        return list(data.columns)
    if isinstance(data, Mapping):
        return [str(name) for name in data]
    if isinstance(data, (str, os.PathLike)):
        path = Path(data)
        try:
            if path.exists() and str(path) != ".":
                refuse_special(path)
                if kind_of(path) == "csv":
                    return _csv_names(path)
                return dataset.dataset(path, format="parquet").schema.names
        except (pa.ArrowException, OSError, UnicodeDecodeError):
            pass  # `read` says what is wrong with the path
        return list(_read_path(path, None).columns)
    if isinstance(data, pd.DataFrame):
        return [str(name) for name in data.columns]
    try:
        return [str(name) for name in nw.from_native(data).collect_schema().names()]
    except Exception:  # `read` says what is wrong with the table
        return list(_from_table(data, None).columns)


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
    columns_ = {name: arrow_column(name, selected[own]) for name, own in names.items()}
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
    columns_ = {name: dict_column(name, data[own]) for name, own in names.items()}
    lengths = {name: len(values) for name, values in columns_.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"the columns differ in length ({shown}); they must have one row each")
    return Frame(columns_, next(iter(lengths.values()), 0), "the table")


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
