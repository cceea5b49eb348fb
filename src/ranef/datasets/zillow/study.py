"""Fits and scores the post's three models, and two that it says its formulation makes easy.

Beside them are constant predictions, which models must beat, and a model of intercepts alone, whose
shrinkage the post shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from ranef.datasets.zillow.generator import Truth
from ranef.datasets.zillow.preparation import PREDICTORS, RESPONSE, Sales
from ranef.datasets.zillow.results import ConstantScores, ModelScores, TruthRow
from ranef.fit import Fit
from ranef.model import Model
from ranef.names import FamilyName
from ranef.numerics.shapes import Float
from ranef.priors import Normal, PointEstimate, Prior

_SUM = " + ".join(PREDICTORS)
_NETWORK = f"nn({', '.join(PREDICTORS)}, hidden=[5], activation='tanh', l2=0.001)"

# The model whose shrinkage is shown. It is not scored.
INTERCEPTS = "intercepts"

FORMULAS = {
    "linear": f"{RESPONSE} ~ {_SUM}",
    "random_intercepts": f"{RESPONSE} ~ {_SUM} + (1 | zip)",
    "network": f"{RESPONSE} ~ {_NETWORK} + (1 | zip)",
    "several_effects": f"{RESPONSE} ~ {_SUM} + (1 | zip) + (1 | city) + (1 | county)",
    "varying_slope": f"{RESPONSE} ~ {_SUM} + (1 + {PREDICTORS[0]} | zip)",
    INTERCEPTS: f"{RESPONSE} ~ 1 + (1 | zip)",
}
SCORED = tuple(name for name in FORMULAS if name != INTERCEPTS)

# The scales of the group effects of each model.
_GROUP_SDS = {
    "linear": (),
    "random_intercepts": ("1|zip_sigma",),
    "network": ("1|zip_sigma",),
    "several_effects": ("1|zip_sigma", "1|city_sigma", "1|county_sigma"),
    "varying_slope": ("1|zip_sigma", f"{PREDICTORS[0]}|zip_sigma"),
    INTERCEPTS: ("1|zip_sigma",),
}


@dataclass(frozen=True)
class Entry:
    """One model's fit and its scores on the validation rows.

    Attributes:
        name: of the model, a key of `FORMULAS`.
        fit: on the training rows.
        mae: mean absolute error of the posterior mean of the location.
        log_score: mean log predictive density of a row.
        coverage_90: share of responses within their central 90% interval.
    """

    name: str
    fit: Fit
    mae: float
    log_score: float
    coverage_90: float

    def as_json(self) -> ModelScores:
        """Formula, scores and method as one object; the ELBO is None unless it was optimised."""
        return {
            "name": self.name,
            "formula": FORMULAS[self.name],
            "mae": self.mae,
            "log_score": self.log_score,
            "coverage_90": self.coverage_90,
            "method": self.fit.method,
            "elbo": self.fit.elbo if self.fit.method == "svi" else None,
            "converged": self.fit.converged,
            "steps": self.fit.steps,
            "seconds": self.fit.seconds,
        }


def constants(sales: Sales) -> dict[str, ConstantScores]:
    """Scores of constant predictions on the validation rows.

    The predictive distributions are normal and Student-t, with maximum-likelihood estimates from
    the training rows. The median has a mean absolute error only.
    """
    train, valid = sales.part(True)[RESPONSE], sales.part(False)[RESPONSE]
    mean, sd = float(train.mean()), float(train.std())
    nu, location, scale = _student(train)
    return {
        "mean": {
            "mae": float(np.abs(valid - mean).mean()),
            "log_score": float(scipy.stats.norm.logpdf(valid, mean, sd).mean()),
        },
        "median": {"mae": float(np.abs(valid - np.median(train)).mean())},
        "student": {
            "mae": float(np.abs(valid - location).mean()),
            "log_score": float(scipy.stats.t.logpdf(valid, nu, location, scale).mean()),
        },
    }


def _student(y: Float[NDArray, "n"]) -> tuple[float, float, float]:
    """Maximum-likelihood degrees of freedom, location and scale of a Student-t distribution."""
    middle = float(np.median(y))
    width = float(np.abs(y - middle).mean()) or 1.0

    def loss(p: Float[NDArray, "3"]) -> float:
        location, scale = middle + width * p[1], width * np.exp(p[2])
        return -float(scipy.stats.t.logpdf(y, np.exp(p[0]), location, scale).mean())

    found = scipy.optimize.minimize(loss, [1.0, 0.0, 0.0], method="Nelder-Mead").x
    nu, scale = float(np.exp(found[0])), float(width * np.exp(found[2]))
    return nu, middle + width * float(found[1]), scale


def posted_priors(name: str) -> dict[str, Prior | float]:
    """The post's priors.

    They are N(0, 1) for common effects, a residual sd of 1, and point estimates of the scales of
    group effects.
    """
    out: dict[str, Prior | float] = {"Intercept": Normal(0.0, 1.0), "sigma": 1.0}
    if name not in ("network", INTERCEPTS):
        out["common"] = Normal(0.0, 1.0)
    return out | {sd: PointEstimate() for sd in _GROUP_SDS[name]}


def fit_model(
    sales: Sales, name: str, *, family: FamilyName, as_posted: bool, seed: int, progress: bool
) -> Entry:
    """Fit one model on the training rows and score it on the others."""
    if as_posted:
        model = Model(FORMULAS[name], "gaussian", posted_priors(name))
        options = {"method": "svi", "guide": "meanfield", "samples": 5}
    else:
        model, options = Model(FORMULAS[name], family), {}
    fit = model.fit(sales.part(True), seed=seed, progress=progress, **options)
    tree = fit.extend("validation", data=sales.part(False), new_levels="sample", seed=seed)
    rows = tree["validation"].to_dataset()
    return Entry(
        name,
        fit,
        float(np.abs(rows["observed"] - rows["mean"]).mean()),
        float(rows["log_score"].mean()),
        float((np.abs(2 * rows["pit"] - 1) <= 0.9).mean()),
    )


def truth_table(sales: Sales, truth: Truth, entries: Mapping[str, Entry]) -> list[TruthRow]:
    """The true parameters of generated sales beside their estimates and 90% intervals.

    The hundreds of zip effects make up one row for each model: the share whose interval contains
    the true effect, which should be .9.
    """
    known = truth.scaled(sales.scales)
    # In a model without zip effects the intercept includes their mean over the sales.
    zips = np.mean([truth.zips[name] for name in sales.part(True)["zip"]])
    rows: list[TruthRow] = []
    for name in ("linear", "random_intercepts", "several_effects", "varying_slope"):
        table = entries[name].fit.summary(0.9)
        intercept = known["Intercept"] + (float(zips) if name == "linear" else 0.0)
        rows.append(_truth_row(name, "Intercept", intercept, table.loc["Intercept"]))
        for parameter in PREDICTORS:
            rows.append(_truth_row(name, parameter, known[parameter], table.loc[parameter]))
    for name in ("random_intercepts", "network"):
        fit = entries[name].fit
        table = fit.summary(0.9)
        if table.loc["1|zip_sigma", "kind"] == "posterior":
            rows.append(_truth_row(name, "1|zip_sigma", truth.sigma_zip, table.loc["1|zip_sigma"]))
        share = _zip_coverage(fit, truth)
        rows.append(
            {"model": name, "parameter": "zip effects, share inside", "truth": 0.9, "mean": share}
        )
    return rows


def _truth_row(model: str, parameter: str, truth: float, row: pd.Series) -> TruthRow:
    found = row.to_dict()
    mean, lower, upper = (float(found[name]) for name in ("mean", "lower", "upper"))
    return {
        "model": model,
        "parameter": parameter,
        "truth": truth,
        "mean": mean,
        "lower": lower,
        "upper": upper,
        "inside": lower <= truth <= upper,
    }


def _zip_coverage(fit: Fit, truth: Truth) -> float:
    """Share of zips whose true effect lies in its 90% interval, both about the mean of all zips.

    The mean is subtracted because the data determine only its sum with the intercept well.
    """
    draws = fit.posterior["1|zip"].to_numpy().reshape(-1, fit.posterior.sizes["zip__factor_dim"])
    names = fit.posterior["zip__factor_dim"].to_numpy()
    effects = np.array([truth.zips[str(name)] for name in names])
    centred = draws - draws.mean(axis=1, keepdims=True)
    lower, upper = np.quantile(centred, [0.05, 0.95], axis=0)
    centred_truth = effects - effects.mean()
    return float(((centred_truth >= lower) & (centred_truth <= upper)).mean())
