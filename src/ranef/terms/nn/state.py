"""The state of a network term: its inputs as learned from the training rows, and the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.formula import transforms
from ranef.terms.nn import graph, inputs


@dataclass(frozen=True)
class NetworkState:
    """The inputs of a network term, and the network.

    Attributes:
        learned: parameters of the transforms in the arguments.
        arguments: arguments of the term.
        feeds: the arguments that each input of the network is fed.
        mean: (k,) means of the numeric inputs of an MLP over the training rows; empty for a user's
            network, which takes its inputs as they are.
        sd: (k,) their sds.
        model: the Keras model.
        initial: initial values of the variables of a user's network, by name. Those of an MLP are
            drawn instead.
        began: (2, outputs) mean and sd of the outputs of a user's network at its initial values,
            over some training rows. None for an MLP, and for a network from a file of an earlier
            version, whose outputs are used unscaled.

    Raises:
        ValueError: if the feeds do not match the inputs of the network.
    """

    learned: transforms.Learned
    arguments: tuple[inputs.Argument, ...]
    feeds: tuple[inputs.Feed, ...]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    model: Any
    initial: Mapping[str, Any]
    began: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        given = [inputs.Input(name, tuple(t.shape)[1:]) for name, t in graph.inputs(self.model)]
        known = range(len(self.arguments))
        fed = [place for feed in self.feeds for place in feed.arguments]
        if len(given) != len(self.feeds) or sorted(fed) != list(known):
            raise ValueError("the feeds of a network are not its inputs")
        for entry, feed in zip(given, self.feeds, strict=True):
            if entry.takes([self.arguments[place] for place in feed.arguments]) != feed.shape:
                raise ValueError(f"the network does not take shape {feed.shape}")
