"""Types of the arrays of a generalized linear mixed model.

Axes are n rows, K linear predictors, J levels of a grouping, k columns of a factor, p common
effects and d hyperparameters.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float

__all__ = [
    "Array",
    "Blocks",
    "CommonEffects",
    "FamilyValues",
    "PerLevel",
    "PerRow",
    "Point",
    "Predictors",
    "Roots",
    "SiteValues",
    "WorkingModel",
]

Array = NDArray[np.float64]

# A number for each row.
PerRow = Float[Array, "n"]
# A number for each row and linear predictor.
Predictors = Float[Array, "n K"]
# A matrix between the linear predictors for each row.
Blocks = Float[Array, "n K K"]
# A number for each level of one grouping.
PerLevel = Float[Array, "J"]
CommonEffects = Float[Array, "p"]
# The hyperparameters in their coordinates.
Point = Float[Array, "d"]
# By factor, the root Lambda (k, k) of the effects' covariance Lambda Lambda'.
Roots = list[Float[Array, "_ _"]]
# Working weights W, and W times the working response.
WorkingModel = tuple[Blocks, Predictors]

# Values of the family parameters that all rows share, by name: a number each, or a vector.
FamilyValues = Mapping[str, Array | float]
# Values of hyperparameters by site.
SiteValues = Mapping[str, NDArray | float]
