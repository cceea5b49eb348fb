"""Average slopes over a million rows, beside a network.

    python benchmarks/effects_million.py [--rows 1e6] [--draws 1000]

``y ~ x + f + nn(z, w, hidden=[32, 16]) + (1 | g)`` is fitted to 20,000 rows. `avg_slopes` then
takes the slope of x, and that of z inside the network, over all rows of another table with 500
groups.
On a machine that others use, CPU time says more.
"""

import argparse
import resource
import time

import machine
import numpy as np
import pandas as pd

import ranef as rf

FITTED = 20_000


def generated(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(rows, 3)), columns=["x", "z", "w"])
    table["f"], table["g"] = rng.choice(list("abc"), rows), rng.integers(0, 500, rows)
    mean = 0.5 * table["x"] + np.sin(table["z"]) * table["w"]
    return table.assign(y=mean + rng.normal(size=rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--draws", type=int, default=1_000)
    options = parser.parse_args()
    model = rf.Model("y ~ x + f + nn(z, w, hidden=[32, 16]) + (1 | g)")
    fit = model.fit(generated(FITTED, 0), draws=options.draws, progress=False)
    table = generated(int(options.rows), 1)
    print(f"{machine.describe('ranef', 'jax')}\n")
    print("| rows | slope of | estimate | true | seconds | CPU seconds | peak, GiB |")
    print("|---|---|---|---|---|---|---|")
    true = {"x": 0.5, "z": float((np.cos(table["z"]) * table["w"]).mean())}
    for name, slope in true.items():
        began, used = time.perf_counter(), time.process_time()
        found = rf.effects.avg_slopes(fit, name, newdata=table)
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"| {len(table):,} | {name} | {found['estimate'][0]:.4f} | {slope:.4f} | "
            f"{seconds:.1f} | {cpu:.1f} | {peak:.2f} |"
        )


if __name__ == "__main__":
    main()
