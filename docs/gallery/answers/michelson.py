"""
Comparing models: Michelson's five experiments
==============================================

In 1879 Albert Michelson measured the speed of light a hundred times, in five experiments of
twenty runs. Do the experiments differ? Two models answer, and leaving out rows, or whole
experiments, says which predicts better.

The table is real: kilometres a second above 299,000, in Michelson (1882), *Astronomical Papers of
the American Ephemeris* 1.
"""

import numpy as np
import pandas as pd

import ranef as rf

speed = (
    "850 740 900 1070 930 850 950 980 980 880 1000 980 930 650 760 810 1000 1000 960 960 960 "
    "940 960 940 880 800 850 880 900 840 830 790 810 880 880 830 800 790 760 800 880 880 880 "
    "860 720 720 620 860 970 950 880 910 850 870 840 840 850 840 840 840 890 810 810 820 800 "
    "770 760 740 750 760 910 920 890 860 880 720 840 850 850 780 890 840 780 810 760 810 790 "
    "810 820 850 870 870 810 740 810 940 950 800 810 870"
)
table = pd.DataFrame(
    {"experiment": np.repeat(np.arange(1, 6), 20), "speed": np.array(speed.split(), dtype=float)}
)
models = {
    "all alike": rf.Model("speed ~ 1"),
    "means differ": rf.Model("speed ~ 1 + (1 | experiment)"),
}
fits = {name: model.fit(table, progress=False) for name, model in models.items()}

# %%
# ``elpd`` is the expected log predictive density of a left-out row, summed: higher is better, and
# a difference of less than two of its standard errors says little. ``bad`` is the share of rows
# for which the answer cannot be relied on.

print(rf.compare(fits).round(2))

# %%
# The same, if whole experiments are left out: what will a sixth one be like?

print(rf.compare(fits, group="experiment").round(2))

# %%
# One fit in detail. The rows that are predicted worst:

loo = fits["means differ"].loo()
print(loo)
print(table.join(loo.pointwise).nsmallest(3, "elpd").round(2))

# %%
# Each experiment alone and partially pooled. Today's value, in air, is 734.5: all five are too
# high.

figure = rf.plots.shrinkage(fits["means differ"], "experiment")
