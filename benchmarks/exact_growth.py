"""How the time of the exact method grows with rows and with groups.

    python benchmarks/exact_growth.py [--picture exact_growth.svg] [--most-rows 1e7]

``y ~ x + (1 | g)`` from a table in memory with text groups, the median of two calls after a
first one, in a process for each size; memory is the peak of the process, the table included.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import machine
import matplotlib.pyplot as plt

TIMED = """
import json, resource, statistics, sys, time
import exact_peers, ranef as rf
rows, levels = json.loads(sys.argv[1])
table = exact_peers.generated(rows, levels, "y ~ x + (1 | g)")
model = rf.Model("y ~ x + (1 | g)")
seconds = []
for _ in range(3):
    began = time.perf_counter()
    fit = model.fit(table, method="exact", progress=False)
    fit.draws.known_moments
    seconds.append(time.perf_counter() - began)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps([statistics.median(seconds[1:]), memory]))
"""


def timed(rows: int, levels: int) -> tuple[float, float]:
    """Seconds and GiB."""
    command = [sys.executable, "-c", TIMED, json.dumps([rows, levels])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, memory = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=Path(__file__).with_suffix(".svg"))
    parser.add_argument("--most-rows", type=float, default=1e7)
    options = parser.parse_args()
    rows = [n for n in (10_000, 100_000, 1_000_000, 10_000_000) if n <= options.most_rows]
    groups = [100, 1_000, 10_000, 100_000, 1_000_000]
    series = {
        "rows, with 1,000 groups": [(n, n, 1_000) for n in rows],
        "groups, with 1,000,000 rows": [(j, 1_000_000, j) for j in groups],
    }
    print(f"{machine.describe('ranef')}\n")
    print("| rows | groups | seconds | peak, GiB |\n|---|---|---|---|")
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for axis, (name, sizes) in zip(axes, series.items(), strict=True):
        seconds = []
        for _, n, levels in sizes:
            found, memory = timed(n, levels)
            seconds.append(found)
            print(f"| {n:,} | {levels:,} | {found:.3f} | {memory:.2f} |", flush=True)
        axis.loglog([size for size, *_ in sizes], seconds, "o-", color="C0")
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds")
    figure.savefig(options.picture)


if __name__ == "__main__":
    main()
