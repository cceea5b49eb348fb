"""Standard normal numbers that belong to a level: the same whichever others are asked for.

A counter-based generator (Salmon, Moraes, Dror and Shaw, 2011) starts anew for each level, the
level's number in its counter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CounterRNG:
    """The numbers of every level.

    Attributes:
        seed: of them all.
        stream: tells apart what has levels of the same number.
    """

    seed: int
    stream: int

    def of(self, levels: NDArray, size: int) -> NDArray[np.float64]:
        """(J, size), for levels (J,) that are whole numbers below 2^64."""
        key = np.random.SeedSequence([self.seed, self.stream]).generate_state(2, np.uint64)
        bits = np.random.Philox(key=key)
        normal, state = np.random.Generator(bits), bits.state
        counter = state["state"]["counter"]
        out = np.empty((len(levels), size))
        for own, level in zip(out, levels.tolist(), strict=True):
            counter[3] = level
            bits.state = state
            normal.standard_normal(out=own)
        return out
