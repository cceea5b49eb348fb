"""Serialization of Keras networks as plain configurations of listed layers.

A Keras configuration can name any class, and so run any code when it is read. Therefore only the
classes listed here are written or read, and Keras never loads a network from a file itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from numpy.typing import NDArray

from ranef.errors import FileError, OptionError
from ranef.terms.nn.keras_backend import keras_on_jax
from ranef.terms.nn.keras_types import Model

# Allowed classes, by the module that Keras records for them.
_LISTED = {
    "keras": ("Sequential", "DTypePolicy"),
    "keras.layers": (
        *("InputLayer", "Dense", "EinsumDense", "Embedding", "Activation", "Dropout"),
        *("AlphaDropout", "GaussianDropout", "GaussianNoise", "SpatialDropout1D"),
        *("SpatialDropout2D", "ActivityRegularization", "BatchNormalization"),
        *("LayerNormalization", "GroupNormalization", "UnitNormalization", "Rescaling"),
        *("ELU", "LeakyReLU", "PReLU", "ReLU", "Softmax", "Identity"),
        *("Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"),
        *("Flatten", "Permute", "RepeatVector", "Reshape", "ZeroPadding1D", "ZeroPadding2D"),
        *("Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D"),
        *("SeparableConv2D", "AveragePooling1D", "AveragePooling2D", "MaxPooling1D"),
        *("MaxPooling2D", "GlobalAveragePooling1D", "GlobalAveragePooling2D"),
        *("GlobalMaxPooling1D", "GlobalMaxPooling2D"),
    ),
    "keras.initializers": (
        *("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity"),
        *("LecunNormal", "LecunUniform", "Ones", "Orthogonal", "RandomNormal"),
        *("RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros"),
    ),
    "keras.regularizers": ("L1", "L2", "L1L2"),
    "keras.constraints": ("MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"),
}
# Other allowed class names, with the modules that Keras may record for them; None for no module.
_PLACES = {
    "Functional": ("keras.src.models.functional", "keras"),
    "__keras_tensor__": (None,),
    "__tuple__": (None,),
}
# Entries that only training needs. They are removed, because an optimizer is no listed class.
_LEFT_OUT = ("compile_config",)
# Largest depth of nesting of a configuration.
_DEEPEST = 60


def configuration(network: Model, name: str) -> object:
    """The configuration of a network.

    Args:
        network: the Keras model.
        name: what messages call the network.

    Raises:
        OptionError: for a layer that is not listed, naming it.
    """
    keras = keras_on_jax()
    config = _without(keras.saving.serialize_keras_object(network))
    for found in _objects(config):
        if not _is_listed(found):
            own = found.get("config")
            label = own.get("name") if isinstance(own, Mapping) else own
            raise OptionError(
                f"{name} has a {found['class_name']} ({label!r:.60}), which is not a layer that a "
                "saved fit can hold; build the network of Keras's own layers, Lambda apart"
            )
    return config


def rebuilt(config: object, variables: Sequence[tuple[str, NDArray]]) -> Model:
    """Build the network of a configuration.

    Args:
        config: the configuration.
        variables: path and value of each variable of the network, in order.

    Returns:
        The network, with these values.

    Raises:
        FileError: for a class that is not listed, a configuration that Keras cannot build, or
            variables of other shapes than those of the network.
    """
    for found in _objects(config):
        if not _is_listed(found):
            raise FileError(
                f"its network has a {found['class_name']!r:.60}, which is not on the list of "
                "layers that a saved fit can hold"
            )
    if not isinstance(config, Mapping) or config.get("class_name") not in (
        "Functional",
        "Sequential",
    ):
        raise FileError("its network is neither a Sequential nor a functional Keras model")
    keras = keras_on_jax()
    network = _outline(keras, config, [value.shape for _, value in variables])
    for own, (path, value) in zip(network.variables, variables, strict=True):
        own.assign(value)
        # Keras appends numbers to names that are in use, so the stored path is restored: estimates
        # are looked up by it.
        own._path = path
    return network


def _outline(
    keras: ModuleType, config: Mapping[str, object], expected: list[tuple[int, ...]]
) -> Model:
    """Build the network, and allocate its variables only if they have the expected shapes."""
    from keras.src.backend.common import global_state

    waiting = "uninitialized_variables"
    before = list(global_state.get_global_attribute(waiting, []) or [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            network = keras.saving.deserialize_keras_object(config, safe_mode=True)
        if [tuple(v.shape) for v in network.variables] != expected:
            raise FileError("the weights of its network are not those of its layers")
    except FileError:
        global_state.set_global_attribute(waiting, before)
        raise
    except Exception as error:  # Keras raises what its layers do with a configuration
        global_state.set_global_attribute(waiting, before)
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise FileError(f"its network cannot be built: {first:.120}") from None
    with keras.StatelessScope():
        pass
    return network


def _without(value: object) -> object:
    """A configuration without the entries that are left out."""
    if isinstance(value, Mapping):
        return {k: _without(v) for k, v in value.items() if k not in _LEFT_OUT}
    return [_without(item) for item in value] if isinstance(value, (list, tuple)) else value


def _objects(value: object, depth: int = 0) -> Iterator[Mapping[str, object]]:
    """All entries of a configuration that name a class.

    Raises:
        FileError: for a configuration nested more deeply than `_DEEPEST`.
    """
    if depth > _DEEPEST:
        raise FileError("the configuration of its network is too deep")
    if isinstance(value, Mapping):
        if "class_name" in value:
            yield value
        for item in value.values():
            yield from _objects(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _objects(item, depth + 1)


def _is_listed(found: Mapping[str, object]) -> bool:
    """Whether the class that an entry names is allowed."""
    name, module = found["class_name"], found.get("module")
    if not isinstance(name, str):
        return False
    if name in _PLACES:
        return module in _PLACES[name] and found.get("registered_name") in (None, name)
    return (
        isinstance(module, str)
        and name in _LISTED.get(module, ())
        and found.get("registered_name") is None
    )
