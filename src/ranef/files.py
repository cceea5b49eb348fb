"""Files written whole or not at all."""

import os
from pathlib import Path
from typing import Any

from ranef.errors import FileError


def write_whole(path: Any, content: str | bytes) -> Path:
    """Write a file under a temporary name beside it, then rename it; returns its path.

    Raises:
        FileError: where it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise FileError(
            f"{str(path)!r} cannot be written ({error.strerror}); give a file in a folder that "
            "exists and may be written to"
        ) from None
    finally:
        if partial.exists():
            partial.unlink()
    return path
