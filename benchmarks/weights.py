"""How certain a network is of itself: weights as points, a Bayesian last layer, all weights.

    python benchmarks/weights.py [--tables 20] [--picture weights.svg]

Tables of 300 rows of y = sin(3 x) + x / 2 + noise, x in two stretches with a gap between them.
Of f at a grid of x, inside the data, in the gap and outside, the share that lies within the 90%
intervals of the mean, and how wide they are on average; and of new responses inside the data.
"""

import argparse
import time

import machine
import numpy as np

import ranef as rf

TREATMENTS = ("point", "last", "full")
FORMULA = "y ~ nn(x, hidden=[32, 32], weights='{}')"
NOISE = 0.15
PLACES = {
    "inside": np.r_[np.linspace(-1.95, -0.65, 40), np.linspace(0.65, 1.95, 40)],
    "gap": np.linspace(-0.5, 0.5, 40),
    "outside": np.r_[np.linspace(-3.5, -2.2, 40), np.linspace(2.2, 3.5, 40)],
}


def f(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * x) + 0.5 * x


def table(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-2, -0.6, 150), rng.uniform(0.6, 2, 150)])
    return {"x": x, "y": f(x) + rng.normal(0, NOISE, len(x))}


def judged(treatment: str, seed: int) -> dict[str, float]:
    began = time.perf_counter()
    fit = rf.Model(FORMULA.format(treatment)).fit(table(seed), seed=seed, progress=False)
    out = {"seconds": time.perf_counter() - began}
    for place, x in PLACES.items():
        found = fit.predict({"x": x})
        out[f"{place}, covered"] = float(
            ((f(x) >= found["lower"]) & (f(x) <= found["upper"])).mean()
        )
        out[f"{place}, width"] = float((found["upper"] - found["lower"]).mean())
    x = PLACES["inside"]
    y = f(x) + np.random.default_rng(seed + 1_000).normal(0, NOISE, len(x))
    found = fit.predict({"x": x}, kind="response")
    out["responses, covered"] = float(((y >= found["lower"]) & (y <= found["upper"])).mean())
    return out


def picture(path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    rows, x = table(0), np.linspace(-3.5, 3.5, 281)
    for axis, treatment in zip(axes, TREATMENTS, strict=True):
        fit = rf.Model(FORMULA.format(treatment)).fit(rows, seed=0, progress=False)
        found = fit.predict({"x": x})
        axis.fill_between(x, found["lower"], found["upper"], color="#4477aa", alpha=0.25,
                          label="90% interval of the mean")  # fmt: skip
        axis.plot(x, found["mean"], color="#4477aa", label="posterior mean")
        axis.plot(x, f(x), "--", color="#333333", linewidth=1, label="truth")
        axis.plot(rows["x"], rows["y"], ".", color="#333333", markersize=2, alpha=0.5)
        axis.set(title=f"weights='{treatment}'", xlabel="x", ylim=(-5, 5))
    axes[0].set_ylabel("y")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=20)
    parser.add_argument("--picture")
    given = parser.parse_args()
    print(machine.describe("ranef", "jax", "keras"))
    if given.picture:
        picture(given.picture)
    header: list[str] = []
    for treatment in TREATMENTS:
        each = [judged(treatment, seed) for seed in range(given.tables)]
        if not header:
            header = list(each[0])
            print(f"\n| weights | {' | '.join(header)} |\n|{'---|' * (1 + len(header))}")
        means = (np.mean([one[name] for one in each]) for name in header)
        print(f"| {treatment} | {' | '.join(f'{m:.2f}' for m in means)} |", flush=True)


if __name__ == "__main__":
    main()
