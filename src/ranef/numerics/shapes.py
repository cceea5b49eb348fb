"""Types of arrays that state their shapes, in the notation of jaxtyping.

``Float[Array, "levels k"]`` is an `Array` of real numbers with axes of the lengths `levels` and
`k`. Within one call of a function, equal names stand for equal lengths. The tests load jaxtyping
and check every call against these types. Elsewhere jaxtyping is not needed and nothing is checked:
the types then state the class of the array alone.
"""

import sys
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bool", "Float", "Int", "Numbers", "Shaped"]

# A number or an array of numbers. NumPy's functions return the one or the other, as their argument
# is.
Numbers = float | NDArray[np.float64]

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int, Shaped
else:

    class _ClassAlone:
        """Reduces an array type with a shape to its class."""

        def __getitem__(self, typed: tuple[type, str]) -> type:
            return typed[0]

    Bool = Float = Int = Shaped = _ClassAlone()
