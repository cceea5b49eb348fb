"""Standard input as a table, standard output as a file: `-` in the place of a path."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ranef.errors import RanefError

STANDARD = "-"

# The folder of a table that came by standard input is gone when its name is shown.
_INPUT = "standard input.csv"


@contextmanager
def table(path: str) -> Iterator[str]:
    """The path of a table; for `-` that of a file with what standard input holds, as CSV.

    Messages of errors say "standard input" for it.
    """
    if path != STANDARD:
        yield path
        return
    with TemporaryDirectory() as folder:
        held = Path(folder) / _INPUT
        with held.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield str(held)
        except RanefError as error:
            said = str(error).replace(repr(str(held)), "standard input")
            error.args = (said, *error.args[1:])
            raise


@contextmanager
def output(path: Path) -> Iterator[Path]:
    """The path to write a CSV to; for `-` that of a file that is copied to standard output."""
    if str(path) != STANDARD:
        yield path
        return
    with TemporaryDirectory() as folder:
        held = Path(folder) / "standard output.csv"
        yield held
        with held.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, sys.stdout)


def shown(path: str) -> str:
    """A path of a table as results show it: absolute, or `-`."""
    return path if path == STANDARD else str(Path(path).resolve())
