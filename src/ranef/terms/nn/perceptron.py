"""The multilayer perceptron of nn(hidden=...): dense layers on numbers and embedded levels.

A column of q levels is embedded in min(50, (q + 1) // 2) dimensions.
"""

import math
from collections.abc import Callable, Sequence
from types import ModuleType

from ranef.lazy import Array, jax, jnp
from ranef.terms.nn.inputs import Argument, Feed
from ranef.terms.nn.keras_types import Model

# Largest dimension of an embedding.
_WIDEST = 50


class UnknownActivation(ValueError):
    """An activation that Keras does not know."""


def takes_numbers(arguments: Sequence[Argument]) -> bool:
    """Whether at least one argument is numeric."""
    return not all(argument.is_coded for argument in arguments)


def feeds(arguments: Sequence[Argument]) -> tuple[Feed, ...]:
    """The inputs of the perceptron: first one of all numbers, then one for each level column."""
    numbers = tuple(i for i, a in enumerate(arguments) if not a.is_coded)
    width = sum(arguments[i].width for i in numbers)
    levels = [
        Feed(a.name, (i,), (), len(a.levels) + 1)
        for i, a in enumerate(arguments)
        if a.levels is not None
    ]
    return (*([Feed("numbers", numbers, (width,))] if numbers else []), *levels)


def embedded(levels: int) -> int:
    """The dimension in which a column with this number of levels is embedded."""
    return min(_WIDEST, (levels + 1) // 2)


def build(
    keras: ModuleType,
    arguments: Sequence[Argument],
    inputs: Sequence[Feed],
    widths: Sequence[int],
    activation: object,
    l2: float,
) -> Model:
    """Build the network. `start` draws its initial weights.

    Args:
        keras: the module Keras.
        arguments: arguments of the term.
        inputs: inputs of the network, as returned by `feeds`.
        widths: widths of the hidden layers.
        activation: activation of the hidden layers.
        l2: L2 penalty on every kernel and embedding.

    Raises:
        UnknownActivation: for an activation that Keras does not know.
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
    if not any(arguments[place].is_coded for feed in inputs for place in feed.arguments):
        return keras.Sequential([keras.layers.Input(inputs[0].shape), *layers], name="nn")
    entries, vectors = [], []
    for i, feed in enumerate(inputs):
        if not feed.entries:
            entries.append(keras.Input(feed.shape, name="numbers"))
            vectors.append(entries[-1])
            continue
        entries.append(keras.Input((), dtype="int32", name=f"levels_{i}"))
        embedding = keras.layers.Embedding(
            feed.entries,
            embedded(feed.entries - 1),
            embeddings_regularizer=penalty,
            name=_layer_name(i, feed.name),
        )
        vectors.append(embedding(entries[-1]))
    joined = keras.layers.Concatenate(name="joined")
    out = joined(vectors) if len(vectors) > 1 else vectors[0]
    for layer in layers:
        out = layer(out)
    return keras.Model(entries, out, name="nn")


def start(path: str, shape: tuple[int, ...]) -> Array | Callable[[Array], Array]:
    """Initial weights, or a function of a PRNG key that draws them.

    A bias starts at zero, a kernel at Glorot's uniform distribution, and an embedding at uniform
    values whose vectors have a length of about one. The entry of levels that are not in the
    training rows is zero and stays zero, because no training row uses it.

    Args:
        path: path of the variable.
        shape: shape of the variable.
    """
    if len(shape) < 2:
        return jnp.zeros(shape)
    if path.endswith("/embeddings"):
        # Uniform on -+ 1.7 / sqrt(width), so that the vector of a level is of the size of a
        # standardized number. Keras's default of .05 would make levels slow to learn.
        bound = 1.7 / math.sqrt(shape[1])
        return lambda key: jax.random.uniform(key, shape, "float32", -bound, bound).at[0].set(0.0)
    return lambda key: jax.nn.initializers.glorot_uniform()(key, shape)


def _layer_name(i: int, column: str) -> str:
    """A unique layer name, without "/", which Keras does not allow."""
    return f"embedding_{i}_{column}".replace("/", "_over_")
