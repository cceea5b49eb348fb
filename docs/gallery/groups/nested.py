"""
Nested groupings: calcium in turnip greens
==========================================

Four plants, three leaves of each, and the calcium of two samples of each leaf, in percent of dry
weight. Where does the variation come from: plants, leaves of a plant, or the laboratory? ``(1 |
plant/leaf)`` is short for an intercept of each plant and one of each leaf within it.

The table is real: Snedecor and Cochran, *Statistical Methods*.
"""

import numpy as np
import pandas as pd

import ranef as rf

table = pd.DataFrame(
    {
        "plant": np.repeat([1, 2, 3, 4], 6),
        "leaf": np.tile(np.repeat([1, 2, 3], 2), 4),
        "calcium": [3.28, 3.09, 3.52, 3.48, 2.88, 2.80, 2.46, 2.44, 1.87, 1.92, 2.19, 2.19]
        + [2.77, 2.66, 3.74, 3.44, 2.55, 2.55, 3.78, 3.87, 4.07, 4.12, 3.31, 3.31],
    }
)
fit = rf.Model("calcium ~ 1 + (1 | plant/leaf)").fit(table, progress=False)
print(fit.summary())

# %%
# The book's analysis of variance has the variances .365 between plants, .161 between leaves and
# .0067 between samples. REML has the same. The posterior adds how little four plants say: the
# interval of their sd is wide.

found = fit.maximum_likelihood(reml=True)
print((found["varcorr"]["estimate"] ** 2).round(4))

# %%
# What follows for the next study: more plants. Two samples of a leaf agree to within a tenth of a
# percent, and a third would be wasted. The sd of a mean of 24 samples, by how they are spread
# over plants and leaves:

sds = fit.varcorr()["mean"]
plant, leaf, sample = (float(sds[n]) for n in ("1|plant_sigma", "1|plant:leaf_sigma", "sigma"))
for plants, leaves, samples in [(4, 3, 2), (8, 3, 1), (12, 2, 1), (24, 1, 1)]:
    variance = plant**2 + leaf**2 / leaves + sample**2 / (leaves * samples)
    print(
        f"{plants:2d} plants, {leaves} leaves, {samples} samples: {np.sqrt(variance / plants):.2f}"
    )

# %%
figure = rf.plots.posterior(fit)
