"""A thousand small tables of ten kinds of GLMM: do fits arrive, and is `fit.check()` right of them?

    python benchmarks/simulated_glmms.py --out FILE.csv [--each 100] [--checked 30] [--start 0]
    python benchmarks/simulated_glmms.py --out FILE.csv --nuts 10 [--wall SECONDS]

The first run fits `--each` tables of each kind by defaults, checks the first `--checked` of them,
and writes method, convergence, verdict and seconds to FILE.csv. The second takes checked tables of
FILE.csv, those that are not trusted first and then others at random, `--nuts` of each kind, samples
their posterior by NUTS (four chains of 2,000 draws after 1,000), and adds how far the fit is off:
the largest difference of a posterior mean in sds of NUTS, the smallest and the largest ratio of
sds, over parameters and effects of single levels. A fit of 4,000 draws is compared, so that its own
noise is no larger. It is right where means are within .1 sd and sds within 10%, wrong where one is
off by twice that. Of alpha, whose half-Cauchy prior leaves it no mean where responses are close to
Poisson's, the logarithm is compared. Rows of a table, groups, effects and scales are drawn from the
seed.
"""

import argparse
import gc
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from machine import describe

import ranef as rf

KINDS = {
    "yes or no": ("y ~ x + (1 | g)", "bernoulli"),
    "crossed": ("y ~ x + (1 | g) + (1 | h)", "bernoulli"),
    "shares": ("y / t ~ x + f + (1 | g)", "binomial"),
    "counts": ("y ~ x + (1 | g)", "poisson"),
    "slopes": ("y ~ x + (x | g)", "poisson"),
    "overdispersed": ("y ~ x + f + (1 | g)", "negative_binomial"),
    "zeros": ("y ~ x + (1 | g)", "zero_inflated_poisson"),
    "ordered": ("y ~ x + (1 | g)", "ordinal"),
    "positive": ("y ~ x + f + (1 | g)", "gamma"),
    "tails": ("y ~ x + (1 | g)", "student"),
}
DRAWS = 4_000


def simulated(kind: str, seed: int) -> dict:
    """A table of 60 to 500 rows and 5 to 40 groups."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    n, groups = int(rng.integers(60, 501)), int(rng.integers(5, 41))
    g, h, x = rng.integers(0, groups, n), rng.integers(0, 8, n), rng.normal(size=n)
    f = rng.integers(0, 3, n)
    sd, slope = rng.choice([0.1, 0.3, 0.7, 1.5]), rng.choice([0.1, 0.3])
    eta = rng.normal(0.0, 0.7) + rng.normal(0.0, 0.7) * x + sd * rng.normal(size=groups)[g]
    out = {"x": x, "g": np.array([f"g{j}" for j in g]), "h": np.array([f"h{j}" for j in h])}
    out["f"] = np.array(list("abc"))[f]
    if kind == "crossed":
        eta += 0.6 * rng.normal(size=8)[h]
    if kind == "slopes":
        eta += slope * rng.normal(size=groups)[g] * x
    if "f" in KINDS[kind][0]:
        eta += rng.normal(0.0, 0.4, 3)[f]
    mean, share = np.exp(np.clip(eta, -8, 5)), 1 / (1 + np.exp(-eta))
    if kind in ("yes or no", "crossed"):
        out["y"] = (rng.random(n) < share).astype(int)
    elif kind == "shares":
        out["t"] = rng.integers(1, 15, n)
        out["y"] = rng.binomial(out["t"], share)
    elif kind in ("counts", "slopes"):
        out["y"] = rng.poisson(mean)
    elif kind == "overdispersed":
        out["y"] = rng.poisson(mean * rng.gamma(2.0, 0.5, n))
    elif kind == "zeros":
        out["y"] = rng.poisson(2 * mean) * (rng.random(n) < 0.7)
    elif kind == "ordered":
        out["y"] = np.digitize(eta + rng.logistic(size=n), [-1.5, 0.0, 1.5]) + 1
    elif kind == "positive":
        out["y"] = rng.gamma(2.0, mean / 2.0)
    else:
        out["y"] = eta + 0.5 * rng.standard_t(4.0, n)
    return out


def model(kind: str) -> rf.Model:
    return rf.Model(KINDS[kind][0], family=KINDS[kind][1])


def moments(fit: rf.Fit) -> pd.DataFrame:
    """Mean and sd of every parameter and effect that varies, and of the logarithm of alpha."""
    parameters = fit.summary()[["mean", "sd"]]
    if "alpha" in parameters.index:
        logs = np.log(np.asarray(fit.idata.posterior["alpha"]))
        parameters.loc["alpha"] = logs.mean(), logs.std(ddof=1)
    found = [parameters]
    for factor in ("g", "h"):
        if f"| {factor})" in fit.program.formula.text:
            effects = fit.ranef(factor)
            names = zip(effects["term"], effects.index, strict=True)
            effects.index = pd.Index([f"{term}|{factor}|{level}" for term, level in names])
            found.append(effects[["mean", "sd"]])
    out = pd.concat(found)
    return out[out["sd"] > 0]


def judged(shift: float, least: float, most: float) -> str:
    if shift <= 0.1 and least >= 0.9 and most <= 1.1:
        return "right"
    return "wrong" if shift > 0.2 or least < 0.8 or most > 1.25 else "between"


def fit_all(options: argparse.Namespace) -> pd.DataFrame:
    rows: list[dict] = []
    for seed in range(options.start, options.start + options.each):
        for kind in options.only:
            row: dict = {"kind": kind, "seed": seed}
            began = time.process_time()
            try:
                fit = model(kind).fit(simulated(kind, seed), progress=False)
                row |= {"fit": time.process_time() - began, "converged": fit.converged}
                row |= {"method": fit.method, "said": fit.message}
                if seed < options.start + options.checked:
                    began = time.process_time()
                    check = fit.check()
                    row |= {"check": time.process_time() - began, "verdict": check.verdict}
                    row |= {"said": "; ".join(check.reasons)}
            except rf.RanefError as error:
                row |= {"verdict": "refused", "said": str(error)}
            rows.append(row)
        if seed % 5 == 4:
            jax.clear_caches()
            gc.collect()
            pd.DataFrame(rows).to_csv(options.out, index=False)
    return pd.DataFrame(rows)


def compare(options: argparse.Namespace) -> pd.DataFrame:
    began = time.perf_counter()
    table = pd.read_csv(options.out)
    for name in ("shift", "least", "most", "truth", "nuts"):
        if name not in table:
            table[name] = pd.Series(
                np.nan, table.index, object if name in ("truth", "nuts") else float
            )
    doubted = table["verdict"].isin(["distrust", "caution", "unchecked"])
    order = np.random.default_rng(0).permutation(len(table))
    order = [i for i in order if isinstance(table["verdict"][i], str)]
    places = sorted(order, key=lambda i: not doubted[i])
    chosen = [
        i
        for kind in options.only
        for i in [j for j in places if table["kind"][j] == kind][: options.nuts]
    ]
    for i in np.random.default_rng(1).permutation(chosen):
        if time.perf_counter() - began > options.wall:
            break
        if isinstance(table.at[i, "truth"], str) or table["verdict"][i] == "refused":
            continue
        kind, data = table["kind"][i], simulated(table["kind"][i], int(table["seed"][i]))
        nuts = model(kind).fit(
            data, method="nuts", draws=2_000, tune=1_000, target_accept=0.95, seed=5, progress=False
        )
        found = moments(model(kind).fit(data, draws=DRAWS, progress=False))
        true = moments(nuts)
        names = true.index.intersection(found.index)
        shift = float(((found["mean"] - true["mean"]) / true["sd"])[names].abs().max())
        ratio = (found["sd"] / true["sd"])[names]
        table.loc[i, ["shift", "least", "most"]] = shift, ratio.min(), ratio.max()
        table.loc[i, "truth"] = judged(shift, float(ratio.min()), float(ratio.max()))
        table.loc[i, "nuts"] = nuts.message
        table.to_csv(options.out, index=False)
        jax.clear_caches()
        gc.collect()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=100, help="tables of each kind")
    parser.add_argument("--checked", type=int, default=100, help="of each kind, looked at")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--nuts", type=int, default=0, help="tables of each kind beside NUTS")
    parser.add_argument("--wall", type=float, default=float("inf"), help="stop after so many s")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    table = compare(options) if options.nuts else fit_all(options)
    table.to_csv(options.out, index=False)
    print(f"{describe('ranef', 'jax', 'numpyro')}\n")
    print("| kind | fits | refused | not converged | trust | caution | distrust | unchecked "
          "| fit, CPU s: median, 90%, most | check: median, 90%, most |")  # fmt: skip
    print("|" + "---|" * 10)
    for kind, own in [*table.groupby("kind", sort=False), ("all", table)]:
        counts = [(own["verdict"] == v).sum() for v in
                  ("trust", "caution", "distrust", "unchecked")]  # fmt: skip
        refused = (own["verdict"] == "refused").sum()
        failed = (own["converged"].astype(str) == "False").sum()
        seconds = [", ".join(f"{own[c].quantile(q):.1f}" for q in (0.5, 0.9, 1)) for c in
                   ("fit", "check")]  # fmt: skip
        print(
            "| "
            + " | ".join(str(c) for c in (kind, len(own), refused, failed, *counts, *seconds))
            + " |"
        )
    if "truth" in table:
        print("\n", pd.crosstab(table["verdict"], table["truth"]).to_string())
        wrong = table[table["truth"].isin(["wrong", "between"])]
        print(wrong[["kind", "seed", "verdict", "shift", "least", "most", "nuts"]].to_string())


if __name__ == "__main__":
    main()
