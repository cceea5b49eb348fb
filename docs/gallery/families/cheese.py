"""
Ratings: four cheeses
=====================

Four cheeses with different additives were tasted 52 times each, and rated from 1 (strong dislike)
to 9 (excellent). The distance from 4 to 5 need not be that from 8 to 9, and the family
``ordinal`` does not ask: thresholds are estimated.

The table is real: McCullagh and Nelder (1989), *Generalized Linear Models*, section 5.6.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

counts = {
    "A": [0, 0, 1, 7, 8, 8, 19, 8, 1],
    "B": [6, 9, 12, 11, 7, 6, 1, 0, 0],
    "C": [1, 1, 6, 8, 23, 7, 5, 1, 0],
    "D": [0, 0, 0, 1, 3, 7, 14, 16, 11],
}
tasted = [(name, rating) for name, n in counts.items() for rating in np.repeat(range(1, 10), n)]
table = pd.DataFrame(tasted, columns=["cheese", "rating"])

fit = rf.Model("rating ~ cheese", family="ordinal").fit(table, progress=False)
print(fit.fixef())

# %%
# Effects are log odds ratios of a higher rating, against cheese A. McCullagh and Nelder have
# -3.35 for B, -1.71 for C and 1.61 for D, by maximum likelihood.

print(fit.maximum_likelihood()["fixef"].round(2))

# %%
# ``predict`` has a column for the probability of each rating.

one = fit.predict(pd.DataFrame({"cheese": list("ABCD")}))
shares = one[[f"p[{rating}]" for rating in range(1, 10)]].to_numpy()
figure, panels = plt.subplots(1, 4, figsize=(9, 2.8), sharey=True, layout="constrained")
for axes, name, share in zip(panels, counts, shares, strict=True):
    axes.bar(range(1, 10), np.array(counts[name]) / 52, color="0.8")
    axes.plot(range(1, 10), share, "o-", color="C0", markersize=3)
    axes.set_title(f"cheese {name}", loc="left")
    axes.set_xlabel("rating")
panels[0].set_ylabel("share")
