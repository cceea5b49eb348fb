"""
Shares that vary too much: germinating seeds
============================================

Seeds of two kinds of broomrape were laid on 21 plates with extract of bean or cucumber root, and
counted when they had germinated. Plates with the same treatment differ by more than chance. An
intercept for each plate takes that in, and the intervals of the treatments become as wide as they
should.

The table is real: Crowder (1978), *Beta-binomial anova for proportions*, Applied Statistics 27.
"""

import numpy as np
import pandas as pd

import ranef as rf

germinated = [10, 23, 23, 26, 17, 5, 53, 55, 32, 46, 10, 8, 10, 8, 23, 0, 3, 22, 15, 32, 3]
table = pd.DataFrame(
    {
        "plate": np.arange(1, 22),
        "seed": np.repeat(["aegyptiaca 75", "aegyptiaca 73"], [11, 10]),
        "root": np.repeat(["bean", "cucumber", "bean", "cucumber"], [5, 6, 5, 5]),
        "germinated": germinated,
        "seeds": [39, 62, 81, 51, 39, 6, 74, 72, 51, 79, 13, 16, 30, 28, 45, 4, 12, 41, 30, 51, 7],
    }
)
alike = rf.Model("germinated / seeds ~ seed * root", family="binomial")
varying = rf.Model("germinated / seeds ~ seed * root + (1 | plate)", family="binomial")
fits = {
    "plates alike": alike.fit(table, progress=False),
    "plates vary": varying.fit(table, progress=False),
}
for name, fit in fits.items():
    print(name, fit.fixef().round(2), sep="\n")
print(fits["plates vary"].varcorr())

# %%
# Which is better on a new plate? Each plate is left out in turn, without fitting again.

print(rf.compare(fits, group="plate").round(2))

# %%
# The seeds that germinated on each plate, and what the model with plates draws.

figure = rf.plots.group_check(fits["plates vary"], "plate")

# %%
# Shares for a new plate of each treatment.

cells = table.groupby(["seed", "root"], as_index=False).first().assign(plate=0)
found = fits["plates vary"].predict(cells, new_levels="sample")
print(cells[["seed", "root"]].join(found.round(2)))
