"""The variables of a Keras network by name: their values, and the seeds of random layers."""

from collections.abc import Callable, Iterable, Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.lazy import Array, ArrayLike, jax, mutable
from ranef.terms.nn.keras_types import Model

Values = Mapping[str, NDArray]


def names(network: Model) -> dict[int, str]:
    """Unique name of each variable, by its `id`: its path, with "_" appended to repeated ones."""
    out: dict[int, str] = {}
    taken: set[str] = set()
    for variable in network.variables:
        name = variable.path
        while name in taken:
            name += "_"
        taken.add(name)
        out[id(variable)] = name
    return out


def values(network: object) -> dict[str, NDArray]:
    """Values of the variables by name; empty before the network is built, or if it is none."""
    if not getattr(network, "built", False):
        return {}
    model = cast("Model", network)
    known = names(model)
    return {known[id(v)]: np.array(v.value) for v in model.variables}


def assign(network: Model, held: Values) -> None:
    """Assign values to the variables of a network.

    Raises:
        OptionError: if the names or shapes are not those of the network.
    """
    known = names(network)
    shapes = {known[id(v)]: tuple(v.shape) for v in network.variables}
    if shapes != {name: np.shape(value) for name, value in held.items()}:
        raise OptionError(
            f"the network {network.name!r} has other layers now than when it was fitted; load the "
            "fit from its file, or build the network again"
        )
    for variable in network.variables:
        variable.assign(held[known[id(variable)]])


def seeds(network: Model) -> list[str]:
    """Names of the seeds of its random layers, such as dropout."""
    known = names(network)
    return [
        known[id(v)] for v in network.non_trainable_variables if v.name == "seed_generator_state"
    ]


def drawn(names: Iterable[str], key: Array) -> dict[str, Array]:
    """Draw a value of each seed, with `key`."""
    keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}
    return {name: jax.random.bits(own, (2,), "uint32") for name, own in keys.items()}


def mutable_state(site: str, start: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """The mutable state at a site, within a NumPyro program.

    It is `start` unless it is substituted, and is updated in place.
    """
    # NumPyro takes any pytree here, and its annotation says that it takes an array.
    state = cast("Callable[[str, Mapping[str, ArrayLike]], dict[str, ArrayLike]]", mutable)
    return state(site, start)
