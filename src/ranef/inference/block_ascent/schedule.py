"""How long a network is trained: rows of a step, passes over all of them, and learning rates."""

import math

import numpy as np

# Rounds where every one has all rows.
ROUNDS = 30
# Passes over a hundred thousand rows; of fewer rows more, of more fewer.
_PASSES, _MOST_PASSES, _LEAST_PASSES = 30.0, 300.0, 3.0
# Of Adam at its highest; shares of the rounds where it rises, and of the last part.
RATE, _RISE, LAST = 0.005, 0.05, 0.25


def batch_size(n: int) -> int:
    """Rows of a minibatch: about the square root of all, a power of two."""
    return int(2 ** np.clip(round(math.log2(1.8 * math.sqrt(n))), 5, 12))


def passes(n: int, predicted: int = 1) -> float:
    """Over n rows, where networks predict so many parameters of the response.

    What one of them is to learn depends on the others, as the share of a component on its mean.
    """
    alone = float(np.clip(_PASSES * math.sqrt(1e5 / n), _LEAST_PASSES, _MOST_PASSES))
    return alone * predicted


def rate(done: float) -> float:
    """Share of the highest learning rate when a share `done` of the rounds is done."""
    return min(1.0, (done + 1e-9) / _RISE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
