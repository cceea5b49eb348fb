"""What a family gathers and learns from the responses of the training rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ranef.data.levels import LevelsSeen
from ranef.data.moments import Moments, Scale
from ranef.families.thinned_rows import ThinnedRows
from ranef.formula import transforms

# What `Family.measure` gathers of the responses.
Measures = Moments | ThinnedRows


@dataclass(frozen=True)
class FamilyState:
    """What a family learns from the responses of the training rows.

    Attributes:
        learned: numbers that the stateful transforms of the left side replay on new rows.
        scale: location and sd of the response, or what replaces these in a family
            (`Family.location_and_sd`).
        categories: names of the categories in their order, or the two levels of a binary response
            of texts; empty for numbers.
        shares: proportion of the rows in each category, or in each component's cluster.
        weight: mean precision weight of a row.
    """

    learned: transforms.Learned
    scale: Scale
    categories: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class ResponseScan:
    """What `Family.scan` gathers of the responses of the training rows.

    Attributes:
        statistics: statistics of the stateful transforms of the left side, by canonical text.
        levels: the levels of a response of texts or categories.
        counts: number of rows of each category.
    """

    statistics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    levels: LevelsSeen = field(default_factory=LevelsSeen)
    counts: Mapping[str, int] = field(default_factory=dict)
