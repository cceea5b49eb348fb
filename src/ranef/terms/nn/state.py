"""The state of a network term: its inputs as learned from the training rows, and the network."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.formula import transforms
from ranef.numerics.shapes import Float
from ranef.terms.nn import graph, inputs
from ranef.terms.nn.keras_types import Model


@dataclass(frozen=True)
class NetworkState:
    """The inputs of a network term, and the network.

    Attributes:
        learned: parameters of the transforms in the arguments.
        arguments: arguments of the term.
        feeds: the arguments that each input of the network is fed.
        mean: means of the numeric inputs of an MLP over the training rows; empty for a user's
            network, which takes its inputs as they are.
        sd: their sds.
        model: the Keras model.
        initial: initial values of the variables of a user's network, by name. Those of an MLP are
            drawn instead.
        began: mean and sd of the outputs of a user's network at its initial values,
            over some training rows. None for an MLP, and for a network from a file of an earlier
            version, whose outputs are used unscaled.

    Raises:
        ValueError: if the feeds do not match the inputs of the network.
    """

    learned: transforms.Learned
    arguments: tuple[inputs.Argument, ...]
    feeds: tuple[inputs.Feed, ...]
    mean: Float[NDArray[np.float64], "k"]
    sd: Float[NDArray[np.float64], "k"]
    model: Model
    initial: Mapping[str, NDArray]
    began: Float[NDArray[np.float64], "2 outputs"] | None = None

    def __post_init__(self) -> None:
        taking = [inputs.Input(name, tuple(t.shape)[1:]) for name, t in graph.inputs(self.model)]
        known = range(len(self.arguments))
        fed = [place for feed in self.feeds for place in feed.arguments]
        if len(taking) != len(self.feeds) or sorted(fed) != list(known):
            raise ValueError("the feeds of a network are not its inputs")
        for entry, feed in zip(taking, self.feeds, strict=True):
            if entry.takes([self.arguments[place] for place in feed.arguments]) != feed.shape:
                raise ValueError(f"the network does not take shape {feed.shape}")
