"""Each method beside NUTS, on ten models of generated data: means, sds, seconds and verdicts.

    python benchmarks/methods.py --out FOLDER [--only MODEL ...] [--methods nuts laplace ...]
        [--fresh]

600 rows, 30 groups, the default priors. NUTS takes four chains, 10,000 draws after tuning; the
other methods draw as many. Summaries of NUTS go to FOLDER and are read from it when they are
there; --fresh samples again. "exact" is run where it applies. Shifts are differences of posterior
means in sds of NUTS; derived quantities (shares of variance) count as parameters. A method is off
where a shift passes .1 or a ratio of sds leaves .9 to 1.1.
"""

import argparse
import os
import time
from pathlib import Path

import machine
import numpy as np
import pandas as pd

import ranef as rf

DRAWS = 10_000
GAUSSIAN = ("slopes", "crossed")
MODELS = {
    "slopes": ("yg ~ x + (1 + x | g)", "gaussian"),
    "crossed": ("yc ~ x + (1 | g) + (1 | h)", "gaussian"),
    "bernoulli": ("yb ~ x + (1 | g)", "bernoulli"),
    "binomial": ("yt / t ~ x + (1 | g) + (1 | h)", "binomial"),
    "poisson": ("yp ~ x + (1 + x | g) + offset(log(expo))", "poisson"),
    "negbin": ("yn ~ x + (1 | g)", "negative_binomial"),
    "ordinal": ("yo ~ x + (1 | g)", "ordinal"),
    "gamma": ("yga ~ x + (1 | g)", "gamma"),
    "student": ("ys ~ x + (1 | g)", "student"),
    "sigma": ("yd ~ x + (1 | g); sigma ~ x + (1 | g)", "gaussian"),
}
# Options of each but NUTS. Of a linear model svi is the closed form, unless told how to search.
METHODS: dict[str, dict] = {
    "exact": {"method": "exact"},
    "laplace": {"method": "laplace"},
    "svi": {"method": "svi"},
    "searched": {"method": "svi", "guide": "structured", "steps": 20_000},
    "meanfield": {"method": "svi", "guide": "meanfield"},
}
# Of four chains each. The slopes of the Poisson model mix slowly.
NUTS = {"draws": 2_500}
SLOW = {"poisson": {"draws": 5_000, "tune": 2_000, "target_accept": 0.95}}


def generated(rows: int = 600, groups: int = 30, others: int = 12) -> dict:
    """One table, with a response for each model."""
    rng = np.random.default_rng(3)
    g, h = rng.integers(0, groups, rows), rng.integers(0, others, rows)
    x = rng.normal(size=rows)
    b, c = 0.7 * rng.normal(size=groups), 0.5 * rng.normal(size=others)
    eta = 0.3 + 0.6 * x + b[g]
    table: dict = {"x": x, "g": [f"g{i}" for i in g], "h": [f"h{i}" for i in h]}
    slope = (0.4 * rng.normal(size=groups))[g]
    table["yg"] = 1 + 0.5 * x + b[g] + slope * x + rng.normal(size=rows)
    table["yc"] = 1 + 0.5 * x + b[g] + c[h] + rng.normal(size=rows)
    probability, mean = 1 / (1 + np.exp(-eta)), np.exp(eta)
    table["yb"] = (rng.random(rows) < probability).astype(int)
    table["t"] = rng.integers(1, 12, rows)
    table["yt"] = rng.binomial(table["t"], probability)
    table["expo"] = rng.uniform(0.5, 3, rows)
    table["yp"] = rng.poisson(table["expo"] * mean)
    table["yn"] = rng.poisson(mean * rng.gamma(2.0, 1 / 2.0, rows))
    latent = eta + rng.logistic(size=rows)
    table["yo"] = np.array(list("abcd"))[np.digitize(latent, [-1, 0.5, 2])]
    table["yga"] = rng.gamma(3.0, mean / 3.0)
    table["ys"] = eta + 0.5 * rng.standard_t(3.0, rows)
    log_sigma = -0.5 + 0.4 * x + 0.3 * rng.normal(size=groups)[g]
    table["yd"] = eta + np.exp(log_sigma) * rng.normal(size=rows)
    return table


def fitted(name: str, method: str, table: dict) -> tuple[pd.DataFrame, float, str, str]:
    """Means and sds of parameters and effects, the seconds, the verdict and the message."""
    formula, family = MODELS[name]
    if method == "nuts":
        how = {"method": "nuts", **SLOW.get(name, NUTS)}
    else:
        how = {"draws": DRAWS, **METHODS[method]}
    began = time.perf_counter()
    fit = rf.Model(formula, family=family).fit(table, progress=False, **how)
    seconds = time.perf_counter() - began
    parameters = fit.summary()[["mean", "sd"]].assign(effect=False)
    effects = []
    for factor in ("g", "h"):
        if f"| {factor})" in formula:
            found = fit.ranef(factor)
            names = zip(found["term"], found.index, strict=True)
            found.index = pd.Index([f"{term}|{level}" for term, level in names])
            effects.append(found[["mean", "sd"]].assign(effect=True))
    both = pd.concat([parameters, *effects])
    return both[both["sd"] > 0], seconds, fit.check().verdict, fit.message


def reference(name: str, table: dict, folder: Path, fresh: bool) -> pd.DataFrame:
    path = folder / f"{name}.csv"
    if fresh or not path.exists():
        found, seconds, verdict, message = fitted(name, "nuts", table)
        found.assign(seconds=seconds, verdict=verdict, message=message).to_csv(path)
    return pd.read_csv(path, index_col=0)


def compared(found: pd.DataFrame, nuts: pd.DataFrame) -> tuple[str, list[str]]:
    """Cells of the table, and what is off."""
    cells, off = [], []
    for effect in (False, True):
        true = nuts[nuts["effect"] == effect]
        own = found[found["effect"] == effect].loc[true.index]
        shift = ((own["mean"] - true["mean"]) / true["sd"]).abs()
        ratio = own["sd"] / true["sd"]
        cells += [f"{shift.max():.3f}", f"{ratio.min():.3f}-{ratio.max():.3f}"]
        wrong = shift.index[(shift > 0.1) | ((ratio - 1).abs() > 0.1)]
        if effect and len(wrong):
            off.append(f"{len(wrong)} of {len(true)} effects")
        elif not effect:
            off += [f"{n} ({shift[n]:.2f}, {ratio[n]:.2f})" for n in wrong]
    return " | ".join(cells), off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where NUTS leaves its summaries")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=[*METHODS, "nuts"])
    parser.add_argument("--fresh", action="store_true", help="sample by NUTS again")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    table = generated()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{machine.describe('ranef', 'jax', 'numpyro')}; load at the start: {load}\n")
    print("| model | method | shift | sds | shift, effects | sds, effects | seconds | verdict |")
    print("|" + "---|" * 8, flush=True)
    notes, chains = [], []
    for name in given.only:
        nuts = reference(name, table, given.out, given.fresh)
        for method in given.methods:
            if method == "nuts":
                chains.append(f"- {name}: {nuts['message'].iloc[0]}")
                cells, off = " |  |  | ", []
                seconds, verdict = nuts["seconds"].iloc[0], nuts["verdict"].iloc[0]
            elif method == "exact" and name not in GAUSSIAN:
                continue
            else:
                found, seconds, verdict, _ = fitted(name, method, table)
                cells, off = compared(found, nuts)
            line = f"| {name} | {method} | {cells} | {seconds:.1f} | {verdict} |"
            print(line, flush=True)
            if off:
                notes.append(f"- {name}, {method}: {', '.join(off)}")
    print("\nOff (shift, ratio of sds):\n" + "\n".join(notes or ["- nothing"]))
    print("\n".join(["\nNUTS:", *chains]))


if __name__ == "__main__":
    main()
