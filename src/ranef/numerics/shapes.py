"""Types of arrays that state their shapes, in the notation of jaxtyping.

``Float[Array, "levels k"]`` is an `Array` of real numbers with axes of the lengths `levels` and
`k`. Within one call of a function, equal names stand for equal lengths. The tests load jaxtyping
and check every call against these types. Elsewhere jaxtyping is not needed and nothing is checked:
the types then state the class of the array alone.
"""

import sys
from functools import reduce
from operator import or_
from types import UnionType
from typing import TYPE_CHECKING, Union, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bool", "Float", "Int", "Numbers", "Shaped"]

# A number or an array of numbers. NumPy's functions return the one or the other, as their argument
# is.
Numbers = float | NDArray[np.float64]

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
elif "jaxtyping" in sys.modules:
    import jaxtyping

    class _Checked:
        """An array type of jaxtyping that takes NumPy's `NDArray` in every version.

        Since NumPy 2.5 `NDArray` is a type alias, of which jaxtyping asks what class it is.
        """

        def __init__(self, kind: type) -> None:
            self.kind = kind

        def __getitem__(self, typed: tuple[object, str]) -> object:
            return self.kind[_without_aliases(typed[0]), typed[1]]

    def _without_aliases(array: object) -> object:
        """The array type with `NDArray` replaced by what it stands for."""
        if get_origin(array) in (Union, UnionType):
            return reduce(or_, map(_without_aliases, get_args(array)))
        return getattr(array, "__value__", array)

    Bool, Float, Int, Shaped = map(
        _Checked, (jaxtyping.Bool, jaxtyping.Float, jaxtyping.Int, jaxtyping.Shaped)
    )
else:

    class _ClassAlone:
        """Reduces an array type with a shape to its class."""

        def __getitem__(self, typed: tuple[type, str]) -> type:
            return typed[0]

    Bool = Float = Int = Shaped = _ClassAlone()
