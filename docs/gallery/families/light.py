"""
Outliers: the speed of light
============================

In 1882 Simon Newcomb measured 66 times how long light takes to the foot of the Washington
Monument and back. Two of the measurements are far off. With normal noise they pull the mean and
widen its interval; the family ``student`` estimates how heavy the tails are.

The table is real: Newcomb's third series, as in Stigler (1977), *Do robust estimators work with
real data?* The numbers are billionths of a second above 24,800; today's value is 33.
"""

import matplotlib.pyplot as plt
import numpy as np

import ranef as rf

times = (
    "28 26 33 24 34 -44 27 16 40 -2 29 22 24 21 25 30 23 29 31 19 24 20 36 32 36 28 25 21 28 29 "
    "37 25 28 26 30 32 36 26 30 22 36 23 27 27 28 27 31 27 26 33 26 32 32 24 39 28 24 25 32 25 "
    "29 27 28 29 16 23"
)
table = {"time": np.array(times.split(), dtype=float)}
fits = {
    family: rf.Model("time ~ 1", family=family).fit(table, progress=False)
    for family in ("gaussian", "student")
}
for family, fit in fits.items():
    print(family, fit.summary()[["mean", "sd", "lower", "upper"]], sep="\n")

# %%
# ``nu``, the degrees of freedom, is small: the tails are heavy. The interval of the mean is
# narrower, and higher by more than a nanosecond.

print(rf.compare(fits).round(2))

# %%
# Would the model have made such a smallest value as -44? A thousand series that each model has
# drawn:

figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
for axes, (family, fit) in zip(panels, fits.items(), strict=True):
    tree = fit.extend("posterior_predictive")
    smallest = tree["posterior_predictive"]["time"].to_numpy().reshape(-1, 66).min(axis=1)
    axes.hist(np.clip(smallest, -100, None), np.arange(-100, 30, 4), color="C0")
    axes.axvline(-44, color="C3")
    axes.set(title=family, xlabel="smallest of 66; those below -100 at -100")

# %%
# The truth is outside of both intervals. No model of these rows can know that the apparatus had a
# bias, and that is why a verdict of "trust" is about the computation and not about the
# experiment.
