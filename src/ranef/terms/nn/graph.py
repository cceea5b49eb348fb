"""The graph of a Keras network: its inputs, its last layer, and the layers that codes reach."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ranef.errors import OptionError
from ranef.terms.nn.keras_types import Dense, KerasTensor, Layer, Model

_Rows = TypeVar("_Rows")

# Layers and operations that pass on the values of their inputs unchanged, in another shape.
_PASSING = (
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Identity", "Concatenate"),
    *("Squeeze", "ExpandDims", "GetItem", "Cast"),
)
# Layers that treat their inputs as quantities, so that codes of levels make no sense to them.
_QUANTITIES = (
    *("Dense", "EinsumDense", "Conv1D", "Conv2D", "BatchNormalization", "LayerNormalization"),
    "Normalization",
)


def inputs(network: Model) -> list[tuple[str, KerasTensor]]:
    """Name and symbolic tensor of each input, in the order in which the network lists them.

    Raises:
        OptionError: for inputs in another structure than a flat list or dict.
    """
    structure = _structure(network)
    if isinstance(structure, Mapping):
        found = [(str(key), tensor) for key, tensor in structure.items()]
    else:
        listed = structure if isinstance(structure, Sequence) else [structure]
        found = [(str(getattr(tensor, "name", "")), tensor) for tensor in listed]
    if not all(hasattr(tensor, "shape") for _, tensor in found):
        raise OptionError(
            f"the network {network.name!r} has inputs within inputs; give it a list or dict of them"
        )
    return found


def packed(network: Model, arrays: Sequence[_Rows]) -> _Rows | list[_Rows] | dict[object, _Rows]:
    """Arrays in the order of `inputs`, in the structure with which the network is called."""
    structure = _structure(network)
    if isinstance(structure, Mapping):
        return dict(zip(structure, arrays, strict=True))
    return list(arrays) if isinstance(structure, Sequence) else arrays[0]


def before_last(model: type[Model], network: Model) -> tuple[Model, Dense]:
    """Split a network before its last layer, which must be linear.

    Args:
        model: the class `keras.Model`.
        network: the network.

    Returns:
        The network before the last layer, and that layer.

    Raises:
        OptionError: if the network does not end with a linear Dense layer of one vector per row.
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


def linear_end(network: Model) -> Dense | None:
    """The last layer, if it is a Dense layer without an activation; None otherwise."""
    last = network.layers[-1]
    return last if _is_linear(last) and last.output is network.outputs[0] else None


def _is_linear(layer: Layer) -> bool:
    """Whether a layer is a Dense layer without an activation."""
    return type(layer).__name__ == "Dense" and layer.activation.__name__ == "linear"


def _structure(
    network: Model,
) -> KerasTensor | Sequence[KerasTensor] | Mapping[str, KerasTensor]:
    """The symbolic inputs of a network, in the structure in which it takes them."""
    # Of Keras models only a Sequential has `pop`. It has one input, and no node of its own.
    return network.inputs[0] if hasattr(network, "pop") else network.input


def entries(
    network: Model, tensor: KerasTensor, name: str, coded: Sequence[tuple[str, int]]
) -> int:
    """Number of entries of the smallest Embedding that an input leads to; 0 for none.

    Args:
        network: the Keras model.
        tensor: the input.
        name: name of the network in the formula.
        coded: name and number of levels of the arguments with levels that the input is fed.

    Raises:
        OptionError: if levels lead to an Embedding with too few entries, or to a layer that treats
            their codes as quantities.
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


def _takers(network: Model, tensor: KerasTensor) -> Iterator[Layer]:
    """The layers that a tensor reaches with its values unchanged."""
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
