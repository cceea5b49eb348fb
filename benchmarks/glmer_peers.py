"""Laplace beside lme4's glmer and glmmTMB on answers yes or no, in one run on one machine.

    python benchmarks/glmer_peers.py --data FOLDER [--rscript RSCRIPT] [--only WORK ...]
        [--limit 400] [--rows 1000000]

FOLDER holds VerbAgg.csv and Contraception.csv; RSCRIPT is one of R with lme4 and glmmTMB. Each side
fits once in a fresh process a table that it has read; only the fit is timed, compilation
included. glmer (nAGQ = 1) and glmmTMB give a point estimate by the Laplace approximation. The
clock of ranef stops when draws of the hyperparameters and means and sds of all coefficients are
there. A side that takes more than the limit, in seconds, is stopped.
On a machine that others use, CPU time says more; ratios are those of a side to ranef.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
import numpy as np
import pandas as pd

WORKS = {
    "VerbAgg": (
        "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)",
        ("id", "item"),
    ),
    "Contraception": (
        "use ~ age + I(age^2) + urban + livch + (1 | district)",
        ("district",),
    ),
    "generated": ("y ~ x + (1 | g)", ("g",)),
}
LEVELS = 10_000

RANEF = """
import json, sys, time
import pandas as pd, ranef as rf
fits, path, formula, *groups = sys.argv[1:]
table = pd.read_csv(path, dtype=dict.fromkeys(groups, str))
model = rf.Model(formula.replace("^", "**"), family="bernoulli")
for _ in range(int(fits)):
    began, used = time.perf_counter(), time.process_time()
    fit = model.fit(table, method="laplace", progress=False)
    known = fit.draws.known_moments
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
found = fit.summary()["mean"]
names = ["Intercept", *("1|" + g + "_sigma" for g in groups)]
print(json.dumps([seconds, cpu, *(float(found[name]) for name in names)]))
"""

HEAD = """
a <- commandArgs(TRUE)
table <- read.csv(a[1], stringsAsFactors = TRUE)
for (name in a[-(1:2)]) table[[name]] <- factor(table[[name]])
"""
TAIL = """
found <- c(took[["elapsed"]], sum(took[1:2]), fixed[["(Intercept)"]], sds)
cat(sprintf("[%s]\n", paste(found, collapse = ", ")))
"""
GLMER = f"""
suppressMessages(library(lme4)){HEAD}
took <- system.time(fit <- glmer(as.formula(a[2]), table, family = binomial))
fixed <- fixef(fit)
sds <- sapply(a[-(1:2)], function(g) attr(VarCorr(fit)[[g]], "stddev")){TAIL}
"""
GLMMTMB = f"""
suppressMessages(library(glmmTMB)){HEAD}
took <- system.time(fit <- glmmTMB(as.formula(a[2]), table, family = binomial))
fixed <- fixef(fit)$cond
sds <- sapply(a[-(1:2)], function(g) attr(VarCorr(fit)$cond[[g]], "stddev")){TAIL}
"""


def generated(rows: int) -> pd.DataFrame:
    """A predictor and 10,000 groups of effects of sd 1."""
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(LEVELS), rows // LEVELS)
    x, b = rng.normal(size=len(g)), rng.normal(size=LEVELS)
    probability = 1 / (1 + np.exp(0.5 - 0.7 * x - b[g]))
    y = (rng.random(len(g)) < probability).astype(int)
    return pd.DataFrame({"y": y, "x": x, "g": np.char.add("g", g.astype(str))})


def table_of(name: str, folder: Path, rows: int) -> pd.DataFrame:
    if name == "generated":
        return generated(rows)
    table = pd.read_csv(folder / f"{name}.csv")
    response = WORKS[name][0].split(" ~ ")[0]
    table[response] = (table[response] == "Y").astype(int)
    return table


def timed(command: list[str], limit: float) -> list[float] | str:
    """Seconds, CPU seconds, intercept and sds of the groups; or why there are none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"over {limit:g} s"
    except OSError:
        return "not there"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    if "failed to converge" in done.stderr:
        print("warned of convergence:", done.stderr.strip().splitlines()[-1], file=sys.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--rscript", default="Rscript")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--limit", type=float, default=400.0)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the generated table")
    given = parser.parse_args()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{machine.describe('ranef', 'jax', 'numpy')}; load at the start: {load}\n")
    print("| data | rows | side | seconds | ratio | CPU, s | ratio | intercept | group sds |")
    print("|" + "---|" * 9, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        for name in given.only:
            table = table_of(name, given.data, given.rows)
            table.to_csv(path, index=False)
            formula, groups = WORKS[name]
            work = [str(path), formula, *groups]
            sides = {
                "ranef": [sys.executable, "-c", RANEF, "1", *work],
                "ranef, second fit": [sys.executable, "-c", RANEF, "2", *work],
                "glmer": [given.rscript, "-e", GLMER, *work],
                "glmmTMB": [given.rscript, "-e", GLMMTMB, *work],
            }
            if len(table) > 100_000:
                del sides["ranef, second fit"]
            own = None
            for side, command in sides.items():
                found = timed(command, given.limit)
                start = f"| {name} | {len(table):,} | {side} |"
                if isinstance(found, str):
                    print(f"{start} {found} |  |  |  |  |  |", flush=True)
                    continue
                *times, intercept = found[:3]
                own = times if side == "ranef" else own
                cells = []
                for place, each in enumerate(times):
                    cells += [f"{each:.2f}", f"{each / own[place]:.2f}" if own else ""]
                sds = ", ".join(f"{sd:.3f}" for sd in found[3:])
                print(f"{start} {' | '.join(cells)} | {intercept:.3f} | {sds} |", flush=True)


if __name__ == "__main__":
    main()
