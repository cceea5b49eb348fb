"""Figures of a fit: functions that take a fit and return a matplotlib figure.

A fit is anything with an ArviZ DataTree as ``.idata``. The figures use only groups of that tree,
so that groups of ArviZ's schema may come from any library. A missing group is added by calling
``fit.extend``.
"""

from ranef.plots.checks import group_check
from ranef.plots.convergence import elbo
from ranef.plots.groups import group_effects, shrinkage
from ranef.plots.parameters import posterior
from ranef.plots.predictions import calibration, posterior_predictive, residuals
from ranef.plots.predictors import data_fit, partial_effects

__all__ = [
    "calibration",
    "data_fit",
    "elbo",
    "group_check",
    "group_effects",
    "partial_effects",
    "posterior",
    "posterior_predictive",
    "residuals",
    "shrinkage",
]
