"""Standard normal numbers by level, by a counter-based random number generator.

The numbers of a level do not depend on which other levels are requested: for each level the
Philox generator (Salmon, Moraes, Dror and Shaw, 2011) restarts with the level in its counter.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float, Shaped


@dataclass(frozen=True)
class CounterRNG:
    """A source of standard normal numbers for each level.

    Attributes:
        seed: seed of all streams.
        stream: number of an independent stream, such as one for each factor.
    """

    seed: int
    stream: int

    def of(
        self, levels: Shaped[NDArray[np.integer], "levels"], size: int
    ) -> Float[NDArray[np.float64], "levels {size}"]:
        """`size` standard normal numbers for each level, an integer from 0 to 2^64 - 1."""
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
