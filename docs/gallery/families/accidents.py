"""
Counts that vary too much: accidents at work
============================================

In five weeks of the First World War, 447 of 647 women who made shells had no accident, and two
had five. If accidents were mere chance, the counts would be Poisson. They vary more than that,
and Greenwood and Yule (1920) asked whether some workers are liable to accidents. Their answer was
a new distribution, which is called the negative binomial today.

The table is real: Greenwood and Yule (1920), *An inquiry into the nature of frequency
distributions representative of multiple happenings*, Journal of the Royal Statistical Society 83.
The last class, five or more, is taken as five.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

women = [447, 132, 42, 21, 3, 2]
table = pd.DataFrame({"accidents": np.repeat(np.arange(6), women)})
mean, variance = table["accidents"].mean(), table["accidents"].var()
print(f"mean {mean:.3f}, variance {variance:.3f}")

fits = {
    family: rf.Model("accidents ~ 1", family=family).fit(table, progress=False)
    for family in ("poisson", "negative_binomial")
}
print(fits["negative_binomial"].summary())

# %%
# ``alpha`` is the shape of the distribution of liability: the smaller, the more workers differ.
# Leaving out each worker in turn, how well is she predicted by the others?

print(rf.compare(fits).round(2))

# %%
# How many women with 0, 1, 2, ... accidents would each model have seen? Bars hang from the
# expected numbers, so that a bar that does not end at zero is a miss (a rootogram, on the scale
# of square roots).

figure, panels = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
for axes, (family, fit) in zip(panels, fits.items(), strict=True):
    tree = fit.extend("posterior_predictive")
    drawn = tree["posterior_predictive"]["accidents"].to_numpy().reshape(-1, len(table))
    expected = [(drawn == count).sum(axis=1).mean() for count in range(6)]
    axes.plot(range(6), np.sqrt(expected), "o-", color="C1")
    axes.bar(range(6), np.sqrt(women), bottom=np.sqrt(expected) - np.sqrt(women), color="C0")
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set_title(family.replace("_", " "), loc="left")
    axes.set_xlabel("accidents")
panels[0].set_ylabel("square root of number")
