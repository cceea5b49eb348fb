"""Atomic writing of files: a file is replaced as a whole or not at all.

The content is written to a temporary file with an unpredictable name, which is then renamed.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ranef.errors import FileError, OptionError, RanefError

# A path as users give it.
StrPath = str | os.PathLike[str]

# Flags to create a temporary file. O_EXCL refuses a name that exists, even as a planted link.
# O_NOFOLLOW and O_BINARY do not exist on every system.
_NEW = (
    os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
# Permissions of a new file before the umask of the process is applied, as for open().
_NEW_MODE = 0o666
# Permissions of the temporary file while it replaces a file with permissions of its own.
_OWNER_ONLY = 0o600
# Permissions of owner, group and others, without the set-user-ID, set-group-ID and sticky bits.
_PERMISSIONS = 0o777
# Random bytes in a temporary name. 64 bits cannot be guessed, and two processes do not collide.
_TOKEN_BYTES = 8
# Characters of the target's name in the temporary name. With the token, even a name of 4-byte
# characters stays below the 255 bytes that file systems allow.
_NAME_CHARACTERS = 40
# Kinds of paths that are no regular files.
_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """A context manager with a file to write to, which replaces `path` if no error occurs.

    The content goes to a temporary file `.NAME.TOKEN.partial` in the folder of `path`, with a
    random token. It is synced to the disk and then renamed to `path`. If the process is killed
    before that, the previous file stays as it was, and the temporary file is left behind. The
    temporary file is always newly created, never opened through a link, and is removed after an
    error. It gets the permissions of the file that it replaces, or those of a new file.

    If `path` is a symbolic link, the file that it leads to is replaced and the link stays.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        FileError: if the file cannot be written, or `path` is a folder, device, FIFO or socket.
        OptionError: if `path` is neither a text nor a Path.
    """
    refuse_no_path(path, "the path of a file")
    partial: Path | None = None
    try:
        place = Path(os.path.realpath(path))
        mode = _mode_of(path, place)
        named = place.with_name(
            f".{place.name[:_NAME_CHARACTERS]}.{secrets.token_hex(_TOKEN_BYTES)}.partial"
        )
        handle = os.open(named, _NEW, _NEW_MODE if mode is None else _OWNER_ONLY)
        partial = named
        with open(handle, "wb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.chmod(handle if os.chmod in os.supports_fd else named, mode)
            os.fsync(file.fileno())
        os.replace(named, place)
        partial = None
        _settle(place.parent)
    except (OSError, ValueError) as error:
        if isinstance(error, RanefError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise _unwritable(path, reason) from None
    finally:
        if partial is not None:
            # An error here would hide the error that is being handled.
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def refuse_no_path(path: object, what: str) -> None:
    """Refuse a path that is neither a text nor a Path.

    Args:
        path: the path.
        what: how the message names it, such as "the path of a file".

    Raises:
        OptionError: if it is neither.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"{what} must be a text or a Path, not {path!r:.60}")


def refuse_special(path: StrPath) -> None:
    """Refuse to read from a device, FIFO or socket, which may have no end or block the reader.

    Files, folders and paths that do not exist are accepted.

    Raises:
        FileError: naming the kind of the path.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        # Opening the path will raise an error that says what is wrong with it.
        return
    kind = _special(mode)
    if kind is not None and not stat.S_ISDIR(mode):
        raise FileError(f"{str(path)!r} cannot be read: it is {kind}; give a file on the disk")


def refuse_unwritable_folder(path: Path) -> None:
    """Check, before results are computed, that files can be created in a folder.

    Raises:
        FileError: if they cannot.
    """
    probe = path / f".ranef-{secrets.token_hex(_TOKEN_BYTES)}"
    try:
        os.close(os.open(probe, _NEW, _OWNER_ONLY))
        probe.unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"the folder {str(path)!r} cannot be written to ({reason}); choose another"
        ) from None


def refuse_unwritable(path: Path) -> None:
    """Check, before a result is computed, that its file can be written.

    Raises:
        FileError: if the folder does not exist, or the path is not that of a regular file.
    """
    try:
        place = Path(os.path.realpath(path))
        _mode_of(path, place)
        known = place.parent.is_dir()
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise _unwritable(path, getattr(error, "strerror", None) or error) from None
    if not known:
        raise FileError(f"there is no folder {str(place.parent)!r} to write to; make it first")


def _mode_of(path: StrPath, place: Path) -> int | None:
    """The permissions of the file that is to be replaced; None if there is none.

    Args:
        path: the path as given by the user, for messages.
        place: the path with symbolic links resolved.

    Raises:
        FileError: if it is not a regular file.
    """
    try:
        mode = os.lstat(place).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):
        raise _unwritable(path, "it is a symbolic link that leads back to itself")
    kind = _special(mode)
    if kind is not None:
        raise _unwritable(path, f"it is {kind}")
    return mode & _PERMISSIONS


def _special(mode: int) -> str | None:
    """The kind of a path that is no regular file; None for a regular file."""
    return next((what for is_one, what in _SPECIAL if is_one(mode)), None)


def _unwritable(path: StrPath, reason: object) -> FileError:
    return FileError(
        f"{str(path)!r} cannot be written ({reason}); give a file in a folder that exists and may "
        "be written to"
    )


def _settle(folder: Path) -> None:
    """Sync a folder, and with it a rename, to the disk if the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: StrPath, content: str | bytes) -> Path:
    """Write a file, replacing an existing one only once the new one is complete.

    Args:
        path: path of the file.
        content: texts (written as UTF-8) or bytes.

    Returns:
        The path of the file.

    Raises:
        FileError: if the file cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)
