"""
A network beside groups: prices of flats
========================================

The price of a flat depends on its area and its year of building in a way that no line has, and on
its street. A small Keras network takes the first, ``(1 | street)`` the second: streets with few
sales are shrunk, and the network does not have to learn them by heart.

The table is generated: old and new flats are dear, those of the sixties cheap.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(6)
n, streets = 700, 50
table = pd.DataFrame(
    {
        "area": rng.gamma(9, 8, n),
        "year": rng.integers(1890, 2020, n),
        "street": rng.integers(0, streets, n),
    }
)
effect = rng.normal(0, 0.15, streets)
table["log_price"] = (
    8
    + 0.9 * np.log(table["area"])
    + 0.4 * np.cos(2 * np.pi * (table["year"] - 1900) / 130)
    + effect[table["street"]]
    + rng.normal(0, 0.15, n)
)
train, test = table[:500], table[500:]

formulas = {
    "line": "log_price ~ area + year + (1 | street)",
    "network": "log_price ~ nn(area, year, hidden=[16]) + (1 | street)",
}
fits = {name: rf.Model(text).fit(train, progress=False) for name, text in formulas.items()}
print(rf.compare(fits, data=test).round(2))
print(fits["network"].summary())

# %%
# The network is a point estimate here: intervals hold the uncertainty about streets and noise,
# and ``weights="last"`` or ``"full"`` adds that about the network.

grid = pd.DataFrame({"area": 70.0, "year": np.arange(1890, 2020, 2)})
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.plot(train["year"], train["log_price"] - 0.9 * np.log(train["area"] / 70), ".", color="0.85")
for name, colour in [("line", "C1"), ("network", "C0")]:
    axes.plot(grid["year"], fits[name].predict(grid, groups=None)["mean"], color=colour, label=name)
true = 8 + 0.9 * np.log(70) + 0.4 * np.cos(2 * np.pi * (grid["year"] - 1900) / 130)
axes.plot(grid["year"], true, "k--", linewidth=0.8, label="truth")
axes.set(xlabel="year of building", ylabel="log price of 70 square metres")
axes.legend(frameon=False)

# %%
# The effects of streets, estimated beside the network, and those behind the table.

found = fits["network"].ranef("street")
print(f"correlation {np.corrcoef(found['mean'], effect[found.index])[0, 1]:.2f}")
