"""Figures of a fit: functions of anything with ``.idata``, each returning a matplotlib figure.

Each draws from groups of the DataTree and knows nothing of the model that filled them; a
group that is missing is asked for by ``fit.extend``. Groups of ArviZ's schema may come from
any library.
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
