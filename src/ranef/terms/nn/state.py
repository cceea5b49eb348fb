"""What a network term learns of the training rows: its inputs, and the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.formula import transforms
from ranef.terms.nn import graph, inputs


@dataclass(frozen=True)
class NetworkState:
    """What the inputs were, and the network.

    Attributes:
        learned: numbers of the arguments' transforms.
        arguments: of the term.
        feeds: what each input of the network gets of them.
        mean, sd: (k,) of the numbers of an MLP over the training rows; empty for a user's
            network, which gets its inputs as they are.
        model: the Keras model.
        initial: where the variables of a user's network begin, by name; an MLP's are drawn.
        began: (2, outputs) mean and sd of the outputs of a user's network at these variables, over
            some training rows. None for an MLP, and for a network of an earlier file, whose
            outputs count as they are.

    Raises:
        ValueError: for feeds that are not those of the network.
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
