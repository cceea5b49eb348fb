"""The post's first two models: seconds to the best mean-field ELBO, and how near it is.

    python benchmarks/posted_models.py [--rows 36986]

Noise of sd 1 and normal priors make the model conjugate, so that the best mean-field ELBO has a
closed form: with posterior precision P it lies (sum log P_ii - log det P) / 2 below the evidence.
Every fit runs in a process of its own, so that compilation counts in the first of its two fits.
"""

import argparse
import json
import subprocess
import sys

import machine
import numpy as np

import ranef as rf

ZIPS = 380
MODELS = {
    "linear": ("y ~ a + b + c", None),
    "random intercepts, sigma_zip = .1": ("y ~ a + b + c + (1 | zip)", 0.1),
    "random intercepts, sigma_zip fitted": ("y ~ a + b + c + (1 | zip)", rf.PointEstimate()),
}


def table(rows: int) -> dict[str, np.ndarray]:
    """Data of the post's shape: scaled predictors, skewed zips, a small signal."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 3))
    zips = rng.choice(ZIPS, rows, p=rng.dirichlet(np.ones(ZIPS)))
    effects = 0.02 * rng.normal(size=ZIPS)
    y = 0.01 + x @ [0.02, -0.01, 0.0] + effects[zips] + 0.07 * rng.standard_t(3, size=rows)
    names = np.array([f"{90_000 + z}" for z in range(ZIPS)])
    return {"y": y, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "zip": names[zips]}


def best_elbo(data: dict[str, np.ndarray], sigma_zip: float | None) -> float:
    y, n = data["y"], len(data["y"])
    x = np.column_stack([np.ones(n), data["a"], data["b"], data["c"]])
    prior = np.ones(4)
    if sigma_zip is not None:
        _, codes = np.unique(data["zip"], return_inverse=True)
        x = np.column_stack([x, np.eye(codes.max() + 1)[codes]])
        prior = np.r_[prior, np.full(codes.max() + 1, sigma_zip**-2)]
    precision = x.T @ x + np.diag(prior)
    mean = np.linalg.solve(precision, x.T @ y)
    constant = -n * np.log(2 * np.pi) - y @ y + mean @ precision @ mean + np.log(prior).sum()
    return 0.5 * (constant - np.log(np.diag(precision)).sum())


def run_one(name: str, rows: int) -> dict[str, float]:
    formula, sigma_zip = MODELS[name]
    priors = {"Intercept": rf.Normal(0, 1), "common": rf.Normal(0, 1), "sigma": 1.0}
    if sigma_zip is not None:
        priors["1|zip_sigma"] = sigma_zip
    data = table(rows)
    model = rf.Model(formula, priors=priors)
    cold = model.fit(data, guide="meanfield", progress=False)
    warm = model.fit(data, guide="meanfield", progress=False)
    fitted = None if sigma_zip is None else cold.summary().loc["1|zip_sigma", "mean"]
    gap = best_elbo(data, fitted) - cold.elbo
    return {"cold": cold.seconds, "warm": warm.seconds, "gap": gap, "steps": cold.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=36_986)
    parser.add_argument("--one", help="run one model here and print it as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.rows)))
        return
    print(machine.describe("ranef", "jax", "numpyro"))
    print(f"{options.rows:,} rows, {ZIPS} zips\n")
    print("| model | steps | seconds, first fit | seconds, second | nats below the best |")
    print("|---|---|---|---|---|")
    for name in MODELS:
        command = [sys.executable, __file__, "--rows", str(options.rows), "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        r = json.loads(done.stdout)
        print(f"| {name} | {r['steps']} | {r['cold']:.1f} | {r['warm']:.1f} | {r['gap']:.3f} |")


if __name__ == "__main__":
    main()
