"""Figures of a fit: functions that take a fit and return a matplotlib figure.

A fit is anything with an ArviZ DataTree as ``.idata``. The figures use only groups of that tree,
so that groups of ArviZ's schema may come from any library. A missing group is added by calling
``fit.extend``.

They need matplotlib, which the extra ``ranef[plots]`` installs. It is loaded when a figure is first
asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ranef.extras import require

if TYPE_CHECKING:
    from ranef.plots.checks import group_check
    from ranef.plots.convergence import elbo
    from ranef.plots.effects import conditional_effects
    from ranef.plots.groups import group_effects, shrinkage
    from ranef.plots.parameters import posterior
    from ranef.plots.predictions import calibration, posterior_predictive, residuals
    from ranef.plots.predictors import data_fit, partial_effects
    from ranef.plots.scaled_residuals import residual_checks
    from ranef.plots.subject_panels import subjects

# The module of each figure.
_FIGURES = {
    "calibration": "predictions",
    "conditional_effects": "effects",
    "data_fit": "predictors",
    "elbo": "convergence",
    "group_check": "checks",
    "group_effects": "groups",
    "partial_effects": "predictors",
    "posterior": "parameters",
    "posterior_predictive": "predictions",
    "residual_checks": "scaled_residuals",
    "residuals": "predictions",
    "shrinkage": "groups",
    "subjects": "subject_panels",
}

__all__ = [
    "calibration",
    "conditional_effects",
    "data_fit",
    "elbo",
    "group_check",
    "group_effects",
    "partial_effects",
    "posterior",
    "posterior_predictive",
    "residual_checks",
    "residuals",
    "shrinkage",
    "subjects",
]


def __getattr__(name: str) -> object:
    if name in _FIGURES:
        require(f"rf.plots.{name}()", "matplotlib")
        return getattr(import_module(f"ranef.plots.{_FIGURES[name]}"), name)
    raise AttributeError(f"module 'ranef.plots' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FIGURES])
