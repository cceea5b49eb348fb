"""Coverage of 90% intervals at fixed true values, under the default priors.

    python benchmarks/coverage.py [--simulations 300] [--processes 1] [--models WORD ...]

Simulation-based calibration (sbc.py) draws the truth from the prior, so that an interval may be
right on average and wrong everywhere. Here the truth stays where it is, predictors lie where real
ones do (years, kilograms) and priors are the default ones: how often the 90% interval of each
slope and scale holds the truth. Where the model is right and its prior is weak that is nine times
in ten, within the binomial band of so many simulations. An sd of few groups, whose prior says
something, need not be.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import machine
import numpy as np
from scipy import stats

import ranef as rf

INTERVAL = 0.9
# Probability of the band around it.
BAND = 0.99

Table = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model, its truth, and what draws a table from it.

    Attributes:
        formula, family, method: of the fit.
        derived: what the summary does not have, from the posterior.
        truth: row of the summary to its true value.
        table: draws the predictors.
        predictor: the linear predictor of a table at the truth, group effects drawn.
    """

    formula: str
    truth: dict[str, float]
    table: Callable[[np.random.Generator], Table]
    predictor: Callable[[Table, dict[str, float], np.random.Generator], np.ndarray]
    family: str = "gaussian"
    method: str = "exact"
    derived: dict[str, Callable[[Any], np.ndarray]] = field(default_factory=dict)


def groups(prefix: str, codes: np.ndarray) -> np.ndarray:
    return np.array([f"{prefix}{code:03}" for code in codes])


def plain(n: int, **levels: tuple[int, str]) -> Callable[[np.random.Generator], Table]:
    """A table of n rows: a year, a weight in kg, a factor of three, and balanced groupings.

    Each grouping has a number of levels, and "inner" or "outer": whether its levels change from
    row to row or in runs.
    """

    def make(rng: np.random.Generator) -> Table:
        out = {
            "year": rng.integers(1990, 2021, n).astype(float),
            "kg": rng.normal(70.0, 12.0, n),
            "f": np.array(list("abc"))[rng.integers(0, 3, n)],
            "e": np.exp(rng.normal(1.0, 0.7, n)),
        }
        for name, (count, how) in levels.items():
            rows = np.arange(n)
            codes = rows % count if how == "inner" else rows * count // n
            out[name] = groups(name, codes)
        return out

    return make


def effects(rng: np.random.Generator, levels: np.ndarray, sd: float) -> np.ndarray:
    """An effect of each level, by row."""
    _, codes = np.unique(levels, return_inverse=True)
    return sd * rng.normal(size=codes.max() + 1)[codes]


def in_2005(posterior: Any) -> np.ndarray:
    """Draws of the sd of intercepts in the year 2005, by the exact change of origin."""
    at_zero, slope = (np.ravel(posterior[name]) for name in ("1|g_sigma", "year|g_sigma"))
    r = np.ravel(posterior["g_corr"][..., 0, 1])
    variance = at_zero**2 + 2 * 2005.0 * r * at_zero * slope + (2005.0 * slope) ** 2
    return np.sqrt(np.maximum(variance, 0.0))


MODELS = {
    "linear, a year and kilograms": Model(
        "y ~ year + kg",
        {"Intercept": -40.0, "year": 0.02, "kg": 0.05, "sigma": 1.0},
        plain(100),
        lambda t, v, rng: v["Intercept"] + v["year"] * t["year"] + v["kg"] * t["kg"],
    ),
    "random intercepts": Model(
        "y ~ kg + (1 | g)",
        {"Intercept": 1.0, "kg": 0.05, "1|g_sigma": 0.7, "sigma": 1.0},
        plain(300, g=(30, "inner")),
        lambda t, v, rng: v["Intercept"] + v["kg"] * t["kg"] + effects(rng, t["g"], v["1|g_sigma"]),
    ),
    "random slopes of a year": Model(
        "y ~ year + (year | g)",
        {
            "year": 0.05,
            "year|g_sigma": 0.1,
            "sd of levels in 2005": 1.0,
            "sigma": 1.0,
        },
        plain(600, g=(30, "inner")),
        lambda t, v, rng: (
            10.0
            + v["year"] * (t["year"] - 2005.0)
            + effects(rng, t["g"], v["sd of levels in 2005"])
            + effects(rng, t["g"], v["year|g_sigma"]) * (t["year"] - 2005.0)
        ),
        derived={"sd of levels in 2005": in_2005},
    ),
    "crossed": Model(
        "y ~ kg + (1 | g) + (1 | h)",
        {"kg": 0.05, "1|g_sigma": 0.7, "1|h_sigma": 0.5, "sigma": 1.0},
        plain(400, g=(20, "inner"), h=(20, "outer")),
        lambda t, v, rng: (
            v["kg"] * t["kg"]
            + effects(rng, t["g"], v["1|g_sigma"])
            + effects(rng, t["h"], v["1|h_sigma"])
        ),
    ),
    "nested": Model(
        "y ~ kg + (1 | h/g)",
        {"kg": 0.05, "1|h_sigma": 0.7, "1|h:g_sigma": 0.5, "sigma": 1.0},
        plain(500, h=(20, "outer"), g=(5, "inner")),
        lambda t, v, rng: (
            v["kg"] * t["kg"]
            + effects(rng, t["h"], v["1|h_sigma"])
            + effects(rng, np.char.add(t["h"], t["g"]), v["1|h:g_sigma"])
        ),
    ),
    "a factor without intercept": Model(
        "y ~ 0 + f + (1 | g)",
        {"f[a]": 1000.0, "f[b]": 1001.0, "f[c]": 1002.0, "1|g_sigma": 0.7, "sigma": 1.0},
        plain(300, g=(30, "inner")),
        lambda t, v, rng: (
            sum(v[f"f[{k}]"] * (t["f"] == k) for k in "abc") + effects(rng, t["g"], v["1|g_sigma"])
        ),
    ),
    "Bernoulli, groups": Model(
        "y ~ kg + (1 | g)",
        {"Intercept": -3.0, "kg": 0.04, "1|g_sigma": 0.8},
        plain(600, g=(40, "inner")),
        lambda t, v, rng: v["Intercept"] + v["kg"] * t["kg"] + effects(rng, t["g"], v["1|g_sigma"]),
        "bernoulli",
        "laplace",
    ),
    "Poisson, offset and groups": Model(
        "y ~ kg + offset(log(e)) + (1 | g)",
        {"Intercept": -2.0, "kg": 0.02, "1|g_sigma": 0.5},
        plain(300, g=(30, "inner")),
        lambda t, v, rng: (
            v["Intercept"]
            + v["kg"] * t["kg"]
            + np.log(t["e"])
            + effects(rng, t["g"], v["1|g_sigma"])
        ),
        "poisson",
        "laplace",
    ),
    "ordinal, groups": Model(
        "y ~ kg + (1 | g)",
        {"kg": 0.04, "1|g_sigma": 0.8, "threshold[1]": 1.8, "threshold[2]": 3.8},
        plain(400, g=(30, "inner")),
        lambda t, v, rng: v["kg"] * t["kg"] + effects(rng, t["g"], v["1|g_sigma"]),
        "ordinal",
        "laplace",
    ),
    "quadratic of a year": Model(
        "y ~ year + I(year**2) + (1 | g)",
        {"year": 0.02 - 2 * 2005.0 * 0.01, "I(year**2)": 0.01, "1|g_sigma": 0.7, "sigma": 1.0},
        plain(300, g=(30, "inner")),
        lambda t, v, rng: (
            10.0
            + 0.02 * (t["year"] - 2005.0)
            + v["I(year**2)"] * (t["year"] - 2005.0) ** 2
            + effects(rng, t["g"], v["1|g_sigma"])
        ),
    ),
}


def simulated(model: Model, rng: np.random.Generator) -> Table:
    """A table of the model, with its response."""
    table = model.table(rng)
    eta = model.predictor(table, model.truth, rng)
    match model.family:
        case "bernoulli":
            y = (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)
        case "poisson":
            y = rng.poisson(np.exp(eta)).astype(float)
        case "ordinal":
            cuts = [value for name, value in model.truth.items() if name.startswith("threshold")]
            y = np.digitize(eta + rng.logistic(size=len(eta)), cuts) + 1
        case _:
            y = eta + model.truth["sigma"] * rng.normal(size=len(eta))
    return {**table, "y": y}


def covered(name: str, seed: int) -> tuple[dict[str, tuple[bool, bool]], float, str]:
    """Of each truth, whether it is below and above the interval; seconds; the verdict."""
    model = MODELS[name]
    table = simulated(model, np.random.default_rng(seed))
    began = time.perf_counter()
    fit = rf.Model(model.formula, family=model.family).fit(
        table, method=model.method, seed=seed, progress=False
    )
    seconds = time.perf_counter() - began
    rows = fit.summary(interval=INTERVAL)
    out = {}
    for label, value in model.truth.items():
        if label in model.derived:
            tails = [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]
            lower, upper = np.quantile(model.derived[label](fit.posterior), tails)
        else:
            lower, upper = rows.loc[label, "lower"], rows.loc[label, "upper"]
        out[label] = (bool(value < lower), bool(value > upper))
    return out, seconds, fit.check(quick=True).verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=[""], help="words in their names")
    options = parser.parse_args()
    n = options.simulations
    low, high = stats.binom.interval(BAND, n, INTERVAL)
    print(f"{machine.describe('ranef')}. {n:,} simulations; {INTERVAL:.0%} intervals,", end=" ")
    print(f"which cover {low / n:.3f} to {high / n:.3f} of them in {BAND:.0%} of such runs.\n")
    print("| model | parameter | truth | covers | truth below | truth above | |")
    print("|---|---|---|---|---|---|---|")
    began, outside, count, notes = time.perf_counter(), 0, 0, []
    for name in (name for name in MODELS if any(word in name for word in options.models)):
        if options.processes > 1:
            with ProcessPoolExecutor(options.processes) as pool:
                found = list(pool.map(partial(covered, name), range(n), chunksize=10))
        else:
            found = [covered(name, seed) for seed in range(n)]
        for label, truth in MODELS[name].truth.items():
            below, above = np.array([each[label] for each, _, _ in found]).sum(axis=0)
            inside = n - below - above
            far = not low <= inside <= high
            outside, count = outside + far, count + 1
            shown = label.replace("|", "\\|")
            print(
                f"| {name} | {shown} | {truth:.4g} | {inside / n:.3f} | {below / n:.3f} | "
                f"{above / n:.3f} | {'outside' if far else ''} |",
                flush=True,
            )
        verdicts = [verdict for _, _, verdict in found]
        words = ", ".join(f"{word} {verdicts.count(word)}" for word in dict.fromkeys(verdicts))
        seconds = np.median([second for _, second, _ in found])
        notes.append(f"| {name} | {seconds:.2f} | {words} |")
    print("\n| model | seconds, median | verdicts |\n|---|---|---|")
    print("\n".join(notes))
    print(
        f"\n{count} parameters, {outside} outside the band; {count * (1 - BAND):.1f} would be by "
        f"chance. {time.perf_counter() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
