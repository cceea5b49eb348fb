"""
Random slopes: nights without sleep
===================================

Eighteen people sleep too little for nine nights, and every day their reaction time is measured.
Everybody slows down, but not at the same rate. A line for each person, and what the lines have in
common, is the model that most people learn mixed models with.

The table is generated, with the design of the study of Belenky and others (2003) and numbers near
to its own.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(4)
people, days = 18, np.arange(10)
line = np.array([251.0, 10.5]) + rng.multivariate_normal([0, 0], [[600, 10], [10, 35]], people)
table = pd.DataFrame(
    {
        "person": np.repeat([f"P{i + 1:02d}" for i in range(people)], len(days)),
        "day": np.tile(days, people),
    }
)
table["ms"] = (line[:, :1] + line[:, 1:] * days + rng.normal(0, 25, (people, 10))).ravel()

# %%
# ``(1 + day | person)`` gives every person an intercept and a slope, which may be correlated.

fit = rf.Model("ms ~ day + (1 + day | person)").fit(table, progress=False)
print(fit.summary())

# %%
# One more day costs some twelve milliseconds on average, and the sd of that between people is
# about eight: for some a day costs twice as much, for others nothing.

figure = rf.plots.group_effects(fit, "person", term="day")

# %%
# Each person's own line by least squares, that of the population, and the line of the model
# between the two.

table["fitted"] = fit.predict(table)["mean"]
table["population"] = fit.predict(table[["day"]], groups=None)["mean"].to_numpy()
figure, panels = plt.subplots(2, 6, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
for axes, (name, rows) in zip(panels.ravel(), table.groupby("person"), strict=False):
    axes.plot(rows["day"], rows["ms"], ".", color="0.4")
    axes.plot(rows["day"], np.polyval(np.polyfit(rows["day"], rows["ms"], 1), rows["day"]), "0.7")
    axes.plot(rows["day"], rows["population"], "--", color="0.2", linewidth=0.8)
    axes.plot(rows["day"], rows["fitted"], color="C0")
    axes.set_title(name, fontsize=9)
figure.supxlabel("days without enough sleep")
figure.supylabel("reaction time, ms")
