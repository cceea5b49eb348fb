"""The multilayer perceptron of nn(hidden=...): numbers and embedded levels, then layers.

A column of q levels is embedded in min(50, (q + 1) // 2) dimensions.
"""

import math
from collections.abc import Sequence
from typing import Any

from ranef.lazy import jax, jnp
from ranef.terms.nn.inputs import Argument, Feed

_WIDEST = 50


class UnknownActivation(ValueError):
    """An activation that Keras does not know."""


def takes_numbers(arguments: Sequence[Argument]) -> bool:
    return not all(argument.is_coded for argument in arguments)


def feeds(arguments: Sequence[Argument]) -> tuple[Feed, ...]:
    """All numbers as one input, the first, and each column of levels as one."""
    numbers = tuple(i for i, a in enumerate(arguments) if not a.is_coded)
    width = sum(arguments[i].width for i in numbers)
    levels = [
        Feed(a.name, (i,), (), len(a.levels) + 1)
        for i, a in enumerate(arguments)
        if a.levels is not None
    ]
    return (*([Feed("numbers", numbers, (width,))] if numbers else []), *levels)


def embedded(levels: int) -> int:
    """The dimensions in which so many levels are embedded."""
    return min(_WIDEST, (levels + 1) // 2)


def build(
    keras: Any,
    arguments: Sequence[Argument],
    given: Sequence[Feed],
    widths: Sequence[int],
    activation: Any,
    l2: float,
) -> Any:
    """The network, its weights yet to be drawn.

    Args:
        keras: the module.
        arguments: of the term.
        given: its inputs, as `feeds` says.
        widths: of the hidden layers.
        activation: of these.
        l2: penalty of every kernel and embedding.

    Raises:
        UnknownActivation: for one that Keras does not know.
    """
    penalty = keras.regularizers.L2(l2) if l2 else None
    try:
        layers = [
            keras.layers.Dense(
                width, activation=activation, kernel_regularizer=penalty, name=f"hidden_{i + 1}"
            )
            for i, width in enumerate(widths)
        ]
    except ValueError as error:
        raise UnknownActivation(str(error)) from None
    layers.append(keras.layers.Dense(1, kernel_regularizer=penalty, name="output"))
    if not any(arguments[place].is_coded for feed in given for place in feed.arguments):
        return keras.Sequential([keras.layers.Input(given[0].shape), *layers], name="nn")
    entries, parts = [], []
    for i, feed in enumerate(given):
        if not feed.entries:
            entries.append(keras.Input(feed.shape, name="numbers"))
            parts.append(entries[-1])
            continue
        entries.append(keras.Input((), dtype="int32", name=f"levels_{i}"))
        embedding = keras.layers.Embedding(
            feed.entries,
            embedded(feed.entries - 1),
            embeddings_regularizer=penalty,
            name=_layer_name(i, feed.name),
        )
        parts.append(embedding(entries[-1]))
    out = keras.layers.Concatenate(name="joined")(parts) if len(parts) > 1 else parts[0]
    for layer in layers:
        out = layer(out)
    return keras.Model(entries, out, name="nn")


def start(path: str, shape: tuple[int, ...]) -> Any:
    """Initial weights, or what makes them of a PRNG key.

    Zeros for a bias, a length of one for an embedding, Glorot's uniform for a kernel. A level that
    training did not see is embedded at zero, where nothing moves it.
    """
    if len(shape) < 2:
        return jnp.zeros(shape)
    if path.endswith("/embeddings"):
        # Of the size of standardized numbers: from Keras's .05 a level takes long to be told.
        bound = 1.7 / math.sqrt(shape[1])
        return lambda key: jax.random.uniform(key, shape, "float32", -bound, bound).at[0].set(0.0)
    return lambda key: jax.nn.initializers.glorot_uniform()(key, shape)


def _layer_name(i: int, column: str) -> str:
    """A name that no other layer has; Keras refuses a "/" in it."""
    return f"embedding_{i}_{column}".replace("/", "_over_")
