"""
Known standard errors: eight schools
====================================

Eight schools tried the same course for a test. Each reported how much the course had helped, and
a standard error. The schools' pupils are not in the table, and need not be: ``se(y, s)`` says
that each row comes with a known standard error, as in every meta-analysis.

The table is real: Rubin (1981), *Estimation in parallel randomized experiments*.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

table = pd.DataFrame(
    {
        "school": list("ABCDEFGH"),
        "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
        "error": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
    }
)
fit = rf.Model("se(effect, error) ~ 1 + (1 | school)").fit(table, progress=False)
print(fit.summary())

# %%
# The mean effect is some eight points. Whether schools differ at all is open: the sd between them
# may be anything from nothing to a dozen points. So the 28 points of school A are mostly taken
# for luck.

pooled = fit.predict(table)
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
place = np.arange(8)
axes.errorbar(table["effect"], place + 0.15, xerr=1.645 * table["error"], fmt="x", color="0.6")
half = (pooled["mean"] - pooled["lower"], pooled["upper"] - pooled["mean"])
axes.errorbar(pooled["mean"], place - 0.15, xerr=half, fmt="o", color="C0")
axes.set_yticks(place, table["school"])
axes.set_xlabel("points gained, with 90% intervals")
axes.set_title("grey: as reported; blue: partially pooled", loc="left")

# %%
# What would a ninth school gain?

ninth = pd.DataFrame({"school": ["I"]})
print(fit.predict(ninth, new_levels="sample"))
