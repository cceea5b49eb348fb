"""Bayesian mixed-effects models, with Keras networks as terms if needed.

    import ranef as rf
    fit = rf.Model("y ~ x + (1 | g)").fit(table)
    print(fit.summary())

Importing the package loads neither JAX nor Keras. JAX loads at the first use of `Model`, and Keras
at the first formula with a network.
"""

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from ranef.errors import (
    BackendError,
    ColumnError,
    DataError,
    FileError,
    FormulaError,
    OptionError,
    PackageError,
    RanefError,
)
from ranef.families.mixture_spec import Mixture
from ranef.priors import (
    LKJ,
    Beta,
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
    LogOdds,
    Normal,
    PointEstimate,
    Precision,
    StudentT,
    Uniform,
    Variance,
)

if TYPE_CHECKING:
    from ranef import effects, plots, sklearn
    from ranef.comparison import compare
    from ranef.fit import Fit, load
    from ranef.model import Model
    from ranef.stacked import stack

    __version__: str

# Keras reads this variable at its first import; its default backend is TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

_LAZY = {
    "Model": "ranef.model",
    "Fit": "ranef.fit",
    "load": "ranef.fit",
    "compare": "ranef.comparison",
    "stack": "ranef.stacked",
}
# Public modules, loaded at their first use.
_MODULES = ("effects", "plots", "sklearn")

# What happens in fits is logged at level INFO, and nothing is shown unless the user asks.
logging.getLogger("ranef").addHandler(logging.NullHandler())

__all__ = [
    "LKJ",
    "BackendError",
    "Beta",
    "Cauchy",
    "ColumnError",
    "DataError",
    "Exponential",
    "FileError",
    "Fit",
    "Flat",
    "FormulaError",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "InverseGamma",
    "LogNormal",
    "LogOdds",
    "Mixture",
    "Model",
    "Normal",
    "OptionError",
    "PackageError",
    "PointEstimate",
    "Precision",
    "RanefError",
    "StudentT",
    "Uniform",
    "Variance",
    "compare",
    "effects",
    "load",
    "plots",
    "sklearn",
    "stack",
]


# Hidden from type checkers, to which every name of the package would otherwise exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(importlib.import_module(_LAZY[name]), name)
        if name in _MODULES:
            return importlib.import_module(f"ranef.{name}")
        if name == "__version__":
            # Stated once, in pyproject.toml, and read from what was installed.
            return importlib.import_module("importlib.metadata").version("ranef")
        raise AttributeError(f"module 'ranef' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
