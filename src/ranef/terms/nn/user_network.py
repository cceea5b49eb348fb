"""Checks the Keras model that a user gives to nn(), and finds what each of its inputs is fed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.terms.nn import graph, inputs, variables
from ranef.terms.nn.keras_backend import keras_on_jax
from ranef.terms.nn.keras_types import Model


def built(name: str, network: object, arguments: Sequence[inputs.Argument]) -> tuple[Model, bool]:
    """The network as a Keras model, and whether it was built here because it had no weights yet.

    Args:
        name: name of the network.
        network: what the user gave.
        arguments: arguments of the term.

    Raises:
        OptionError: for anything but a Keras model.
    """
    library = keras_on_jax()
    if not isinstance(network, library.Model):
        raise OptionError(
            f"the network {name!r} must be a Keras model, not {type(network).__name__}"
        )
    model = cast(Model, network)
    anew = not model.built and isinstance(model, library.Sequential) and bool(model.layers)
    if anew:
        model.build((None, *inputs.joint_shape(arguments)))
    return model, anew


def refuse_unusable(
    name: str, model: Model, initial: Mapping[str, NDArray], users: Sequence[str]
) -> None:
    """Refuse a network that has changed, has no layers, or has no outputs that the terms can take.

    Args:
        name: name of the network.
        model: the network.
        initial: values of its variables when the `Model` was made, by name.
        users: labels of the terms that share it.

    Raises:
        OptionError: for such a network.
    """
    if getattr(model, "inputs", None) and initial.keys() != variables.values(model).keys():
        raise OptionError(
            f"the network {name!r} has got other layers since the Model was made; make it anew"
        )
    if not getattr(model, "inputs", None):
        raise OptionError(
            f"the network {name!r} must be a Sequential or functional Keras model with layers"
        )
    if not isinstance(model.output_shape, tuple) or len(model.outputs) != 1:
        raise OptionError(f"the network {name!r} has several outputs; nn() takes one")
    width, own = len(users), tuple(model.output_shape[1:])
    if own != (width,) and not (width == 1 and own == ()):
        of = f", one output for each of {', '.join(users)}" if width > 1 else ""
        raise OptionError(
            f"the network {name!r} gives output of shape {model.output_shape}; end it with "
            f"Dense({width}){of}"
        )


def feeds(
    name: str, model: Model, arguments: tuple[inputs.Argument, ...], label: str
) -> tuple[inputs.Feed, ...]:
    """What each input of the network is fed.

    Args:
        name: name of the network.
        model: the network.
        arguments: arguments of the term.
        label: what messages call the term.

    Raises:
        OptionError: for inputs that take text, or that do not fit the arguments.
    """
    tensors = graph.inputs(model)
    texts = [key for key, tensor in tensors if tensor.dtype == "string"]
    if texts:
        raise OptionError(
            f"the input {texts[0]!r} of the network {name!r} takes text, and nn() gives levels "
            "as whole numbers; make it Input((), dtype='int32') without a StringLookup"
        )
    entries = [inputs.Input(key, tuple(t.shape)[1:]) for key, t in tensors]
    found = inputs.match(name, label, entries, arguments)
    return tuple(
        replace(feed, entries=graph.entries(model, tensor, name, inputs.coded(feed, arguments)))
        for feed, (_, tensor) in zip(found, tensors, strict=True)
    )
