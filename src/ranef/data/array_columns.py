"""Converts Arrow columns of any type to the types that the library computes with.

A column with an array per row, such as an image, becomes one float64 NumPy array (n, ...). Arrow
holds such columns as lists, of fixed size or not, or as tensors; pandas tables and dicts hold them
as objects.
"""

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.numerics.shapes import Float

# Arrow's functions. They are created at import, so that type checkers do not see them.
pc: ModuleType = import_module("pyarrow.compute")

# A column as Arrow holds it.
ArrowColumn: TypeAlias = pa.Array | pa.ChunkedArray
# A column of a `Frame`; a NumPy array (n, ...) for a column with an array per row.
Column: TypeAlias = ArrowColumn | NDArray[np.float64]

_Arrow = TypeVar("_Arrow", pa.Array, pa.ChunkedArray)


def holds_arrays(kind: pa.DataType) -> bool:
    """Whether an Arrow column of this type holds an array per row."""
    return _is_list(kind) or isinstance(kind, pa.FixedShapeTensorType)


def holds_text(kind: pa.DataType) -> bool:
    """Whether an Arrow column of this type holds texts, as they are or as categories."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def combined(values: ArrowColumn) -> pa.Array:
    """An Arrow column as a single chunk."""
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def to_numpy(values: ArrowColumn, dtype: type = np.float64) -> NDArray:
    return np.asarray(combined(values).to_numpy(zero_copy_only=False), dtype=dtype)


def of_arrow(name: str, column: ArrowColumn) -> Column:
    """An Arrow column of lists or tensors as one float64 array, (n, ...).

    Missing rows and numbers are NaN. Any other column is returned as an Arrow column by `usual`.

    Raises:
        DataError: if rows differ in shape, or do not hold numbers.
    """
    column = usual(column)
    if not holds_arrays(column.type):
        return column
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values.type, pa.FixedShapeTensorType):
        inner = of_arrow(name, values.storage)
        return inner.reshape(len(values), *values.type.shape)
    return _stacked(name, values)


def usual(column: _Arrow) -> _Arrow:
    """Cast a column of a type for which Arrow lacks functions to a similar type that has them.

    String views and UTF-8 bytes become texts, half floats become 32-bit floats, short decimals
    become 128-bit decimals, and run-end encoding is undone. Bytes that are no UTF-8 text stay
    bytes. Columns of all other types are returned as they are.
    """
    kind = column.type
    if isinstance(column, pa.ChunkedArray):
        chunks = [usual(chunk) for chunk in column.chunks or [pa.array([], kind)]]
        kinds = {chunk.type for chunk in chunks}
        # A column of bytes is a column of texts only if all its chunks are.
        return pa.chunked_array(chunks) if len(kinds) == 1 else column
    if pa.types.is_run_end_encoded(kind):
        return usual(pc.run_end_decode(column))
    if pa.types.is_dictionary(kind):
        names = usual(column.dictionary)
        if names.type == kind.value_type:
            return column
        return pa.DictionaryArray.from_arrays(column.indices, names, ordered=kind.ordered)
    if kind == pa.string_view() or _is_binary(kind):
        try:
            return pc.cast(column, pa.large_string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return pc.cast(column, pa.large_binary())
    if pa.types.is_float16(kind):
        return pc.cast(column, pa.float32())
    if pa.types.is_decimal(kind) and kind.bit_width < 128:
        return pc.cast(column, pa.decimal128(kind.precision, kind.scale))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        # Arrow's own cast of list views that share values is wrong (version 26).
        return pa.array(column.to_pylist(), pa.large_list(kind.value_type))
    return column


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_fixed(kind)


def _is_fixed(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind)


def _stacked(name: str, values: pa.Array) -> Float[NDArray, "n ..."]:
    """A list array as (n, length, ...), recursively; an array of numbers as it is."""
    if not _is_list(values.type):
        return _numbers(name, values)
    valid = np.asarray(values.is_valid().to_numpy(zero_copy_only=False), bool)
    lengths = np.unique(pc.list_value_length(values.drop_null()).to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise _ragged(name, f"{lengths[0]} and {lengths[-1]} values")
    length = (
        values.type.list_size if _is_fixed(values.type) else int(lengths[0]) if len(lengths) else 0
    )
    inner = _stacked(name, values.drop_null().flatten())
    out = np.full((len(values), length, *inner.shape[1:]), np.nan)
    out[valid] = inner.reshape(-1, length, *inner.shape[1:]) if length else 0.0
    return out


def _numbers(name: str, values: pa.Array) -> Float[NDArray, "n"]:
    kind = values.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise _no_numbers(name, str(kind))
    numbers = pc.cast(values, pa.float64(), safe=False)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)


def of_objects(name: str, values: Iterable[object]) -> Float[NDArray, "n ..."] | None:
    """A list or object column of arrays or lists of one shape as one float64 array, (n, ...).

    A missing row (None or NaN) becomes an array of NaN.

    Returns:
        None if the first value that is not missing is no array or list.

    Raises:
        DataError: if rows differ in shape, or do not hold numbers.
    """
    if not isinstance(values, (list, tuple)) and str(getattr(values, "dtype", "")) != "object":
        return None
    if getattr(values, "ndim", 1) > 1:
        return None
    listed = list(values)
    first = next((v for v in listed if not _says_nothing(v)), None)
    if not isinstance(first, (list, tuple, np.ndarray)) or np.shape(first) == ():
        return None
    shape = np.shape(first)
    out = np.full((len(listed), *shape), np.nan)
    for i, value in enumerate(listed):
        if not _says_nothing(value):
            out[i] = _one(name, value, shape)
    return out


def _one(name: str, value: object, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The array of one row, refused if it has another shape or holds no numbers."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise _ragged(name, "lists of unequal length") from None
    if array.shape != shape:
        raise _ragged(name, f"shapes {shape} and {array.shape}")
    if array.dtype.kind not in "biuf":
        raise _no_numbers(name, str(array.dtype))
    return array.astype(np.float64)


def _says_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _ragged(name: str, found: str) -> DataError:
    return DataError(
        f"column {name!r} holds arrays of several shapes ({found}); every row needs one shape"
    )


def _no_numbers(name: str, found: str) -> DataError:
    return DataError(
        f"column {name!r} holds arrays of {found} where numbers are needed; convert them first"
    )
