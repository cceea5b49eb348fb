"""Prior sds of a block's columns that are functions of a few positive parameters."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np


class Spectrum(ABC):
    """sd = f(scales): how the scales of a `LinearBlock` make the sds of its k columns.

    It is compared and hashed, so that programs compiled with it are found again: a frozen
    dataclass of plain numbers.
    """

    @property
    @abstractmethod
    def starts(self) -> Mapping[str, float]:
        """Scales that are never zero, such as length scales, with where a search begins.

        The others are sds: all columns vanish where one does, and its sign says nothing.
        """

    @abstractmethod
    def sds(self, values: Mapping[str, Any], xp: Any = np) -> Any:
        """(..., k) from values (...) of the scales by site.

        Args:
            values: of the scales.
            xp: NumPy, or the module of JAX that stands for it.
        """

    @abstractmethod
    def slopes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The derivative of each sd in each scale, (..., k) by site, in NumPy."""
