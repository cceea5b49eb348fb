"""How often `fit.check()` is right: verdicts beside errors against long runs of NUTS.

For every model, method and seed: the verdict, and how far the fit's means and sds are from those
of 20,000 draws of NUTS, which shares no formula with what the verdict looks at. A fit is right
where all means are within .1 sd and all sds within 10%, wrong where one is off by twice that.
Fits have 10,000 draws: of a thousand a perfect sampler misses the sd of a scale by 10% at times.

    python benchmarks/verdicts.py --out verdicts.csv [--seeds 10] [--only MODEL ...]
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
from machine import describe

import ranef as rf

DATA = Path(os.environ["RANEF_DATA"])
METHODS = {
    "mean-field": {"method": "svi", "guide": "meanfield", "draws": 10_000},
    "structured": {"method": "svi", "guide": "structured", "draws": 10_000},
    "laplace": {"method": "laplace", "draws": 10_000},
    "exact": {"method": "exact", "draws": 10_000},
    "nuts": {"method": "nuts", "draws": 2_500},
}


def funnel(seed):
    return {"y": np.zeros(9), "s": np.full(9, 1e6), "g": np.array(list("abcdefghi"))}


def correlated(seed):
    """Two predictors correlated at .95, 200 rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=200)
    z = 0.95 * x + np.sqrt(1 - 0.95**2) * rng.normal(size=200)
    return {"y": 1 + x + z + rng.normal(size=200), "x": x, "z": z}


def tails(seed):
    """Random intercepts of 15 groups under t noise, 200 rows."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 15, 200), rng.normal(size=200)
    y = 1 + x + rng.normal(size=15)[g] + rng.standard_t(4, size=200)
    return {"y": y, "x": x, "g": np.array([f"g{j}" for j in g])}


def answers(seed):
    """Random intercepts of 25 groups, 400 answers yes or no."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 25, 400), rng.normal(size=400)
    eta = 0.3 + x + rng.normal(size=25)[g]
    y = (rng.random(400) < 1 / (1 + np.exp(-eta))).astype(float)
    return {"y": y, "x": x, "g": np.array([f"g{j}" for j in g])}


def heteroscedastic(seed):
    """Random intercepts of 15 groups, log sigma linear in x, 300 rows."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, 15, 300), rng.normal(size=300)
    y = 1 + x + rng.normal(size=15)[g] + np.exp(0.4 * x) * rng.normal(size=300)
    return {"y": y, "x": x, "g": np.array([f"g{j}" for j in g])}


def crossed(seed):
    """Random intercepts of 20 and of 15 groups that cross, 400 answers yes or no."""
    rng = np.random.default_rng(0)
    g, h, x = rng.integers(0, 20, 400), rng.integers(0, 15, 400), rng.normal(size=400)
    eta = 0.5 * x + rng.normal(size=20)[g] + 0.7 * rng.normal(size=15)[h]
    y = (rng.random(400) < 1 / (1 + np.exp(-eta))).astype(float)
    levels = {"g": np.array([f"g{j}" for j in g]), "h": np.array([f"h{j}" for j in h])}
    return {"y": y, "x": x, **levels}


def counts(seed):
    """Forty years of counts, each with a level of its own, as GLMM_Poisson of Kery's book."""
    rng = np.random.default_rng(1)
    year = np.arange(1, 41)
    eta = 3.5576 - 0.0912 * year + 0.0091 * year**2 - 0.00014 * year**3
    y = rng.poisson(np.exp(eta + 0.05 * rng.normal(size=40)))
    return {"y": y, "t": (year - 20.5) / 20, "id": np.array([f"y{i:02}" for i in year])}


def table(name):
    return lambda seed: pd.read_csv(DATA / name)


SCHOOLS = {"Intercept": rf.Normal(0, 5), "1|school_sigma": rf.HalfCauchy(5)}
MODELS = {
    "funnel": ("se(y, s) ~ 0 + (1 | g)", funnel, {"1|g_sigma": rf.LogNormal(0, 1.5)}),
    "eight schools": (
        "se(y, sigma) ~ 1 + (1 | school)",
        table("bayes/eight_schools.csv"),
        SCHOOLS,
    ),
    "correlated pair": ("y ~ x + z", correlated, None),
    "sleepstudy": (
        "Reaction ~ 1 + Days + (1 + Days | Subject)",
        table("mixed/sleepstudy.csv"),
        None,
    ),
    "Dyestuff": ("Yield ~ 1 + (1 | Batch)", table("mixed/Dyestuff.csv"), None),
    "Penicillin": (
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        table("mixed/Penicillin.csv"),
        None,
    ),
    "radon": ("`log.radon` ~ basement + (1 | county)", table("mixed/radon.csv"), None),
    "t noise": ("y ~ x + (1 | g)", tails, None),
    "yes or no": ("y ~ x + (1 | g)", answers, None),
    "sigma by x": ("y ~ x + (1 | g); sigma ~ x", heteroscedastic, None),
    "crossed": ("y ~ x + (1 | g) + (1 | h)", crossed, None),
    "counts by year": (
        "y ~ t + I(t**2) + I(t**3) + (1 | id)",
        counts,
        {"common": rf.Flat(), "Intercept": rf.Flat(), "1|id_sigma": rf.Uniform(0, 5)},
    ),
    "cbpp": ("incidence / size ~ C(period) + (1 | herd)", table("mixed/cbpp.csv"), None),
}
FAMILIES = {
    "t noise": "student",
    "yes or no": "bernoulli",
    "crossed": "bernoulli",
    "counts by year": "poisson",
    "cbpp": "binomial",
}
# Families aside, models that the exact method does not take.
NOT_EXACT = (*FAMILIES, "sigma by x")
# NUTS with the coefficients integrated does not start where every response is zero.
OPTIONS = {"funnel": {"coefficients": "sampled"}}
# Of the long run, where a scale may be zero and chains with the usual steps diverge.
LONG = {"counts by year": {"target_accept": 0.99, "tune": 3_000}}
# Whose data are drawn anew for each seed.
DRAWN = ("correlated pair",)


def moments(fit):
    """Mean and sd by parameter; of the funnel's scale those of v = 2 log tau, as Neal has it."""
    out = {}
    for name, values in fit.posterior.data_vars.items():
        draws = values.to_numpy().reshape(-1, *values.shape[2:])
        draws = draws.reshape(len(draws), -1)
        if fit.program.formula.text.startswith("se(y, s)"):
            if "sigma" not in str(name):
                continue
            draws = 2 * np.log(draws)
        known = fit._known.moments.get(str(name))
        mean, sd = (
            (draws.mean(axis=0), draws.std(axis=0)) if known is None else map(np.ravel, known)
        )
        keep = sd > 1e-9  # the diagonal of a correlation matrix
        out[str(name)] = (np.asarray(mean)[keep], np.asarray(sd)[keep])
    return out


def truth_of(name, model, rows):
    """Of the funnel what is known: v ~ N(0, 3)."""
    if name == "funnel":
        return {"1|g_sigma": (np.zeros(1), np.full(1, 3.0))}
    how = {"draws": 5_000, "seed": 99, "progress": False, **LONG.get(name, {})}
    return moments(model.fit(rows, method="nuts", **how))


def errors(fit, truth):
    """The largest error of a mean in sds, and of an sd as a ratio, over all parameters."""
    found = moments(fit)
    means = [np.abs((found[n][0] - m) / s).max() for n, (m, s) in truth.items()]
    ratios = [np.abs(np.log(found[n][1] / s)).max() for n, (_, s) in truth.items()]
    return float(max(means)), float(np.expm1(max(ratios)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=list(MODELS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    options = parser.parse_args()
    print(describe("ranef", "jax", "numpyro"))
    rows = []
    for name in options.only:
        formula, data, priors = MODELS[name]
        model = rf.Model(formula, family=FAMILIES.get(name, "gaussian"), priors=priors)
        truths = {}
        for seed in range(options.seeds):
            rows_of = data(seed)
            place = seed if name in DRAWN else 0
            if place not in truths:
                truths[place] = truth_of(name, model, rows_of)
            for method in options.methods:
                if method == ("exact" if name in NOT_EXACT else "laplace"):
                    continue
                how = {**METHODS[method], **(OPTIONS.get(name, {}) if method == "nuts" else {})}
                fit = model.fit(rows_of, seed=seed, progress=False, **how)
                began = time.perf_counter()
                check = fit.check()
                seconds = time.perf_counter() - began
                mean, sd = errors(fit, truths[place])
                truth = "right" if mean <= 0.1 and sd <= 0.1 else "between"
                truth = "wrong" if mean > 0.2 or sd > 0.25 else truth
                grave = [r for s, r in zip(check.symptoms, check.reasons, strict=True)
                         if s.weight != "trust"]  # fmt: skip
                rows.append(
                    {
                        "model": name,
                        "method": method,
                        "seed": seed,
                        "verdict": check.verdict,
                        "truth": truth,
                        "mean": round(mean, 3),
                        "sd": round(sd, 3),
                        "fit": round(fit.seconds, 2),
                        "check": round(seconds, 2),
                        "reason": "; ".join(r.split(":")[0] for r in grave),
                    }
                )
                pd.DataFrame(rows).to_csv(options.out, index=False)
    found = pd.DataFrame(rows)
    counts = found.groupby(["model", "method"], sort=False)
    print(
        pd.DataFrame(
            {
                **{v: counts["verdict"].agg(lambda c, v=v: (c == v).sum()) for v in
                   ("trust", "unchecked", "caution", "distrust")},
                **{t: counts["truth"].agg(lambda c, t=t: (c == t).sum()) for t in
                   ("right", "between", "wrong")},
                "mean": counts["mean"].median(),
                "sd": counts["sd"].median(),
                "check": counts["check"].median(),
            }
        ).to_string()
    )  # fmt: skip


if __name__ == "__main__":
    main()
