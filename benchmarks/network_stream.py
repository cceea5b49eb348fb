"""A network beside groups on Parquet that is never held: rows a second, memory, share of reading.

    python benchmarks/network_stream.py FOLDER [--rows N] [--groups J]

Writes y = sin(2 x) z + .3 u + b[g] + noise, g texts in random order, to FOLDER in row groups of
250,000 rows, then fits y ~ nn(x, z, u) + (1 | g) in a process of its own. Rows a second counts the
rows that are trained on, of all passes; reading is the time that the search and the passes before
and after it wait for Parquet.
"""

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_CHUNK, _ROW_GROUP = 1_000_000, 250_000
FORMULA = "y ~ nn(x, z, u, hidden=[64, 32], activation='silu', l2=0) + (1 | g)"


def write(path: Path, rows: int, groups: int) -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 0.5, groups)
    writer = None
    for start in range(0, rows, _CHUNK):
        n = min(_CHUNK, rows - start)
        g, (x, z, u) = rng.integers(0, groups, n), rng.uniform(-2, 2, (3, n))
        y = np.sin(2 * x) * z + 0.3 * u + effects[g] + rng.normal(size=n)
        levels = pa.array(np.char.add("g", g.astype(str)))
        table = pa.table({"y": y, "x": x, "z": z, "u": u, "g": levels})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=_ROW_GROUP)
    if writer is not None:
        writer.close()


def fit(path: Path) -> None:
    import ranef as rf
    from ranef.data import parquet
    from ranef.inference.block_ascent import minibatches

    waited = [0.0]

    def timed(call):  # noqa: ANN001, ANN202 of any signature
        def wrapped(*args, **kwargs):  # noqa: ANN002, ANN003, ANN202
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                waited[0] += time.perf_counter() - began

        return wrapped

    iterate = parquet.Batches.__iter__

    def batches(self):  # noqa: ANN001, ANN202
        inner = iterate(self)
        following = timed(lambda: next(inner, None))
        while (frame := following()) is not None:
            yield frame

    streamed = minibatches._streamed

    def waiting(problem, seed):  # noqa: ANN001, ANN202
        found = streamed(problem, seed)
        return replace(found, at=timed(found.at))

    parquet.Batches.__iter__, minibatches._streamed = batches, waiting
    began = time.perf_counter()
    found = rf.Model(FORMULA).fit(path, method="svi", progress=False)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    batch = int(found.message.split(" rows")[0].split(" of ")[1].replace(",", ""))
    trained = found.steps * batch
    known = found.summary()["mean"]
    print(
        f"| {found.rows.used:,} | {len(found.variables['1|g'].coords[0]):,} | {seconds:.0f} | "
        f"{trained / seconds:,.0f} | {found.rows.used / seconds:,.0f} | {peak:.2f} | "
        f"{waited[0] / seconds:.0%} | {known['sigma']:.3f} | {known['1|g_sigma']:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = given.folder / f"network_{given.rows}_{given.groups}.parquet"
    if given.fit:
        fit(path)
        return
    if not path.exists():
        write(path, given.rows, given.groups)
    print(machine.describe("ranef", "jax", "keras", "pyarrow"))
    names = ("rows", "groups", "seconds", "rows trained on a second", "rows of the table a second",
             "peak, GiB", "reading", "sigma (1)", "group sd (.5)")  # fmt: skip
    print(f"\n| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)
    again = [sys.executable, __file__, str(given.folder), "--rows", str(given.rows)]
    subprocess.run([*again, "--groups", str(given.groups), "--fit"], check=True)


if __name__ == "__main__":
    main()
