"""
A surface: rain over a region
=============================

A hundred and fifty gauges measure the rain of a month. How much fell between them? ``gp(east,
north)`` is a smooth surface over two columns, with a length scale for each.

The table is generated, so that the surface behind it is known.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(5)


def truth(east, north):
    """Millimetres of rain: a ridge in the west, dry in the south-east."""
    return 60 + 25 * np.exp(-(((east - 3) / 1.5) ** 2)) + 2.5 * north - 1.5 * east


gauges = pd.DataFrame({"east": rng.uniform(0, 10, 150), "north": rng.uniform(0, 6, 150)})
gauges["rain"] = truth(gauges["east"], gauges["north"]) + rng.normal(0, 4, 150)

fit = rf.Model("rain ~ gp(east, north)").fit(gauges, progress=False)
print(fit.summary())

# %%
# The mean over a grid, its sd, and the truth. The sd is smallest where gauges are near.

east, north = np.meshgrid(np.linspace(0, 10, 41), np.linspace(0, 6, 25))
found = fit.predict(pd.DataFrame({"east": east.ravel(), "north": north.ravel()}))
maps = {
    "mean": found["mean"].to_numpy().reshape(east.shape),
    "truth": truth(east, north),
    "sd": found["sd"].to_numpy().reshape(east.shape),
}
figure, panels = plt.subplots(1, 3, figsize=(9.5, 2.6), sharey=True, layout="constrained")
for axes, (name, values) in zip(panels, maps.items(), strict=True):
    shared = {} if name == "sd" else {"vmin": 45, "vmax": 95}
    drawn = axes.pcolormesh(east, north, values, cmap="viridis", **shared)
    axes.plot(gauges["east"], gauges["north"], ".", color="white", markersize=2)
    axes.set(title=f"{name}, mm", xlabel="east, km")
    figure.colorbar(drawn, ax=axes)
panels[0].set_ylabel("north, km")

error = maps["mean"] - maps["truth"]
print(f"root mean squared error {np.sqrt(np.mean(error**2)):.1f} mm; the noise of a gauge is 4")
