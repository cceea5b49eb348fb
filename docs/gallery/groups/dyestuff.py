"""
Random intercepts: batches of dye
=================================

How much of the variation of a product comes from the batches of the raw material, and how much
from the work within a batch? Five preparations were made from each of six batches of an
intermediate product, and their yields of a dye were weighed in grams. It is the first example of
many courses on mixed models.

The table is real: Davies (1947), *Statistical Methods in Research and Production*.
"""

import numpy as np
import pandas as pd

import ranef as rf

yields = {
    "A": [1545, 1440, 1440, 1520, 1580],
    "B": [1540, 1555, 1490, 1560, 1495],
    "C": [1595, 1550, 1605, 1510, 1560],
    "D": [1445, 1440, 1595, 1465, 1545],
    "E": [1595, 1630, 1515, 1635, 1625],
    "F": [1520, 1455, 1450, 1480, 1445],
}
table = pd.DataFrame(yields).melt(var_name="batch", value_name="grams")

fit = rf.Model("grams ~ 1 + (1 | batch)").fit(table, progress=False)
print(fit.summary())

# %%
# ``share(batch)`` is the intraclass correlation. Six batches leave much open, and its interval
# says so. The estimates of REML, which lme4 reports, are single numbers: a variance of 1764
# between batches, and 2451 within.

found = fit.maximum_likelihood(reml=True)
print((found["varcorr"]["estimate"] ** 2).round(0))

# %%
# Every batch alone, and partially pooled. With five rows each, the batches keep most of what they
# say for themselves.

figure = rf.plots.shrinkage(fit, "batch")

# %%
# How often is batch E truly better than batch C, the second best? The posterior holds draws of
# both.

effects = fit.posterior["1|batch"].stack(sample=("chain", "draw"))
better = effects.sel(batch__factor_dim="E") > effects.sel(batch__factor_dim="C")
print(f"P(E > C) = {float(np.mean(better)):.2f}")
