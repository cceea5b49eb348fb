"""Preparing properties_2016.csv at Kaggle's size: seconds and peak memory.

    python benchmarks/kaggle_size.py FOLDER

Writes 2,985,217 generated parcels and 90,275 sales to FOLDER, then prepares them in a process of
its own.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import machine

from ranef.datasets.zillow import generator, preparation

PARCELS, SALES = 2_985_217, 90_275


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true", help="only prepare what is there")
    options = parser.parse_args()
    properties = options.folder / "properties_2016.csv"
    transactions = options.folder / "train_2016_v2.csv"
    began = time.perf_counter()
    if options.prepare:
        sales = preparation.prepare(properties, transactions)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"prepared in {seconds:.1f} s, peak {peak:.2f} GiB; {sales.n:,} sales left")
        return
    print(machine.describe("ranef", "pyarrow"))
    generator.generate(properties, transactions, SALES, parcels=PARCELS)
    size = properties.stat().st_size / 1e6
    seconds = time.perf_counter() - began
    print(f"{PARCELS:,} parcels, {size:,.0f} MB, generated in {seconds:.1f} s")
    subprocess.run([sys.executable, __file__, str(options.folder), "--prepare"], check=True)


if __name__ == "__main__":
    main()
