"""Saves the fits of this folder that are not there yet, with what they predict now.

    python tests/storage/golden/make.py

A file is written by the state of the code that it is to hold later ones to, and never made anew:
to add one, add a line to `FITS`. What is not in `FITS` was saved by earlier states.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import ranef as rf
from ranef.inference.block_ascent import factor_draws
from ranef.inference.lmm import coefficient_posterior
from ranef.inference.pwls import solver

HERE = Path(__file__).parent
EFFECTS, TWO = {"method": "exact"}, "y ~ x + (1 | g) + (1 | h)"
# Name: formula, options of the model, options of the fit.
FITS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gaussian-laplace": ("y ~ x + (1 | g); sigma ~ z", {}, {"method": "laplace"}),
    "gaussian-nuts": ("y ~ x + (1 | g)", {}, {"method": "nuts", "tune": 50}),
    "gaussian-meanfield": ("y ~ x + (1 | g)", {}, {"method": "svi", "guide": "meanfield"}),
    "gaussian-structured": (
        *("y ~ x + (1 | g); sigma ~ z", {}),
        {"method": "svi", "guide": "structured", "steps": 50},
    ),
    "weights": ("weights(y, w) ~ x + (x | g)", {}, EFFECTS),
    "errors": ("se(y, w) ~ x + offset(o) + (1 | g)", {}, EFFECTS),
    "negative-binomial": ("n ~ x + (1 | g)", {"family": "negative_binomial"}, {}),
    "gamma": ("w ~ x + (1 | g)", {"family": "gamma"}, {}),
    "beta": ("share ~ x + (1 | g)", {"family": "beta"}, {}),
    "lognormal": ("w ~ x + (1 | g)", {"family": "lognormal"}, {}),
    "exponential": ("w ~ x + (1 | g)", {"family": "exponential"}, {}),
    "cumulative": ("grade ~ x + (1 | g)", {"family": "cumulative"}, {}),
    "zero-inflated": ("n ~ x + (1 | g); psi ~ z", {"family": "zero_inflated_poisson"}, {}),
    "zero-inflated-dispersed": (
        *("n ~ x + (1 | g)", {"family": "zero_inflated_negative_binomial"}),
        {"method": "svi", "steps": 50},
    ),
    "mixture-counts": ("n ~ x", {"family": "mixture(poisson, poisson)"}, {"steps": 50}),
    "spline": ("y ~ s(x) + (1 | g)", {}, EFFECTS),
    "surface": ("y ~ gp(x, z, m=4) + f*x", {}, EFFECTS),
    "by-factor": ("y ~ gp(x, by=f, m=6)", {}, EFFECTS),
    "nested": ("y ~ poly(x, 2) + (1 | g/h)", {}, EFFECTS),
    "contrasts": (
        *("y ~ C(f, contrast='helmert', levels=[c, a, b])*z + (C(b, Sum) || g)", {}),
        EFFECTS,
    ),
    "contrasts-own": ("y ~ C(f, contrast=[[0, 0], [1, 0], [1/2, 1]]) + (1 | g)", {}, EFFECTS),
    "spline-bases": (
        *("y ~ bs(x, df=5) + ns(z, 3) + I(x > 0 & (z < 1 | !b)) + (ns(o, 2) | g)", {}),
        EFFECTS,
    ),
    "crossed": (TWO, {}, EFFECTS),
    "crossed-counts": ("n ~ x + (1 | g) + (1 | h)", {"family": "poisson"}, {"method": "laplace"}),
    "no-effects-kept": (TWO, {}, EFFECTS),
    "no-effects-kept-shared": (
        *("grade ~ x + (x | g)", {"family": "ordinal"}),
        {"method": "laplace", "draws": 100},
    ),
    "no-effects-kept-sparse": (TWO, {}, EFFECTS),
    "no-factors-kept": ("y ~ (1 | g) + mf(g, h, rank=2)", {}, {}),
    "network-last": ("y ~ nn(x, z, hidden=[4], weights='last') + (1 | g)", {}, {"steps": 50}),
    "network-full": ("y ~ nn(x, hidden=[3], weights='full')", {}, {"steps": 50}),
    "network-factors": ("y ~ nn(x, f, hidden=[3]) + (1 | g)", {}, {"steps": 50}),
    "missing-factors": ("y ~ mi(holes) + (1 | g); mi(holes) ~ x + (1 | h)", {}, {"steps": 50}),
    "priors": (
        "y ~ x + z + o + b + (x | g)",
        {
            "priors": {
                "Intercept": rf.Cauchy(0, 5),
                "x": rf.StudentT(4, 0, 2),
                "z": rf.Flat(),
                "o": rf.Normal(0, 3),
                "1|g_sigma": rf.Variance(rf.InverseGamma(2, 1)),
                "x|g_sigma": rf.HalfStudentT(3, 2),
                "g_corr": rf.LKJ(3),
                "sigma": rf.Precision(rf.Gamma(2, 1)),
            }
        },
        EFFECTS,
    ),
    "more-priors": (
        "y ~ x + (x | g)",
        {
            "priors": {
                "sigma": rf.LogNormal(0, 1),
                "1|g_sigma": rf.Exponential(1),
                "x|g_sigma": rf.HalfNormal(2),
            }
        },
        EFFECTS,
    ),
    "mixing-odds": (
        "n ~ x; psi ~ 1 + z",
        {
            "family": "zero_inflated_poisson",
            "priors": {"psi_Intercept": rf.LogOdds(rf.Beta(2, 2))},
        },
        {"steps": 50},
    ),
    "scale-uniform": (TWO, {"priors": {"sigma": rf.Uniform(0, 9), "1|g_sigma": 0.5}}, EFFECTS),
    "scale-point": (TWO, {"priors": {"1|g_sigma": rf.PointEstimate()}}, EFFECTS),
    "mixing": (
        *("n ~ x", {"family": "zero_inflated_poisson", "priors": {"psi": rf.Beta(2, 2)}}),
        {},
    ),
}
# Of these, effects are taken for too many to be made, and the file has what draws them by level.
LAZY = ("no-effects-kept", "no-effects-kept-shared", "no-effects-kept-sparse", "no-factors-kept")
# Of this, the smaller grouping's cross products with the larger are kept sparse.
SPARSE = "no-effects-kept-sparse"


def table() -> dict[str, Any]:
    """Eighty rows, and a response for each family."""
    rng = np.random.default_rng(7)
    x, z, o = rng.normal(size=(3, 80))
    g, h, f = rng.integers(0, 9, 80), rng.integers(0, 5, 80), rng.integers(0, 3, 80)
    eta = 0.5 + 0.6 * x + 0.5 * rng.normal(size=9)[g]
    holes = z.copy()
    holes[rng.random(80) < 0.2] = np.nan
    return {
        **{"x": x, "z": z, "o": o, "holes": holes, "b": rng.random(80) < 0.5},
        "f": np.array(list("abc"))[f],
        "g": np.array([f"g{j}" for j in g]),
        "h": np.array([f"h{j}" for j in h]),
        "w": rng.gamma(3.0, np.exp(eta) / 3.0),
        "y": eta + rng.normal(size=80),
        "n": rng.poisson(np.exp(eta)) * (rng.random(80) < 0.8),
        "share": rng.beta(2 / (1 + np.exp(-eta)), 2 / (1 + np.exp(eta))),
        "grade": np.digitize(eta + rng.logistic(size=80), [-1.0, 0.5, 2.0]) + 1,
    }


def make(name: str) -> None:
    formula, options, how = FITS[name]
    with ExitStack() as stack:
        if name in LAZY:
            stack.enter_context(mock.patch.object(coefficient_posterior, "_REALISED", 0))
            stack.enter_context(mock.patch.object(factor_draws, "_REALISED", 0))
        if name == SPARSE:
            stack.enter_context(mock.patch.object(solver, "_DENSE", 0))
            stack.enter_context(mock.patch.object(solver, "_FULL", 2.0))
        how = {"draws": 40, "seed": 1, "progress": False, **how}
        fit = rf.Model(formula, **options).fit(table(), **how)
        rows: dict[str, Any] = {n: v[:6].tolist() for n, v in table().items()}
        rows["holes"] = [None if np.isnan(v) else v for v in rows["holes"]]
        new = {n: np.array(v) for n, v in rows.items()}
        new["holes"] = np.array(rows["holes"], float)
        predicted = fit.predict(new)
        found = {
            "rows": rows,
            "predicted": {n: predicted[n].tolist() for n in predicted.columns},
            "fixef": {n: row.tolist() for n, row in fit.fixef().iterrows()},
        }
        fit.save(HERE / f"{name}.ranef")
    (HERE / f"{name}.json").write_text(json.dumps(found))


def main() -> None:
    for name in FITS:
        if not (HERE / f"{name}.ranef").exists():
            print(name, flush=True)
            make(name)


if __name__ == "__main__":
    main()
