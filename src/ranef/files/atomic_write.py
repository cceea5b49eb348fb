"""Files written whole or not at all, under a temporary name that nobody can foresee."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ranef.errors import FileError, OptionError, RanefError

# A temporary file must be new: O_EXCL refuses a name that is taken, a planted link's included.
# O_NOFOLLOW and O_BINARY are not on every system.
_NEW = (
    os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
# What open() asks for; the umask of the process takes from it.
_NEW_MODE = 0o666
# While a file of known permissions is being replaced, only its owner sees the temporary one.
_OWNER_ONLY = 0o600
# Permissions of owner, group and others, without the set-user-ID, set-group-ID and sticky bits.
_PERMISSIONS = 0o777
# Bytes of randomness in a temporary name: nobody guesses 64 bits, and no two savers share them.
_TOKEN_BYTES = 8
# Characters of the target's name in a temporary one; with the token, a name of 4-byte
# characters stays below the 255 bytes that file systems allow.
_NAME_CHARACTERS = 40
_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@contextmanager
def replacing(path: Any) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends without an error.

    Until it is on the disk it lies beside `path` as `.NAME.TOKEN.partial` with a random token, and
    is then renamed: whoever is killed on the way leaves what was there before, and the temporary
    file. That file is created new, never through a link, and removed when something fails. It has
    the permissions of the file that it replaces, or those that the umask leaves to a new one.

    Where `path` is a symbolic link, the file that it leads to is replaced in that file's own
    folder, and the link stays.

    Raises:
        FileError: where it cannot be written, or `path` is a folder, a device, a FIFO or a socket.
        OptionError: where `path` is neither a text nor a Path.
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
            # Its own failure would hide the error that left it behind.
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def refuse_no_path(path: Any, what: str) -> None:
    """For anything but a text or a Path.

    Args:
        path: what was given.
        what: its name in the sentence, as in "the path of a file".

    Raises:
        OptionError: saying so.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise OptionError(f"{what} must be a text or a Path, not {path!r:.60}")


def refuse_special(path: Any) -> None:
    """For a device, a FIFO or a socket, which have no end or make the reader wait for a writer.

    A file or a folder passes, and so does a path that leads nowhere.

    Raises:
        FileError: saying which of them it is.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        # Whoever opens it says what is wrong with the path.
        return
    kind = _special(mode)
    if kind is not None and not stat.S_ISDIR(mode):
        raise FileError(f"{str(path)!r} cannot be read: it is {kind}; give a file on the disk")


def refuse_unwritable_folder(path: Path) -> None:
    """Say before the work, not after it, that its results have no place.

    Raises:
        FileError: where no file can be made in the folder.
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
    """Say before the work, not after it, that its result has no place.

    Raises:
        FileError: where the folder is not there, or the path is of something else than a file.
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


def _mode_of(path: Any, place: Path) -> int | None:
    """The permissions of the file that is to be replaced; None where there is none.

    Args:
        path: as the user has given it.
        place: where that leads.

    Raises:
        FileError: where something else than a file is in its place.
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
    """What it is, if not a file; None for a file."""
    return next((what for is_one, what in _SPECIAL if is_one(mode)), None)


def _unwritable(path: Any, reason: Any) -> FileError:
    return FileError(
        f"{str(path)!r} cannot be written ({reason}); give a file in a folder that exists and may "
        "be written to"
    )


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
