"""The file format of a saved fit: a zip archive of `model.json` and `arrays.safetensors`.

Both parts are stored without compression, so that neither can be larger than the file. A file that
claims otherwise is refused before memory is allocated for it.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from ranef.errors import FileError, OptionError
from ranef.files.atomic_write import StrPath, refuse_no_path, refuse_special, replacing

# Packages whose versions are written to the file.
_LIBRARIES = ("ranef", "jax", "numpyro", "keras", "numpy")
# Version of the file format; files of a newer version are refused.
FORMAT = 1

# What messages call bytes that are in no file.
PACKED = "a pickled fit"

# Name of the part that holds the model as JSON.
_TEXT = "model.json"
# Name of the part that holds the arrays.
_NUMBERS = "arrays.safetensors"
# Largest accepted size of model.json in bytes. Long lists, such as levels, are among the arrays.
_LONGEST = 64_000_000
# Date of both parts in the archive: a constant, so that the same fit gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def write(path: StrPath, content: Mapping[str, object], arrays: Mapping[str, NDArray]) -> Path:
    """Write a file; an existing file is replaced only once the new one is on the disk.

    Args:
        path: path of the file.
        content: the model as JSON values.
        arrays: name to array.

    Returns:
        The path of the file.

    Raises:
        FileError: if the file cannot be written.
    """
    with replacing(path) as file:
        _write_to(file, content, arrays)
    return Path(path)


def pack(content: Mapping[str, object], arrays: Mapping[str, NDArray]) -> bytes:
    """The bytes of the file that `write` writes."""
    file = io.BytesIO()
    _write_to(file, content, arrays)
    return file.getvalue()


def _write_to(file: BinaryIO, content: Mapping[str, object], arrays: Mapping[str, NDArray]) -> None:
    """Write both parts to an open file."""
    numbers = safetensors.numpy.save(dict(arrays))
    stamp = {"bytes": len(numbers), "sha256": hashlib.sha256(numbers).hexdigest()}
    text = json.dumps({"format": FORMAT, "arrays": stamp, **content}, allow_nan=False)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, part in ((_TEXT, text.encode("ascii")), (_NUMBERS, numbers)):
            with archive.open(zipfile.ZipInfo(name, _DATE), "w", force_zip64=True) as entry:
                entry.write(part)


def read(path: StrPath) -> tuple[dict[str, object], dict[str, NDArray]]:
    """Read a file and check its integrity.

    Returns:
        The model as JSON values, and name to array.

    Raises:
        FileError: if the file does not exist, is no regular file, is not a saved fit, is damaged,
            or was written by a newer version.
        OptionError: if `path` is no path.
    """
    refuse_no_path(path, "the path of a saved fit")
    refuse_special(path)
    try:
        with open(path, "rb") as file:
            return _read_from(file, os.fstat(file.fileno()).st_size, path)
    except (FileError, OptionError):
        raise
    except FileNotFoundError:
        raise FileError(f"there is no file {str(path)!r}; check the path") from None
    except OSError as error:
        raise FileError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if not _is_archive(path):
            raise FileError(
                f"{str(path)!r} is not a saved fit; give a file that fit.save has written"
            ) from None
        raise damaged(path, str(error)) from None


def unpack(packed: bytes) -> tuple[dict[str, object], dict[str, NDArray]]:
    """What `read` reads, from the bytes of `pack`.

    Raises:
        FileError: for bytes that are damaged or were written by a newer version.
    """
    try:
        return _read_from(io.BytesIO(packed), len(packed), PACKED)
    except FileError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise damaged(PACKED, str(error)) from None


def _read_from(
    file: BinaryIO, size: int, path: StrPath
) -> tuple[dict[str, object], dict[str, NDArray]]:
    """Read both parts from an open file of `size` bytes, which messages call `path`."""
    with zipfile.ZipFile(file) as archive:
        _refuse_odd(path, archive, size)
        content = _parsed(path, archive.read(_TEXT))
        _refuse_newer(path, content)
        numbers = archive.read(_NUMBERS)
    stamp = content.get("arrays")
    stated = stamp.get("sha256") if isinstance(stamp, dict) else None
    if stated != hashlib.sha256(numbers).hexdigest():
        raise damaged(path, f"{_NUMBERS} is not what {_TEXT} says")
    return content, _arrays(path, numbers)


def damaged(path: StrPath, reason: str) -> FileError:
    """The error for a file with invalid content."""
    return FileError(
        f"{str(path)!r} is damaged or was not written by fit.save ({reason[:200]}); save the fit "
        "again"
    )


def _is_archive(path: StrPath) -> bool:
    """Whether a file begins like a zip archive."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"PK"
    except ValueError as error:  # a NUL, or a character that no file name can contain
        raise FileError(f"{str(path)!r} cannot be read: {error}; check the path") from None


def _refuse_odd(path: StrPath, archive: zipfile.ZipFile, size: int) -> None:
    """Refuse parts other than the two, compressed parts, and sizes beyond that of the file."""
    for entry in archive.infolist():
        if entry.filename not in (_TEXT, _NUMBERS):
            raise damaged(path, f"it holds {entry.filename!r:.100}, which no saved fit does")
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or entry.file_size != entry.compress_size or entry.file_size > size:
            raise damaged(path, f"{entry.filename} claims {entry.file_size:,} bytes")
        if entry.filename == _TEXT and entry.file_size > _LONGEST:
            raise damaged(path, f"{_TEXT} has {entry.file_size:,} bytes")
    if sorted(archive.namelist()) != sorted((_TEXT, _NUMBERS)):
        raise damaged(path, f"it does not hold {_TEXT} and {_NUMBERS} once each")


def _parsed(path: StrPath, text: bytes) -> dict[str, object]:
    """The JSON object in `text`; NaN and infinite constants are refused."""

    def refuse(constant: str) -> None:
        raise damaged(path, f"{constant} stands in {_TEXT}")

    try:
        content = json.load(io.TextIOWrapper(io.BytesIO(text), "utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{_TEXT} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise damaged(path, f"{_TEXT} is not an object")
    return content


def _refuse_newer(path: StrPath, content: Mapping[str, object]) -> None:
    """Refuse a file of a newer format version."""
    version = content.get("format")
    if type(version) is not int or version < 1:
        raise damaged(path, f"{version!r:.40} is not a format")
    if version > FORMAT:
        made = content.get("versions")
        by = made.get("ranef", "unknown") if isinstance(made, dict) else None
        raise FileError(
            f"{str(path)!r} has format {version:,}, written by ranef {str(by)[:20]}, and this one "
            f"reads formats up to {FORMAT}; install a newer ranef"
        )


def _arrays(path: StrPath, numbers: bytes) -> dict[str, NDArray]:
    """All arrays by name; safetensors refuses shapes that do not match the number of bytes."""
    try:
        return dict(safetensors.numpy.load(numbers))
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise damaged(path, f"{_NUMBERS}: {error}") from None


def ordered(array: NDArray) -> tuple[NDArray, list[int]]:
    """The array with its axes transposed into memory order, as safetensors stores it.

    NumPy sums along memory, so an array that is read back in another memory order would give
    sums with other last digits.

    Returns:
        The transposed array, which is C-contiguous, and the order of axes that it has.
    """
    if array.flags.c_contiguous:
        return array, list(range(array.ndim))
    # The stride of an axis of length one has no meaning, so such an axis keeps its position.
    long = [i for i, n in enumerate(array.shape) if n > 1]
    in_memory = iter(sorted(long, key=lambda i: -abs(array.strides[i])))
    axes = [next(in_memory) if n > 1 else i for i, n in enumerate(array.shape)]
    return np.asarray(array.transpose(axes), order="C"), axes


def versions() -> dict[str, str]:
    """Versions of this package and of the packages that its results depend on, if installed."""
    out = {}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            out[name] = version(name)
    return out
