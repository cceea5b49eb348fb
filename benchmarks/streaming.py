"""The exact method on Parquet that is never held in memory: seconds and peak memory.

    python benchmarks/streaming.py FOLDER [--rows N] [--groups J]

Writes y = 1 + x / 2 + b[g] + noise, g texts in random order, to FOLDER, then fits
y ~ x + (1 | g) in a process of its own, from the path to draws of the hyperparameters and the
means and sds of all coefficients.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_CHUNK = 1_000_000


def write(path: Path, rows: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 0.5, groups)
    writer = None
    for start in range(0, rows, _CHUNK):
        n = min(_CHUNK, rows - start)
        g, x = rng.integers(0, groups, n), rng.normal(size=n)
        y = 1 + 0.5 * x + effects[g] + rng.normal(size=n)
        table = pa.table({"y": y, "x": x, "g": pa.array(np.char.add("g", g.astype(str)))})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def fit(path: Path) -> None:
    import ranef as rf

    start = resource.getrusage(resource.RUSAGE_SELF)
    began, before = time.perf_counter(), start.ru_utime + start.ru_stime
    found = rf.Model("y ~ x + (1 | g)").fit(path, method="exact", progress=False)
    found.draws.known_moments  # noqa: B018 means and sds of all coefficients
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    peak, used = usage.ru_maxrss / 2**20, usage.ru_utime + usage.ru_stime - before
    levels = len(found.variables["1|g"].coords[0])
    scales = found.varcorr()
    print(
        f"| {found.rows.used:,} | {levels:,} | {seconds:.1f} | {used:.1f} | {peak:.2f} | "
        f"{scales.loc['1|g_sigma', 'mean']:.4f} ({scales.loc['1|g_sigma', 'sd']:.4f}) | "
        f"{scales.loc['sigma', 'mean']:.4f} ({scales.loc['sigma', 'sd']:.4f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--groups", type=int, default=1_000_000)
    parser.add_argument("--fit", action="store_true", help="only fit what is there")
    options = parser.parse_args()
    path = options.folder / f"{options.rows}_{options.groups}.parquet"
    if options.fit:
        fit(path)
        return
    write(path, options.rows, options.groups)
    print(machine.describe("ranef", "numpy", "scipy", "pyarrow"))
    print(f"{path.stat().st_size / 1e6:,.0f} MB of Parquet\n")
    print(
        "| rows | groups | seconds | processor seconds | peak GiB | 1\\|g_sigma (.5) | sigma (1) |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    same = ("--rows", str(options.rows), "--groups", str(options.groups), "--fit")
    subprocess.run([sys.executable, __file__, str(options.folder), *same], check=True)


if __name__ == "__main__":
    main()
