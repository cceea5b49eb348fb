"""Predictions for a million rows of a million groups.

    python benchmarks/predict_million.py [--rows 1e6] [--groups 1e6] [--draws 1000]

``y ~ x + (1 | g)`` by the exact method from a table in memory with text groups. "mean" and
"response" are calls of `predict` for all rows of the table, each with sd and interval from all
draws; the last has rows of which a tenth are of groups that training did not see.
"""

import argparse
import resource
import time

import exact_peers
import machine
import numpy as np

import ranef as rf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=float, default=1e6)
    parser.add_argument("--groups", type=float, default=1e6)
    parser.add_argument("--draws", type=int, default=1_000)
    options = parser.parse_args()
    rows, groups = int(options.rows), int(options.groups)
    table = exact_peers.generated(rows, groups, "y ~ x + (1 | g)")
    new = np.where(np.arange(rows) % 10 == 0, "new", "").astype("U3")
    unseen = table.assign(g=np.char.add(new, table["g"].to_numpy(str)))
    began = time.perf_counter()
    fit = rf.Model("y ~ x + (1 | g)").fit(table, draws=options.draws, progress=False)
    seconds = [time.perf_counter() - began]
    calls = (
        (table, {}),
        (table, {"kind": "response"}),
        (unseen, {"kind": "response", "new_levels": "sample"}),
    )
    for data, asked in calls:
        began = time.perf_counter()
        found = fit.predict(data, **asked)
        seconds.append(time.perf_counter() - began)
        if not np.isfinite(found).all(axis=None):
            raise SystemExit(f"predictions that are not finite: {asked}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{machine.describe('ranef', 'jax')}\n")
    print("| rows | groups | draws | fit, s | mean, s | response, s | new levels, s | peak, GiB |")
    print("|---|---|---|---|---|---|---|---|")
    each = " | ".join(f"{s:.1f}" for s in seconds)
    print(f"| {rows:,} | {groups:,} | {options.draws:,} | {each} | {peak:.2f} |")


if __name__ == "__main__":
    main()
