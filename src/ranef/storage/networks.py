"""Copies of Keras networks by `terms.nn.serialization`, for models that are copied or pickled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, cast

from numpy.typing import NDArray

from ranef.terms.nn import serialization, variables

if TYPE_CHECKING:
    import keras

# A network as its configuration, and path and value of each variable; and the names it has.
StoredNetwork: TypeAlias = tuple[object, list[tuple[str, NDArray]], list[str]]


def stored(
    networks: Mapping[str, object], initial: Mapping[str, Mapping[str, NDArray]]
) -> list[StoredNetwork]:
    """Networks by name as plain values. One network of several names is stored once.

    Args:
        networks: Keras models by name.
        initial: the values that the variables get, by the network's name; for networks that are
            not listed, those that they have now.

    Raises:
        OptionError: for a network with a layer of a kind that cannot be saved, naming the layer.
    """
    names: dict[int, list[str]] = {}
    for name, network in networks.items():
        names.setdefault(id(network), []).append(name)
    out: list[StoredNetwork] = []
    for own in names.values():
        network = cast("keras.Model", networks[own[0]])
        held = next((initial[name] for name in own if initial.get(name)), None)
        values = variables.values(network) if held is None else held
        config = serialization.configuration(network, f"the network {own[0]!r}")
        out.append((config, list(values.items()), own))
    return out


def restored(kept: Iterable[StoredNetwork]) -> dict[str, keras.Model]:
    """New Keras models by name, from the values that `stored` returns."""
    out: dict[str, keras.Model] = {}
    for config, values, names in kept:
        out.update(dict.fromkeys(names, serialization.rebuilt(config, values)))
    return out
