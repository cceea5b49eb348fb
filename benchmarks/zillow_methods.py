"""The post's linear models with student errors on the real sales, by svi and by nuts.

    python benchmarks/zillow_methods.py FOLDER [--draws 2000]

FOLDER holds Kaggle's properties_2016.csv and train_2016_v2.csv. Shifts are differences of
posterior means in sds of NUTS, four chains; those of zip effects are the worst of all zips.
"""

import argparse
from pathlib import Path

import machine
import numpy as np

import ranef as rf
from ranef.datasets.zillow import preparation, study

MODELS = ("linear", "random_intercepts")


def zips(fit: rf.Fit) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of each zip's effect."""
    draws = fit.posterior["1|zip"].to_numpy().reshape(-1, fit.posterior.sizes["zip__factor_dim"])
    return draws.mean(axis=0), draws.std(axis=0)


def compared(name: str, sales: preparation.Sales, draws: int) -> None:
    """Print the rows of one model."""
    model = rf.Model(study.FORMULAS[name], "student")
    rows = sales.part(True)
    svi = model.fit(rows, method="svi", draws=draws, progress=False)
    nuts = model.fit(rows, method="nuts", draws=draws, progress=False)
    found, truth = svi.summary(), nuts.summary()
    for parameter, row in truth.iterrows():
        mean, sd = found.loc[parameter, "mean"], found.loc[parameter, "sd"]
        shift = (mean - row["mean"]) / row["sd"]
        print(
            f"| {name} | {parameter} | {row['mean']:.5f} ({row['sd']:.5f}) | {mean:.5f} ({sd:.5f}) "
            f"| {shift:+.3f} | {sd / row['sd']:.3f} |"
        )
    if "1|zip" in svi.posterior:
        (mean, sd), (own, spread) = zips(svi), zips(nuts)
        shift, ratio = np.abs(mean - own) / spread, sd / spread
        print(
            f"| {name} | {len(own)} zip effects | | | {shift.max():.3f} at most, "
            f"{shift.mean():.3f} on average | {ratio.min():.3f} to {ratio.max():.3f} |"
        )
    words = svi.check(quick=True).verdict, nuts.check(quick=True).verdict
    print(
        f"| {name} | seconds; verdict | {nuts.seconds:.1f}; {words[1]} "
        f"| {svi.seconds:.1f}; {words[0]} | | |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=2_000)
    given = parser.parse_args()
    sales = preparation.prepare(
        given.folder / "properties_2016.csv", given.folder / "train_2016_v2.csv"
    )
    print(machine.describe("ranef", "jax", "numpyro"))
    print(f"\n{len(sales.part(True)['zip']):,} sales\n")
    print("| model | parameter | nuts: mean (sd) | svi | shift | ratio of sds |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        compared(name, sales, given.draws)


if __name__ == "__main__":
    main()
