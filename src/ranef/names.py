"""Names and keywords that users write, as types: checkers find misspelled ones, editors offer them.

`registry` says what the names of families and methods stand for.
"""

import os
from typing import Literal, TypeAlias, TypedDict

FamilyName: TypeAlias = Literal[
    "gaussian",
    "student",
    "bernoulli",
    "binomial",
    "poisson",
    "negative_binomial",
    "gamma",
    "beta",
    "lognormal",
    "exponential",
    "ordinal",
    "cumulative",
    "categorical",
    "zero_inflated_poisson",
    "zero_inflated_negative_binomial",
]
MethodName: TypeAlias = Literal["auto", "exact", "laplace", "svi", "nuts"]
# What a prediction is of.
PredictionKind: TypeAlias = Literal["mean", "response", "component"]
# What predictions do with levels that did not occur in training.
NewLevels: TypeAlias = Literal["error", "sample", "zero"]


class MethodOptions(TypedDict, total=False):
    """Options of the methods, which `Model.fit` takes as keywords."""

    guide: Literal["structured", "meanfield"]
    optimizer: object
    samples: int
    steps: int
    batch_size: int
    checkpoint: str | os.PathLike[str]
    chains: int
    tune: int
    target_accept: float
    coefficients: Literal["integrated", "sampled"]
    quadrature: int
