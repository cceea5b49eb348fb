"""Simulation-based calibration of the exact method and of laplace (Talts et al., 2018).

    python benchmarks/sbc.py [--simulations 1000] [--workers 2] [--methods exact laplace]

Parameters are drawn from their priors, a response given them, and the model is fitted: the rank
of each true value among 99 thinned draws of its posterior is uniform on 0..99 if the posterior
is right. Ranks are put to a chi-square test over 20 bins, and to a simultaneous band for their
cumulative distribution; about one parameter in twenty fails either at .05 if all is well.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import machine
import numpy as np
from scipy import stats

import ranef as rf

DRAWS, THINNED, BINS = 1_000, 99, 20


@dataclass(frozen=True)
class Simulation:
    """A model, and the sizes of the table that is drawn from it.

    Attributes:
        formula: of the model; "x" is its only predictor.
        scales: the sds of its group effects, of half-normal priors.
        sizes: groups, and rows of each (or levels of the second factor).
        family, method: of the fit.
        slope: sd of the normal prior of the effect of x.
    """

    formula: str
    scales: tuple[str, ...]
    sizes: tuple[int, int]
    family: str = "gaussian"
    method: str = "exact"
    slope: float = 1.0

    @property
    def priors(self) -> dict:
        priors = {"Intercept": rf.Normal(0, 1), "x": rf.Normal(0, self.slope)}
        scales = self.scales + (("sigma",) if self.family == "gaussian" else ())
        return priors | {name: rf.HalfNormal(1) for name in scales}


SLOPES = Simulation("y ~ x + (1 + x | g)", ("1|g_sigma", "x|g_sigma"), (25, 8))
CROSSED = Simulation("y ~ x + (1 | g) + (1 | h)", ("1|g_sigma", "1|h_sigma"), (12, 15))
ANSWERS = Simulation("y ~ x + (1 | g)", ("1|g_sigma",), (20, 10), "bernoulli", "laplace")
COUNTS = Simulation("y ~ x + (1 | g)", ("1|g_sigma",), (20, 10), "poisson", "laplace", 0.5)
MODELS = {
    "random slopes, 25 groups of 8": SLOPES,
    "crossed, 12 by 15": CROSSED,
    "Bernoulli, 20 groups of 10": ANSWERS,
    "Poisson, 20 groups of 10": COUNTS,
}


def simulated(model: Simulation, rng: np.random.Generator) -> tuple[dict, dict[str, float]]:
    """A table and the parameters behind it, drawn from their priors."""
    first, second = model.sizes
    g = np.repeat(np.arange(first), second)
    h = np.tile(np.arange(second), first)
    x = rng.normal(size=len(g))
    truth = {"Intercept": rng.normal(), "x": model.slope * rng.normal()}
    if model.family == "gaussian":
        truth["sigma"] = abs(rng.normal())
    scales = np.abs(rng.normal(size=len(model.scales)))
    truth |= dict(zip(model.scales, scales, strict=True))
    eta = truth["Intercept"] + truth["x"] * x
    if model is SLOPES:
        # LKJ(1) of two columns is uniform.
        truth["g_corr"] = rng.uniform(-1, 1)
        corr = np.array([[1, truth["g_corr"]], [truth["g_corr"], 1]])
        b = scales * (rng.normal(size=(first, 2)) @ np.linalg.cholesky(corr).T)
        truth |= {"1|g": b[0, 0], "x|g": b[0, 1]}
        eta = eta + b[g, 0] + b[g, 1] * x
    else:
        b = scales[0] * rng.normal(size=first)
        truth["1|g"] = b[0]
        eta = eta + b[g]
    if model is CROSSED:
        c = scales[1] * rng.normal(size=second)
        truth["1|h"] = c[0]
        eta = eta + c[h]
    if model.family == "bernoulli":
        y = (rng.random(len(g)) < 1 / (1 + np.exp(-eta))).astype(float)
    elif model.family == "poisson":
        y = rng.poisson(np.exp(eta)).astype(float)
    else:
        y = eta + truth["sigma"] * rng.normal(size=len(g))
    names = {"g": np.array([f"g{i:02}" for i in g]), "h": np.array([f"h{i:02}" for i in h])}
    return {"y": y, "x": x, **names}, truth


def ranks(name: str, seed: int) -> dict[str, int]:
    """Of each true value among the thinned draws."""
    rng = np.random.default_rng(seed)
    kind = MODELS[name]
    table, truth = simulated(kind, rng)
    model = rf.Model(kind.formula, family=kind.family, priors=kind.priors)
    fit = model.fit(table, method=kind.method, seed=seed, draws=DRAWS, progress=False)
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
    parser.add_argument("--methods", nargs="+", default=["exact", "laplace"])
    options = parser.parse_args()
    n = options.simulations
    limit = band(n)
    print(f"{machine.describe('ranef')}. {n:,} simulations; ECDF band {limit:.4f}.\n")
    print("| model | parameter | chi-square p | ECDF distance | 90% interval covers |")
    print("|---|---|---|---|---|")
    by_bin, by_band, count = 0, 0, 0
    began = time.perf_counter()
    for name in (name for name, kind in MODELS.items() if kind.method in options.methods):
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
            print(f"| {name} | {label} | {p:.3f} | {apart:.4f} | {inside:.3f} |", flush=True)
    low, high = stats.binom.interval(0.95, count, 0.05)
    print(
        f"\n{count} parameters; failing at .05: {by_bin} by chi-square, {by_band} by ECDF; "
        f"expected {low:.0f} to {high:.0f}. {time.perf_counter() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
