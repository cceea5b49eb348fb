"""`ThinnedRows`, a bounded sample of the responses of the training rows."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float


@dataclass(frozen=True)
class ThinnedRows:
    """Responses with their weights or companions, evenly thinned where there are many.

    Attributes:
        rows: a response and its weight or companion in each row.
        stride: one of so many rows is kept.
    """

    rows: Float[NDArray[np.float64], "m 2"] = field(default_factory=lambda: np.zeros((0, 2)))
    stride: int = 1

    def add(self, rows: Float[NDArray[np.float64], "k 2"], most: int) -> "ThinnedRows":
        """The rows so far and those of one more batch.

        Above `most` rows, every second one is dropped and the stride doubles.
        """
        kept, stride = np.concatenate([self.rows, rows[:: self.stride]]), self.stride
        while len(kept) > most:
            kept, stride = kept[::2], 2 * stride
        return ThinnedRows(kept, stride)
