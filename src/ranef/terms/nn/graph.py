"""The graph of a Keras network around its inputs: their names, and where codes of levels go."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ranef.errors import OptionError

# Layers and operations that pass codes on as they are, in another shape.
_PASSING = (
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Concatenate"),
    *("Squeeze", "ExpandDims", "GetItem", "Cast"),
)
# Layers that take what they get for quantities.
_QUANTITIES = (
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "BatchNormalization", "LayerNormalization"),
    "Normalization",
)


def inputs(network: Any) -> list[tuple[str, Any]]:
    """Name and symbolic tensor of each input, in the order of the network's author.

    Raises:
        OptionError: for inputs in another structure than a list or dict.
    """
    given = _structure(network)
    if isinstance(given, Mapping):
        found = [(str(key), tensor) for key, tensor in given.items()]
    else:
        listed = given if isinstance(given, (list, tuple)) else [given]
        found = [(str(getattr(tensor, "name", "")), tensor) for tensor in listed]
    if not all(hasattr(tensor, "shape") for _, tensor in found):
        raise OptionError(
            f"the network {network.name!r} has inputs within inputs; give it a list or dict of them"
        )
    return found


def packed(network: Any, arrays: Sequence[Any]) -> Any:
    """Arrays in the order of `inputs` as the network is called with them."""
    given = _structure(network)
    if isinstance(given, Mapping):
        return dict(zip(given, arrays, strict=True))
    return list(arrays) if isinstance(given, (list, tuple)) else arrays[0]


def before_last(model: Any, network: Any) -> tuple[Any, Any]:
    """The part of a network before its last layer, and that layer, which is linear.

    `model` is Keras's class of functional models.

    Raises:
        OptionError: for a network that does not end so.
    """
    last = network.layers[-1]
    tensor = last.input if _is_linear(last) else None
    if tensor is None or isinstance(tensor, (list, tuple)) or len(tensor.shape) != 2:
        raise OptionError(
            f"the network {network.name!r} must end with a Dense layer that has no activation and "
            "takes one row of features, for weights='last'"
        )
    if last.output is not network.outputs[0]:
        raise OptionError(
            f"the output of the network {network.name!r} must be that of its last layer, for "
            "weights='last'"
        )
    return model(_structure(network), tensor), last


def linear_end(network: Any) -> Any:
    """The Dense layer without an activation that the network ends with, None where it does not."""
    last = network.layers[-1]
    return last if _is_linear(last) and last.output is network.outputs[0] else None


def _is_linear(layer: Any) -> bool:
    return type(layer).__name__ == "Dense" and layer.activation.__name__ == "linear"


def _structure(network: Any) -> Any:
    # A Sequential, which alone can be popped, has one input and no node of its own.
    return network.inputs[0] if hasattr(network, "pop") else network.input


def entries(network: Any, tensor: Any, name: str, coded: Sequence[tuple[str, int]]) -> int:
    """Entries of the smallest Embedding that an input leads to, 0 for none.

    Args:
        network: the Keras model.
        tensor: the input.
        name: of the network in the formula.
        coded: name and number of levels of what the input gets, where it gets levels.

    Raises:
        OptionError: for levels that lead to too small an Embedding, or where their codes
            would be taken for quantities.
    """
    sizes = []
    for layer in _takers(network, tensor):
        kind = type(layer).__name__
        if kind == "Embedding":
            sizes.append(int(layer.input_dim))
        for column, levels in coded:
            if kind == "Embedding" and layer.input_dim < levels + 1:
                raise OptionError(
                    f"the Embedding {layer.name!r} of the network {name!r} has input_dim="
                    f"{layer.input_dim}, and {column} has {levels:,} levels and a code for any "
                    f"other; make it input_dim={levels + 1}"
                )
            if kind in _QUANTITIES:
                raise OptionError(
                    f"the network {name!r} gives the levels of {column} to the layer "
                    f"{layer.name!r} ({kind}), which would take their codes for quantities; put an "
                    f"Embedding with input_dim={levels + 1} before it"
                )
    return min(sizes, default=0)


def _takers(network: Any, tensor: Any) -> Iterator[Any]:
    """Layers that a tensor reaches with its values unchanged."""
    for layer in getattr(network, "operations", None) or network.layers:
        for node in layer._inbound_nodes:
            places = [i for i, t in enumerate(node.input_tensors) if t is tensor]
            if not places:
                continue
            if type(layer).__name__ in _PASSING:
                for output in node.output_tensors:
                    yield from _takers(network, output)
            elif getattr(layer, "inputs", None) and hasattr(layer, "layers"):
                for place in places:
                    yield from _takers(layer, layer.inputs[place])
            else:
                yield layer
