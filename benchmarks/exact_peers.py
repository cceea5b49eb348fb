"""The exact method beside others that fit Gaussian mixed models, in one run on one machine.

    python benchmarks/exact_peers.py --data FOLDER [--peer PYTHON] [--rscript RSCRIPT]
        [--only WORK ...] [--sides SIDE ...] [--repeats 5] [--scale 1.0]

PYTHON is an interpreter with any of gpboost, mixedlm, statsmodels and bambi with nutpie; RSCRIPT
one of R with lme4. What is not there is left out. FOLDER holds InstEval and sleepstudy as CSV.

Each side gets a table with text groups in memory. "cold" is the first call in a fresh process,
compilation included and imports not; "warm" the median of later calls in it. The clock of ranef
stops when draws of the hyperparameters and means and sds of all coefficients are there; the
others but bambi give a point estimate. On a machine that others use, CPU time says more. Memory
is the peak of the process, the table included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import machine
import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Work:
    """A model and who can fit it.

    Attributes:
        formula: as lme4 writes it.
        groups: columns of the groupings.
        sides: that fit it in reasonable time.
        rows, levels: of a generated table; 0 for a published one.
    """

    formula: str
    groups: tuple[str, ...]
    sides: tuple[str, ...]
    rows: int = 0
    levels: int = 0


ALL = ("ranef", "lme4", "GPBoost", "mixedlm", "statsmodels", "bambi")
LARGE = ("ranef", "lme4", "GPBoost", "mixedlm")
WORKS = {
    "sleepstudy": Work("Reaction ~ Days + (Days | Subject)", ("Subject",), ALL),
    "InstEval": Work("y ~ service + (1 | s) + (1 | d) + (1 | dept)", ("s", "d", "dept"), LARGE),
    "slopes": Work("y ~ x + (x | g)", ("g",), LARGE, 1_000_000, 10_000),
    "intercepts": Work("y ~ x + (1 | g)", ("g",), LARGE, 1_000_000, 10_000),
    "slopes, 100k": Work("y ~ x + (x | g)", ("g",), (*LARGE, "statsmodels"), 100_000, 1_000),
    "10M rows": Work("y ~ x + (1 | g)", ("g",), ("ranef",), 10_000_000, 1_000_000),
    "crossed": Work("y ~ x + (1 | g) + (1 | h)", ("g", "h"), ("ranef",), 1_000_000, 10_000),
}
DEFAULT = ("sleepstudy", "InstEval", "slopes", "intercepts", "slopes, 100k")

# Each fits once with fit(); what precedes it is not timed.
FITS = {
    "ranef": """
import jax, numpyro, ranef as rf
from ranef.inference import exact
model = rf.Model(formula)
def fit():
    found = model.fit(table, method="exact", progress=False)
    found.draws.known_moments
    return found
""",
    "GPBoost": """
import numpy as np, gpboost as gpb
def fit():
    x = table[[slope]].to_numpy(float)
    coefficients = {}
    if "(" + slope + " |" in formula:
        coefficients = dict(group_rand_coef_data=x, ind_effect_group_rand_coef=[1])
    model = gpb.GPModel(group_data=table[groups].to_numpy(), likelihood="gaussian", **coefficients)
    design = np.column_stack([np.ones(len(x)), x])
    return model.fit(y=table[response].to_numpy(float), X=design)
""",
    "mixedlm": """
import mixedlm
def fit():
    return mixedlm.lmer(formula, table)
""",
    "statsmodels": """
import statsmodels.formula.api as smf
def fit():
    common = response + " ~ " + slope
    return smf.mixedlm(common, table, groups=table[groups[0]], re_formula="~" + slope).fit()
""",
    "bambi": """
import logging; logging.disable(logging.CRITICAL)
import bambi
def fit():
    keywords = dict(inference_method="nutpie", draws=500, tune=500, chains=2, progressbar=False)
    return bambi.Model(formula, table).fit(**keywords)
""",
}

TIMED = """
import sys, time, json, resource, warnings
warnings.simplefilter("ignore")
import pandas as pd
path, formula, response, slope, groups, repeats = json.loads(sys.argv[1])
table = pd.read_parquet(path)
{fit}
seconds, cpu = [], []
for _ in range(repeats):
    began, used = time.perf_counter(), time.process_time()
    found = fit()
    seconds.append(time.perf_counter() - began)
    cpu.append(time.process_time() - used)
began = time.perf_counter()
if hasattr(found, "draws") and hasattr(found.draws, "known_moments"):
    for name in found.draws.sites:
        found.draws.sites[name]
drawn = time.perf_counter() - began
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps(dict(seconds=seconds, cpu=cpu, drawn=drawn, memory=memory)))
"""

LME4 = """
suppressMessages(library(lme4))
a <- commandArgs(TRUE)
table <- read.csv(a[1], stringsAsFactors = FALSE, colClasses = eval(parse(text = a[4])))
for (i in 1:as.integer(a[3]))
  cat(system.time(lmer(as.formula(a[2]), table))[["elapsed"]], "")
"""


def table_of(name: str, folder: Path, scale: float) -> pd.DataFrame:
    work = WORKS[name]
    if not work.rows:
        text = dict.fromkeys(work.groups, str)
        return pd.read_csv(folder / f"{name}.csv", index_col=0, dtype=text)
    return generated(int(work.rows * scale), int(work.levels * scale), work.formula)


def generated(rows: int, levels: int, formula: str) -> pd.DataFrame:
    """A predictor, a grouping with correlated slopes, and a second grouping if it is named."""
    rng = np.random.default_rng(0)
    g, x = rng.integers(0, levels, rows), rng.normal(size=rows)
    b = rng.normal(size=(levels, 2)) @ np.array([[1, 0.3], [0, 0.5]])
    slopes = b[g, 1] * x if "(x |" in formula else 0.0
    y = 1 + 2 * x + b[g, 0] + slopes + rng.normal(size=rows)
    columns = {"x": x, "g": np.char.add("g", g.astype(str))}
    if "| h)" in formula:
        h = rng.integers(0, levels, rows)
        y += rng.normal(size=levels)[h]
        columns["h"] = np.char.add("h", h.astype(str))
    return pd.DataFrame({"y": y, **columns})


def ran(command: list[str]) -> str | None:
    """What it printed; None where it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    except OSError:
        return None
    if done.returncode:
        print(f"{command[0]}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return done.stdout


def timed(side: str, name: str, path: Path, options: argparse.Namespace) -> dict | None:
    """Seconds of each call in one process, the first of them cold."""
    work = WORKS[name]
    response, right = work.formula.split(" ~ ")
    slope = right.split(" + ")[0]
    if side == "lme4":
        types = ", ".join(f"{g} = 'character'" for g in work.groups)
        calls = str(options.repeats_of_peers + 1)
        script = [options.rscript, "-e", LME4, f"{path}.csv", work.formula, calls, f"c({types})"]
        printed = ran(script)
        return None if printed is None else {"seconds": [float(s) for s in printed.split()]}
    own = side == "ranef"
    repeats = 1 + (options.repeats if own else options.repeats_of_peers)
    arguments = json.dumps([str(path), work.formula, response, slope, list(work.groups), repeats])
    python = sys.executable if own else options.peer
    printed = ran([python, "-c", TIMED.format(fit=FITS[side]), arguments])
    return None if printed is None else json.loads(printed.strip().splitlines()[-1])


def line(side: str, name: str, path: Path, options: argparse.Namespace) -> str | None:
    """A row of the table, or None where the side is not there."""
    colds = options.repeats if side == "ranef" else options.repeats_of_peers
    runs = [timed(side, name, path, options)]
    if runs[0] is None:
        return None
    if WORKS[name].rows < 5_000_000:
        few = argparse.Namespace(**{**vars(options), "repeats": 0, "repeats_of_peers": 0})
        runs += [timed(side, name, path, few) for _ in range(colds - 1)]
    cold = np.median([run["seconds"][0] for run in runs if run])
    later = runs[0]["seconds"][1:]
    warm = f"{np.median(later):.3f}" if later else ""
    cpu = f"{np.median(runs[0]['cpu'][-len(later) :]):.3f}" if "cpu" in runs[0] else ""
    drawn = f"{runs[0]['drawn']:.2f}" if side == "ranef" else ""
    memory = f"{runs[0]['memory']:.2f}" if "memory" in runs[0] else ""
    return f"| {name} | {side} | {cold:.3f} | {warm} | {cpu} | {drawn} | {memory} | {len(later)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(), help="folder of the tables")
    parser.add_argument("--peer", default="", help="an interpreter with the peers")
    parser.add_argument("--rscript", default="Rscript", help="Rscript with lme4")
    parser.add_argument("--only", nargs="*", choices=WORKS, default=DEFAULT)
    parser.add_argument("--sides", nargs="*", choices=ALL, default=ALL)
    parser.add_argument("--repeats", type=int, default=5, help="calls, and fresh processes")
    parser.add_argument("--repeats-of-peers", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="of the generated tables")
    options = parser.parse_args()
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    described = machine.describe("ranef", "numpy", "scipy")
    print(f"{described}; BLAS threads: {threads}; load at the start: {load}\n")
    print("| work | side | cold, s | warm, s | of it CPU | 1,000 draws, s | peak, GiB | calls |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        for name in options.only:
            table = table_of(name, options.data, options.scale)
            table.to_parquet(path)
            sides = [side for side in WORKS[name].sides if side in options.sides]
            if "lme4" in sides:
                table.to_csv(f"{path}.csv", index=False)
            for side in sides:
                row = line(side, name, path, options)
                if row:
                    print(row, flush=True)


if __name__ == "__main__":
    main()
