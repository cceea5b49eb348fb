"""Simulation-based calibration of the exact method (Talts et al., 2018).

    python benchmarks/sbc.py [--simulations 1000] [--workers 2]

Parameters are drawn from their priors, a response given them, and the model is fitted: the rank
of each true value among 99 thinned draws of its posterior is uniform on 0..99 if the posterior
is right. Ranks are put to a chi-square test over 20 bins, and to a simultaneous band for their
cumulative distribution; about one parameter in twenty fails either at .05 if all is well.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import machine
import numpy as np
from scipy import stats

import ranef as rf

DRAWS, THINNED, BINS = 1_000, 99, 20
PRIORS = {"Intercept": rf.Normal(0, 1), "x": rf.Normal(0, 1), "sigma": rf.HalfNormal(1)}
SLOPES = ("y ~ x + (1 + x | g)", ("1|g_sigma", "x|g_sigma"))
CROSSED = ("y ~ x + (1 | g) + (1 | h)", ("1|g_sigma", "1|h_sigma"))
MODELS = {"random slopes, 25 groups of 8": SLOPES, "crossed, 12 by 15": CROSSED}


def simulated(name: str, rng: np.random.Generator) -> tuple[dict, dict[str, float]]:
    """A table and the parameters behind it, drawn from their priors."""
    slopes = MODELS[name] is SLOPES
    first, second = (25, 8) if slopes else (12, 15)
    g = np.repeat(np.arange(first), second)
    h = np.tile(np.arange(second), first)
    x = rng.normal(size=len(g))
    truth = {"Intercept": rng.normal(), "x": rng.normal(), "sigma": abs(rng.normal())}
    scales = np.abs(rng.normal(size=2))
    truth |= dict(zip(MODELS[name][1], scales, strict=True))
    eta = truth["Intercept"] + truth["x"] * x
    if slopes:
        # LKJ(1) of two columns is uniform.
        truth["g_corr"] = rng.uniform(-1, 1)
        corr = np.array([[1, truth["g_corr"]], [truth["g_corr"], 1]])
        b = scales * (rng.normal(size=(first, 2)) @ np.linalg.cholesky(corr).T)
        truth |= {"1|g": b[0, 0], "x|g": b[0, 1]}
        eta = eta + b[g, 0] + b[g, 1] * x
    else:
        b, c = scales[0] * rng.normal(size=first), scales[1] * rng.normal(size=second)
        truth |= {"1|g": b[0], "1|h": c[0]}
        eta = eta + b[g] + c[h]
    y = eta + truth["sigma"] * rng.normal(size=len(g))
    names = {"g": np.array([f"g{i:02}" for i in g]), "h": np.array([f"h{i:02}" for i in h])}
    return {"y": y, "x": x, **names}, truth


def ranks(name: str, seed: int) -> dict[str, int]:
    """Of each true value among the thinned draws."""
    rng = np.random.default_rng(seed)
    table, truth = simulated(name, rng)
    priors = {**PRIORS, **{scale: rf.HalfNormal(1) for scale in MODELS[name][1]}}
    model = rf.Model(MODELS[name][0], priors=priors)
    fit = model.fit(table, method="exact", seed=seed, draws=DRAWS, progress=False)
    places = rng.choice(DRAWS, THINNED, replace=False)
    out = {}
    for parameter, value in truth.items():
        drawn = fit.posterior[parameter].to_numpy()[0]
        if parameter == "g_corr":
            drawn = drawn[:, 0, 1]
        elif drawn.ndim > 1:
            drawn = drawn[:, 0]
        out[parameter] = int((drawn[places] < value).sum())
    return out


def band(simulations: int) -> float:
    """The distance from uniform that the worst of a uniform sample exceeds in 5% of cases."""
    rng = np.random.default_rng(0)
    worst = [distance(rng.integers(0, THINNED + 1, simulations)) for _ in range(2_000)]
    return float(np.quantile(worst, 0.95))


def distance(found: np.ndarray) -> float:
    """The largest between the cumulative distribution of ranks and the uniform one."""
    counts = np.bincount(found, minlength=THINNED + 1)
    expected = np.arange(1, THINNED + 2) / (THINNED + 1)
    return float(np.abs(np.cumsum(counts) / len(found) - expected).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    n = options.simulations
    limit = band(n)
    print(f"{machine.describe('ranef')}. {n:,} simulations; ECDF band {limit:.4f}.\n")
    print("| model | parameter | chi-square p | ECDF distance | 90% interval covers |")
    print("|---|---|---|---|---|")
    by_bin, by_band, count = 0, 0, 0
    began = time.perf_counter()
    for name in MODELS:
        with ProcessPoolExecutor(options.workers) as pool:
            found = list(pool.map(partial(ranks, name), range(n), chunksize=10))
        for parameter in found[0]:
            own = np.array([each[parameter] for each in found])
            binned = np.bincount(own * BINS // (THINNED + 1), minlength=BINS)
            p = stats.chisquare(binned).pvalue
            apart = distance(own)
            inside = np.mean((own >= 5) & (own < THINNED + 1 - 5))
            by_bin, by_band, count = by_bin + (p < 0.05), by_band + (apart > limit), count + 1
            label = parameter.replace("|", "\\|")
            print(f"| {name} | {label} | {p:.3f} | {apart:.4f} | {inside:.3f} |")
    low, high = stats.binom.interval(0.95, count, 0.05)
    print(
        f"\n{count} parameters; failing at .05: {by_bin} by chi-square, {by_band} by ECDF; "
        f"expected {low:.0f} to {high:.0f}. {time.perf_counter() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
