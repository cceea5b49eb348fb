"""What the library says when the input is at fault.

Every message is one sentence (sometimes with a caret under a formula) that names
the column, level, term or file, says what was expected and what to do.
"""

import difflib
from typing import Any

import numpy as np


class RanefError(Exception):
    """Base of everything raised for input that cannot be used."""


class FormulaError(RanefError, ValueError):
    """A formula that does not parse or asks for what is not there."""

    @classmethod
    def at(cls, text: str, position: int, message: str) -> "FormulaError":
        """The message, then the line of `text` at fault and a caret under `position`."""
        position = min(position, len(text))
        start = text.rfind("\n", 0, position) + 1
        end = text.find("\n", position)
        line = text[start : end if end >= 0 else len(text)]
        # A very long line would push the caret out of sight: show its surroundings.
        first = max(0, position - start - 60)
        shown = line[first : first + 120]
        return cls(f"{message}\n  {shown}\n  {' ' * (position - start - first)}^")


class DataError(RanefError, ValueError):
    """A table whose content does not fit the model."""


class ColumnError(RanefError, KeyError):
    """A name that is not a column of the table, or not a name the model knows."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument; a sentence should read as one.
        return str(self.args[0])


class FileError(RanefError, OSError):
    """A file or folder that cannot be read or written."""


class OptionError(RanefError, ValueError):
    """An argument outside what it may be."""


class MethodError(OptionError):
    """A method that cannot fit a model or a table which another method can.

    Attributes:
        method: its name.
        reason: what it takes instead, to be read after the name.
    """

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(f"method {method!r} {reason}; use method='svi'")
        self.method, self.reason = method, reason


class RowsNeededError(RanefError):
    """A method that goes through rows in batches, and needs all of this table's at once.

    It is caught where the rows are read.
    """


class BackendError(RanefError, RuntimeError):
    """Keras runs on another backend than JAX."""


def whole_number(name: str, value: Any, *, least: int) -> int:
    """`value` as an int, NumPy's included.

    Raises:
        OptionError: naming the argument, for anything else or a number below `least`.
    """
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if whole and least <= int(value) < 2**32:
        return int(value)
    raise OptionError(f"{name} must be a whole number of at least {least}, not {value!r}")


def suggestion(name: str, known: Any, limit: int = 12) -> str:
    """Ask whether a close known name was meant, else list the known ones."""
    known = [str(k) for k in known]
    if not known:
        return "there are none"
    close = difflib.get_close_matches(str(name), known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    listed = ", ".join(known[:limit])
    more = f" and {len(known) - limit} more" if len(known) > limit else ""
    return f"known are: {listed}{more}"
