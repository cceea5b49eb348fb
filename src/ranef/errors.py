"""The exceptions of the library, which it raises for input that it cannot use.

Every message is one sentence, sometimes with a caret below a formula. It names the column, level,
term or file at fault, and says what was expected and what to do.
"""

import difflib
from collections.abc import Iterable

import numpy as np


class RanefError(Exception):
    """Base class of the library's exceptions."""


class FormulaError(RanefError, ValueError):
    """A formula that does not parse, or that asks for something that does not exist."""

    @classmethod
    def at(cls, text: str, position: int, message: str) -> "FormulaError":
        """An error that shows the line of `text` at fault with a caret below `position`."""
        position = min(position, len(text))
        start = text.rfind("\n", 0, position) + 1
        end = text.find("\n", position)
        line = text[start : end if end >= 0 else len(text)]
        # Of a very long line, show at most 120 characters around the position.
        first = max(0, position - start - 60)
        shown = line[first : first + 120]
        return cls(f"{message}\n  {shown}\n  {' ' * (position - start - first)}^")


class DataError(RanefError, ValueError):
    """A table whose content does not fit the model."""


class ExactFitError(DataError):
    """A response that the common effects fit exactly, so that nothing tells its dispersion.

    Attributes:
        unknown: names of the parameters of which the response says nothing.
    """

    def __init__(self, message: str, unknown: tuple[str, ...]) -> None:
        super().__init__(message)
        self.unknown = unknown

    def __reduce__(self) -> tuple[type["ExactFitError"], tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.unknown)


class ColumnError(RanefError, KeyError):
    """A name that is not a column of the table, or not a name in the model."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, in quotes.
        return str(self.args[0])


class FileError(RanefError, OSError):
    """A file or folder that cannot be read or written."""


class OptionError(RanefError, ValueError):
    """An invalid argument."""


class MethodError(OptionError):
    """A model or table that the chosen method cannot fit, but another method can.

    Attributes:
        method: name of the method.
        reason: what the method requires, as the rest of a sentence that begins with its name.
    """

    def __init__(self, method: str, reason: str) -> None:
        super().__init__(f"method {method!r} {reason}; use method='svi'")
        self.method, self.reason = method, reason

    def __reduce__(self) -> tuple[type["MethodError"], tuple[str, str]]:
        return type(self), (self.method, self.reason)


class BackendError(RanefError, RuntimeError):
    """Keras runs on a backend other than JAX."""


class PackageError(RanefError, ImportError):
    """An optional package that is not installed; the message names the extra that installs it."""


def whole_number(name: str, value: object, *, least: int) -> int:
    """`value` as an int; Python and NumPy integers from `least` to 2^32 - 1 are accepted.

    Raises:
        OptionError: for any other value, naming the argument `name`.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        whole = int(value)
        if least <= whole < 2**32:
            return whole
    raise OptionError(f"{name} must be a whole number of at least {least}, not {value!r}")


def suggestion(name: str, known: Iterable[object], limit: int = 12) -> str:
    """A hint for an unknown name: the closest known name, or else up to `limit` known names."""
    names = [str(k) for k in known]
    if not names:
        return "there are none"
    close = difflib.get_close_matches(str(name), names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    listed = ", ".join(names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"known are: {listed}{more}"


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if there is none."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
