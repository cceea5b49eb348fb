"""A network beside random intercepts for answers yes or no, on LMMNN's simulation.

    python benchmarks/lmmnn_bernoulli.py [--q 100 1000 10000] [--variances 0.1 1 10] [--seed 1]

N = 100,000 rows, x ~ U(-1, 1)^10, f = eta cos(eta) + 2 x1 x2 with eta = 1 + sum x, effects of q
groups of variance sigma2_b, P(y = 1) = 1 / (1 + exp(-f - b)); a random fifth of the rows is kept
for the test. One table a cell. The oracle knows f and sigma2_b and predicts the mean of the
probability under the posterior of b given the training rows, by Gauss-Hermite quadrature about its
mode. The columns LMMNN and MC-GMENN are published means of other draws, not run here.
"""

import argparse
import os
import time

import machine
import numpy as np
import pandas as pd
from scipy.stats import rankdata

import ranef as rf

N, WIDTH, NODES = 100_000, 10, 31
X = [f"x{i}" for i in range(WIDTH)]
NETWORK = f"nn({', '.join(X)}, hidden=[100, 50, 25, 12], activation='silu', l2=0.0003)"
# By variance; q = 100, 1,000 and 10,000.
LMMNN = {0.1: (0.799, 0.794, 0.790), 1.0: (0.829, 0.827, 0.805), 10.0: (0.925, 0.921, 0.900)}
MC_GMENN = {0.1: (0.799, 0.793, 0.787), 1.0: (0.835, 0.829, 0.801), 10.0: (0.934, 0.928, 0.894)}


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """The area under the ROC curve, from ranks."""
    ranks, ones = rankdata(score), int(y.sum())
    return float((ranks[y == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(y) - ones)))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def simulated(q: int, variance: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Training and test rows, with f and the number of the group; the mean of b^2."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (N, WIDTH))
    eta = 1 + x.sum(axis=1)
    f = eta * np.cos(eta) + 2 * x[:, 0] * x[:, 1]
    weights = rng.poisson(3, q) + 1
    code = rng.permutation(np.repeat(np.arange(q), rng.multinomial(N, weights / weights.sum())))
    b = np.sqrt(variance) * rng.normal(size=q)
    y = (rng.random(N) < sigmoid(f + b[code])).astype(int)
    table = pd.DataFrame(x, columns=X).assign(g=code.astype(str), y=y, f=f, code=code)
    inside = rng.random(N) < 0.8
    return table[inside], table[~inside], float((b**2).mean())


def oracle(train: pd.DataFrame, test: pd.DataFrame, q: int, variance: float) -> float:
    """AUC of E[1 / (1 + exp(-f - b)) | training rows]."""
    code, f, y = (train[name].to_numpy() for name in ("code", "f", "y"))
    mode = np.zeros(q)
    for _ in range(50):
        p = sigmoid(f + mode[code])
        curvature = np.bincount(code, p * (1 - p), q) + 1 / variance
        mode += (np.bincount(code, y - p, q) - mode / variance) / curvature
    places, weights = np.polynomial.hermite_e.hermegauss(NODES)
    b = mode[:, None] + places / np.sqrt(curvature)[:, None]
    log = np.log(weights) + places**2 / 2 - b**2 / (2 * variance)
    for k in range(NODES):
        eta = f + b[code, k]
        log[:, k] += np.bincount(code, y * eta - np.logaddexp(0, eta), q)
    share = np.exp(log - log.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    at = test["code"].to_numpy()
    mean = (share[at] * sigmoid(test["f"].to_numpy()[:, None] + b[at])).sum(axis=1)
    return auc(test["y"].to_numpy(), mean)


def line(q: int, variance: float, seed: int) -> str:
    train, test, b2 = simulated(q, variance, seed)
    best = oracle(train, test, q, variance)
    hidden = ["f", "code"]
    model = rf.Model(f"y ~ {NETWORK} + (1 | g)", family="bernoulli")
    began = time.perf_counter()
    fit = model.fit(train.drop(columns=hidden), method="svi", seed=seed, progress=False)
    seconds = time.perf_counter() - began
    found = fit.predict(test.drop(columns=hidden), new_levels="sample")["mean"].to_numpy()
    own = auc(test["y"].to_numpy(), found)
    sd = fit.summary()["mean"]["1|g_sigma"]
    published = ["", ""]
    if variance in LMMNN and q in (100, 1_000, 10_000):
        place = (100, 1_000, 10_000).index(q)
        published = [f"{each[variance][place]:.3f}" for each in (LMMNN, MC_GMENN)]
    return (
        f"| {q:,} | {variance:g} | {best:.4f} | {own:.4f} | {own - best:+.4f} | "
        f"{' | '.join(published)} | {sd**2:.3f} | {b2:.3f} | {seconds:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--q", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--variances", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{machine.describe('ranef', 'jax', 'keras')}; load at the start: {load}\n")
    print(
        "| q | sigma2_b | oracle | ranef | apart | LMMNN | MC-GMENN | its sigma2_b | b2 | seconds |"
    )
    print("|" + "---|" * 10, flush=True)
    for variance in given.variances:
        for q in given.q:
            print(line(q, variance, given.seed), flush=True)


if __name__ == "__main__":
    main()
