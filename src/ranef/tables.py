"""Tables and files to `Frame`, and back to files: the one module that reads and writes data.

A CSV file is read as text, since only the formula knows whether 007 is a number.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
from pyarrow import csv, dataset

from ranef.errors import ColumnError, DataError, FileError, OptionError, RanefError
from ranef.frame import Frame
from ranef.registry import suggestion


def read(data: Any, columns: Sequence[str] | None = None, missing: Sequence[str] = ()) -> Frame:
    """A table as a `Frame` of the named columns (all of them for None).

    Args:
        data: a pandas, polars or pyarrow table, a dict of arrays, or the path of a CSV or
            Parquet file or of a folder of them.
        columns: the columns to read; a file's other columns are not parsed.
        missing: texts that mean a missing level.

    Raises:
        FileError: for a path that cannot be read; ColumnError: for a column that is not
            there; DataError: for columns of different lengths.
    """
    if isinstance(data, (str, os.PathLike)):
        frame = _read_path(Path(data), columns)
    elif isinstance(data, Mapping):
        frame = _from_dict(data, columns)
    else:
        frame = _from_table(data, columns)
    return replace(frame, missing=tuple(missing))


def _wanted(available: Sequence[str], columns: Sequence[str] | None, source: str) -> list[str]:
    if columns is None:
        return list(available)
    for name in columns:
        if name not in available:
            raise ColumnError(
                f"column {name!r} is not in {source}; {suggestion(name, list(available))}"
            )
    return list(columns)


def _from_table(data: Any, columns: Sequence[str] | None) -> Frame:
    try:
        table = nw.from_native(data)
    except TypeError:
        raise OptionError(
            "data must be a pandas, polars or pyarrow table, a dict of arrays, or a path, "
            f"not {type(data).__name__}"
        ) from None
    except (nw.exceptions.NarwhalsError, ValueError) as error:
        raise DataError(f"the table cannot be used: {error}") from None
    names = table.collect_schema().names()
    selected = table.select(_wanted(names, columns, "the table"))
    if isinstance(selected, nw.LazyFrame):
        selected = selected.collect()
    arrays = {name: _arrow_column(name, selected[name]) for name in selected.columns}
    return Frame(arrays, len(selected), "the table")


def _arrow_column(name: str, series: nw.Series) -> pa.ChunkedArray:
    """One column as Arrow. A NumPy float of pandas has NaN and no empty cells."""
    try:
        native = series.to_native()
        plain = series.implementation.is_pandas() and isinstance(native.dtype, np.dtype)
        if plain and native.dtype.kind == "f":
            return pa.chunked_array([pa.array(native.to_numpy(), from_pandas=False)])
        return series.to_frame().to_arrow().column(0)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise _mixed(name, error) from None


def _mixed(name: str, error: Exception) -> DataError:
    return DataError(
        f"column {name!r} mixes kinds of values ({_first_line(error)}); make it all numbers or "
        "all text"
    )


def _from_arrow(table: pa.Table, source: str, untyped: bool = False) -> Frame:
    columns = {name: table.column(name) for name in table.column_names}
    return Frame(columns, table.num_rows, source, untyped)


def _from_dict(data: Mapping[str, Any], columns: Sequence[str] | None) -> Frame:
    names = _wanted([str(name) for name in data], columns, "the table")
    arrays: dict[str, Any] = {}
    for name in names:
        values = data[name]
        array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=None)
        if array.ndim == 0:
            raise DataError(f"column {name!r} is a single value; it must be an array of n values")
        if array.ndim > 1:
            arrays[name] = np.asarray(array, dtype=np.float64)
            continue
        try:
            # A list with gaps is read by Arrow, which keeps None apart from NaN.
            raw = array.tolist() if array.dtype.kind in "OUS" else array
            arrays[name] = pa.chunked_array([pa.array(raw, from_pandas=False)])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise _mixed(name, error) from None
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise DataError(f"the columns differ in length ({shown}); they must have one row each")
    return Frame(arrays, next(iter(lengths.values()), 0), "the table")


def _read_path(path: Path, columns: Sequence[str] | None) -> Frame:
    if not path.exists():
        raise FileError(f"there is no file or folder {str(path)!r}; check the path")
    kind = _format(path)
    source = repr(str(path))
    try:
        if kind == "csv":
            names = _csv_names(path)
            table = csv.read_csv(path, **_csv_options(_wanted(names, columns, source)))
            return _from_arrow(table, source, untyped=True)
        stored = dataset.dataset(path, format=kind)
        names = _wanted(stored.schema.names, columns, source)
        return _from_arrow(stored.to_table(columns=names), source)
    except RanefError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileError(f"{source} cannot be read as {kind}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _format(path: Path) -> str:
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
    """The header of a CSV file."""
    with pa.input_stream(path) as stream:
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=1 << 20),
            parse_options=csv.ParseOptions(newlines_in_values=True),
        )
        names = reader.schema.names
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{str(path)!r} has the column {min(repeated)!r} twice; rename one")
    return names


def _csv_options(columns: list[str]) -> dict[str, Any]:
    """Every column as text: what it means is the formula's business."""
    return {
        "parse_options": csv.ParseOptions(newlines_in_values=True),
        "convert_options": csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=False,
        ),
    }


def scan_csv(path: str | os.PathLike, columns: Sequence[str] | None = None) -> Iterator[Frame]:
    """The rows of a CSV file in batches of constant memory, every column as text.

    Raises:
        FileError: for a file that cannot be read; ColumnError: for a missing column.
    """
    place, source = Path(path), repr(str(path))
    if not place.is_file():
        raise FileError(f"there is no file {source}; check the path")
    try:
        names = _wanted(_csv_names(place), columns, source)
        options = _csv_options(names)
        read_options = csv.ReadOptions(block_size=1 << 24)
        for batch in csv.open_csv(place, read_options=read_options, **options):
            yield _from_arrow(pa.Table.from_batches([batch]), source, untyped=True)
    except pa.ArrowException as error:
        raise FileError(f"{source} cannot be read as csv: {_first_line(error)}") from None


def from_arrays(table: Mapping[str, Any]) -> Frame:
    """A frame of arrays of one length; a masked array has gaps."""
    columns = {}
    for name, values in table.items():
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        columns[name] = pa.chunked_array([pa.array(np.ma.getdata(values), mask=mask)])
    return Frame(columns, len(next(iter(columns.values()))), "the table")


def concatenate(frames: Sequence[Frame]) -> Frame:
    """The rows of all frames, which have the same columns, as one."""
    first = frames[0]
    columns = {name: _joined([frame.columns[name] for frame in frames]) for name in first.columns}
    return replace(first, columns=columns, n=sum(f.n for f in frames), rows=None, _cache={})


def _joined(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    chunks = [chunk for part in parts for chunk in part.chunks]
    return pa.chunked_array(chunks, type=parts[0].type)


def write_csv(path: str | os.PathLike, frames: Iterable[Frame]) -> None:
    """Write frames with the same columns one below the other, through a temporary file.

    Raises:
        FileError: where the place cannot be written to; nothing is left there then.
    """
    place = Path(path)
    partial = place.with_name(f".{place.name}.partial")
    options = csv.WriteOptions(include_header=False, quoting_style="needed")
    writer = None
    try:
        with open(partial, "wb") as file:
            for frame in frames:
                batch = pa.table(dict(frame.columns))
                if writer is None:
                    file.write((",".join(map(_quoted, batch.column_names)) + "\n").encode())
                    writer = csv.CSVWriter(file, batch.schema, write_options=options)
                writer.write_table(batch)
            if writer is not None:
                writer.close()
        os.replace(partial, place)
    except OSError as error:
        raise FileError(f"{str(place)!r} cannot be written: {_first_line(error)}") from None
    finally:
        partial.unlink(missing_ok=True)


def _quoted(name: str) -> str:
    """A column name as a cell of the header; Arrow would quote every one."""
    if any(char in name for char in ',"\n\r'):
        return '"' + name.replace('"', '""') + '"'
    return name
