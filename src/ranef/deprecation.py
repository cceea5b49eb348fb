"""Keeps the old name of something public for one release."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def renamed(
    new: Callable[_Arguments, _Result], old: str, *, until: str
) -> Callable[_Arguments, _Result]:
    """A function or method under its old name, which warns at each call.

    As in ``icc = renamed(share, "icc", until="0.3")``, in the module or class of `share`.

    Args:
        new: the function under its new name.
        old: the old name.
        until: the release in which the old name goes, such as "0.3".

    Returns:
        A function that gives a `DeprecationWarning` and does what `new` does.
    """

    @wraps(new)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        warnings.warn(
            f"{old} is now called {new.__name__}, and the old name goes in ranef {until}",
            DeprecationWarning,
            stacklevel=2,
        )
        return new(*args, **kwargs)

    call.__name__ = old
    call.__qualname__ = new.__qualname__.removesuffix(new.__name__) + old
    return call
