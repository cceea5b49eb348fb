"""
Missing values of a predictor: rents without areas
==================================================

Advertisements of dear flats tend not to say how large the flat is. Dropping them drops the dear
flats, and the slope comes out wrong. ``mi(size)`` keeps them: the size is a parameter with a
model of its own, which rooms and the rent inform.

The table is generated, so that the slope is known to be 1.5.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(1)
n = 300
table = pd.DataFrame({"rooms": rng.normal(size=n)})
size = 0.5 + 0.8 * table["rooms"] + rng.normal(size=n)
table["rent"] = 1 + 1.5 * size - 0.5 * table["rooms"] + rng.normal(size=n)
hidden = rng.random(n) < 1 / (1 + np.exp(2 - 1.5 * table["rent"]))
table["size"] = np.where(hidden, np.nan, size)

dropped = rf.Model("rent ~ size + rooms").fit(table, progress=False)
kept = rf.Model("rent ~ mi(size) + rooms; mi(size) ~ rooms").fit(table, progress=False)
print(dropped.rows)
print(kept.rows)

# %%
# The slope of size, and that of rooms:

print(dropped.fixef().round(2))
print(kept.fixef().round(2))

# %%
# ``fit.imputed`` has a row for each gap. Here the truth is known, and 90% intervals should hold
# 90% of it.

filled = kept.imputed("size")
inside = (filled["lower"] < size[hidden]) & (size[hidden] < filled["upper"])
print(f"{inside.mean():.0%} of {len(filled)} true sizes lie in their 90% intervals")

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
half = [filled["mean"] - filled["lower"], filled["upper"] - filled["mean"]]
axes.errorbar(size[hidden], filled["mean"], half, fmt=".", color="C0", alpha=0.4, linewidth=0.8)
axes.plot([-2, 4], [-2, 4], color="0.3", linewidth=0.8)
axes.set(xlabel="true size", ylabel="imputed size")
