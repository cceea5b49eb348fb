"""InstEval by five-fold cross-validation: a network beside crossed effects, and what else serves.

    python benchmarks/insteval.py --data FOLDER [--models NAME ...] [--folds 5]

FOLDER holds InstEval.csv. The folds are scikit-learn's KFold(5, shuffle=True, random_state=42).
Mean squared errors of others on these folds: LMMNN 1.449, lme4 1.447, LightGBM 1.442, the means
of the cells of the four columns 1.441.
"""

import argparse
import time
from pathlib import Path

import machine
import numpy as np
import pandas as pd

import ranef as rf

CROSSED = "(1 | s) + (1 | d)"
MODELS = {
    "network [10, 3]": (
        "y ~ nn(studage, lectage, service, dept, hidden=[10, 3], activation='silu', l2=0.00001) + "
        f"{CROSSED}"
    ),
    "linear": f"y ~ studage + lectage + service + dept + {CROSSED}",
    "any terms": (
        f"y ~ studage + lectage + service + {CROSSED} + (1 | dept:service) "
        "+ (1 | d:service:lectage)"
    ),
}


def folds(n: int, count: int) -> list[np.ndarray]:
    """The test rows of each fold, as scikit-learn's KFold draws them."""
    order = np.arange(n)
    np.random.RandomState(42).shuffle(order)  # noqa: NPY002 the generator of the published folds
    return [np.sort(part) for part in np.array_split(order, 5)][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--folds", type=int, default=5)
    given = parser.parse_args()
    levels = dict.fromkeys(("s", "d", "dept", "service", "studage", "lectage"), str)
    table = pd.read_csv(given.data / "InstEval.csv", dtype=levels)
    print(machine.describe("ranef", "jax", "keras"))
    print("\n| model | mean squared error | of each fold | seconds a fit |\n|---|---|---|---|")
    for name in given.models:
        errors, seconds = [], []
        for rows in folds(len(table), given.folds):
            train, test = table.drop(index=rows), table.iloc[rows]
            began = time.perf_counter()
            fit = rf.Model(MODELS[name]).fit(train, progress=False)
            seconds.append(time.perf_counter() - began)
            found = fit.predict(test, new_levels="zero")["mean"].to_numpy()
            errors.append(float(np.mean((test["y"] - found) ** 2)))
        each = ", ".join(f"{e:.4f}" for e in errors)
        print(f"| {name} | {np.mean(errors):.4f} | {each} | {np.mean(seconds):.1f} |", flush=True)


if __name__ == "__main__":
    main()
