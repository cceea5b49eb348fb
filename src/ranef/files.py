"""Files written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ranef.errors import FileError, OptionError


@contextmanager
def replacing(path: Any) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends without an error.

    It lies beside `path` under a temporary name until it is on the disk, and is then renamed:
    whoever is killed on the way leaves what was there before.

    Raises:
        FileError: where it cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"the path of a file must be a text or a Path, not {path!r:.60}")
    partial: Path | None = None
    try:
        place = Path(path)
        partial = place.with_name(f".{place.name}.partial")
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, place)
        _settle(place.parent)
    except (OSError, ValueError) as error:
        if isinstance(error, (FileError, OptionError)):
            raise
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"{str(path)!r} cannot be written ({reason}); give a file in a folder that "
            "exists and may be written to"
        ) from None
    finally:
        if partial is not None:
            with suppress(OSError, ValueError):
                partial.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Bring a rename to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: Any, content: str | bytes) -> Path:
    """Write a file that takes the place of `path` once it is complete; returns its path.

    Raises:
        FileError: where it cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)
