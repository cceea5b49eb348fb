"""
A predictor for the noise: stopping distances
=============================================

Fifty cars of the 1920s, their speed in miles an hour and the feet that they took to stop. Faster
cars take longer, and they also differ more from each other. A second part of the formula, ``sigma
~ speed``, gives the sd a predictor of its own.

The table is real: Ezekiel (1930), *Methods of Correlation Analysis*.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

feet = {
    4: [2, 10],
    7: [4, 22],
    8: [16],
    9: [10],
    10: [18, 26, 34],
    11: [17, 28],
    12: [14, 20, 24, 28],
    13: [26, 34, 34, 46],
    14: [26, 36, 60, 80],
    15: [20, 26, 54],
    16: [32, 40],
    17: [32, 40, 50],
    18: [42, 56, 76, 84],
    19: [36, 46, 68],
    20: [32, 48, 52, 56, 64],
    22: [66],
    23: [54],
    24: [70, 92, 93, 120],
    25: [85],
}
rows = [(speed, d) for speed, each in feet.items() for d in each]
table = pd.DataFrame(rows, columns=["speed", "feet"])

formulas = {"one sd": "feet ~ speed", "sd by speed": "feet ~ speed; sigma ~ speed"}
fits = {name: rf.Model(text).fit(table, progress=False) for name, text in formulas.items()}
print(fits["sd by speed"].summary())

# %%
# ``sigma_speed`` is on the scale of the logarithm: a mile an hour more multiplies the sd by its
# exponential.

growth = np.exp(fits["sd by speed"].posterior["sigma_speed"].to_numpy())
print(f"a mile an hour more: sd times {growth.mean():.2f}")
print(rf.compare(fits).round(2))

# %%
# With one sd, the interval of a slow car reaches below zero feet.

grid = pd.DataFrame({"speed": np.arange(4, 26)})
figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
for axes, (name, fit) in zip(panels, fits.items(), strict=True):
    found = fit.predict(grid, kind="response")
    axes.fill_between(grid["speed"], found["lower"], found["upper"], color="C0", alpha=0.25)
    axes.plot(grid["speed"], found["mean"], color="C0")
    axes.plot(table["speed"], table["feet"], ".", color="0.2")
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set(xlabel="miles an hour", title=name)
panels[0].set_ylabel("feet, 90% of single cars")
