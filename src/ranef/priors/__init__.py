"""Prior distributions: their kinds as plain values, their log densities and NumPyro sites."""

from typing import TYPE_CHECKING

from ranef.lazy import LazyModule
from ranef.priors.kinds import (
    LKJ,
    Beta,
    Cauchy,
    Exponential,
    Fixed,
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
    PowerPrior,
    Precision,
    Prior,
    Priors,
    RescaledDefault,
    StudentT,
    Uniform,
    Variance,
)
from ranef.priors.validation import allowed, checked

if TYPE_CHECKING:
    from ranef.priors import sites
else:
    sites = LazyModule("ranef.priors.sites")

__all__ = [
    "Beta",
    "Cauchy",
    "Exponential",
    "Fixed",
    "Flat",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "InverseGamma",
    "LKJ",
    "LogNormal",
    "LogOdds",
    "Normal",
    "PowerPrior",
    "PointEstimate",
    "Precision",
    "Prior",
    "Priors",
    "RescaledDefault",
    "StudentT",
    "Uniform",
    "Variance",
    "allowed",
    "checked",
    "sites",
]
