"""NumPyro's effect handlers as functions that keep the type of the program they are given."""

from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar, cast

from ranef.lazy import Array, ArrayLike, numpyro

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# What a site holds: an array, or arrays by name for state that the program updates.
Value = ArrayLike | Mapping[str, ArrayLike]


def seeded(
    program: Callable[_Arguments, _Result], key: Array | int
) -> Callable[_Arguments, _Result]:
    """The program with `key` as the source of its random numbers."""
    made = numpyro.handlers.seed(program, key)
    return cast("Callable[_Arguments, _Result]", made)


def substituted(
    program: Callable[_Arguments, _Result], values: Mapping[str, Value]
) -> Callable[_Arguments, _Result]:
    """The program with sites set to `values`, by site."""
    # NumPyro's annotation leaves out the sites of mutable state, which hold dicts.
    data = cast("dict[str, Array]", dict(values))
    made = numpyro.handlers.substitute(program, data=data)
    return cast("Callable[_Arguments, _Result]", made)


def hidden(
    program: Callable[_Arguments, _Result], sites: Iterable[str]
) -> Callable[_Arguments, _Result]:
    """The program with these sites hidden from the handlers around it."""
    made = numpyro.handlers.block(program, hide=list(sites))
    return cast("Callable[_Arguments, _Result]", made)
