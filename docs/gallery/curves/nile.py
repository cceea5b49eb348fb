"""
A Gaussian process: the flow of the Nile
========================================

A hundred years of the Nile at Aswan, in 100 million cubic metres a year. The river carried less
from about 1898 on. A Gaussian process needs no guess at the form of the curve: its amplitude and
its length scale are estimated.

The table is real: Cobb (1978), *The problem of the Nile*, Biometrika 65.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

flow = (
    "1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 "
    "1140 1100 1210 1150 1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 "
    "969 831 726 456 824 702 1120 1100 832 764 821 768 845 864 862 698 845 744 796 1040 759 781 "
    "865 845 944 984 897 822 1010 771 676 649 846 812 742 801 1040 860 874 848 890 744 749 838 "
    "1050 918 986 797 923 975 815 1020 906 901 1170 912 746 919 718 714 740"
)
table = pd.DataFrame({"year": np.arange(1871, 1971), "flow": np.array(flow.split(), dtype=float)})

fit = rf.Model("flow ~ gp(year)").fit(table, progress=False)
print(fit.summary())

# %%
# ``gp(year)_ell`` is the length scale in years: how far apart two years must be to have little to
# do with each other. A straight line is the alternative that a first look at a table would give.

line = rf.Model("flow ~ year").fit(table, progress=False)
print(rf.compare({"curve": fit, "line": line}).round(2))

# %%
curve = fit.predict(table)
response = fit.predict(table, kind="response")
figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
axes.fill_between(table["year"], response["lower"], response["upper"], color="C0", alpha=0.12)
axes.fill_between(table["year"], curve["lower"], curve["upper"], color="C0", alpha=0.35)
axes.plot(table["year"], curve["mean"], color="C0")
axes.plot(table["year"], line.predict(table)["mean"], "--", color="0.4")
axes.plot(table["year"], table["flow"], ".", color="0.3")
axes.set(xlabel="year", ylabel="flow")
axes.set_title("90% of the curve (dark) and of single years (light)", loc="left")
