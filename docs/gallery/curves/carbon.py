"""
A spline: carbon dioxide on Mauna Loa
=====================================

The yearly mean of carbon dioxide in the air of Mauna Loa, in parts per million. It rises, and it
rises faster than a straight line. ``s(year)`` is the line and a smooth deviation from it, whose
size is estimated with all else.

The table is real: yearly means of the measurements that C. D. Keeling began in 1958.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

ppm = (
    "315.83 316.75 317.48 318.30 318.83 319.46 319.87 321.21 322.02 322.89 324.46 325.52 326.15 "
    "327.29 329.51 330.08 330.99 331.99 333.73 335.34 336.68 338.52 339.76 340.96 342.61 344.25 "
    "345.73 346.98 348.75 351.31 352.75 354.04 355.48 356.29 357.00 358.88 360.91 362.69 363.82"
)
table = pd.DataFrame({"year": np.arange(1959, 1998), "ppm": np.array(ppm.split(), dtype=float)})

formulas = {"line": "ppm ~ year", "parabola": "ppm ~ poly(year, 2)", "spline": "ppm ~ s(year)"}
fits = {name: rf.Model(text).fit(table, progress=False) for name, text in formulas.items()}
print(fits["spline"].summary())
print(rf.compare(fits).round(2))

# %%
# What is left of the line, and the parabola and the spline against it. In 1992 the air cooled
# behind the dust of Pinatubo, and the rise paused: the spline has that, the parabola cannot.

below = fits["line"].predict(table)["mean"]
figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
for name, colour in [("parabola", "C1"), ("spline", "C0")]:
    found = fits[name].predict(table)
    axes.fill_between(
        table["year"], found["lower"] - below, found["upper"] - below, color=colour, alpha=0.25
    )
    axes.plot(table["year"], found["mean"] - below, color=colour, label=name)
axes.plot(table["year"], table["ppm"] - below, ".", color="0.2")
axes.axhline(0, color="0.4", linewidth=0.8)
axes.set(xlabel="year", ylabel="ppm above the line")
axes.legend(frameon=False)

# %%
# Beyond the last year a spline goes on as a straight line, and its interval says nothing about
# what else may happen.

print(fits["spline"].predict(pd.DataFrame({"year": [1997, 2000, 2005]})).round(1))
