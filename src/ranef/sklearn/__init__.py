"""Mixed-effects models as estimators of scikit-learn.

They need scikit-learn, which the extra ``ranef[sklearn]`` installs. It is loaded when an estimator
is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ranef.extras import require

if TYPE_CHECKING:
    from ranef.sklearn.classifier import MixedClassifier
    from ranef.sklearn.regressor import MixedRegressor

# The module of each estimator.
_ESTIMATORS = {"MixedClassifier": "classifier", "MixedRegressor": "regressor"}

__all__ = ["MixedClassifier", "MixedRegressor"]


# Hidden from type checkers, to which every name of the package would otherwise exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> type:
        if name in _ESTIMATORS:
            require(f"ranef.sklearn.{name}", "sklearn")
            return getattr(import_module(f"ranef.sklearn.{_ESTIMATORS[name]}"), name)
        raise AttributeError(f"module 'ranef.sklearn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
