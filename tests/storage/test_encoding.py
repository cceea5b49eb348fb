"""What a saved file says of a field is held against the field's annotated type."""

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import TypeAliasType, TypeVar

from ranef.storage.encoding import _fits

Element = TypeVar("Element", bound=np.generic)
# As NumPy defines NDArray from 2.5 on.
Array = TypeAliasType(
    "Array", np.ndarray[tuple[int, ...], np.dtype[Element]], type_params=(Element,)
)


@pytest.mark.parametrize(
    "hint", [NDArray, NDArray[np.float64], Array, Array[np.float64], Array[np.float64] | None]
)
def test_an_array_is_one_by_whatever_alias_its_type_is_named(hint):
    assert _fits(np.zeros(2), hint)
    assert not _fits([0.0, 0.0], hint)
