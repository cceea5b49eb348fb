"""
Shrinkage: batting averages
===========================

After 45 times at bat, Roberto Clemente had 18 hits, an average of .400, and Max Alvis had 7, or
.156. Will they go on like that? Efron and Morris (1975) took the first 45 times at bat of 18
players of the season of 1970, predicted the rest of the season, and could look up what happened.

The table is real: *Data analysis using Stein's estimator and its generalizations*, Journal of the
American Statistical Association 70.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

names = ["Clemente", "F Robinson", "F Howard", "Johnstone", "Berry", "Spencer", "Kessinger"]
names += ["L Alvarado", "Santo", "Swoboda", "Unser", "Williams", "Scott", "Petrocelli"]
names += ["E Rodriguez", "Campaneris", "Munson", "Alvis"]
table = pd.DataFrame(
    {
        "player": names,
        "hits": [18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7],
        "at_bats": 45,
    }
)
rest = np.array(
    [0.346, 0.298, 0.276, 0.222, 0.273, 0.270, 0.263, 0.210, 0.269]
    + [0.230, 0.264, 0.256, 0.303, 0.264, 0.226, 0.286, 0.316, 0.200]
)

# %%
# Every player has a log odds of a hit of his own, from a normal distribution whose sd is
# estimated with all else. Players differ little, and 45 times at bat say little, so that averages
# are pulled most of the way to the mean of all.

model = rf.Model("hits / at_bats ~ 1 + (1 | player)", family="binomial")
fit = model.fit(table, progress=False)
print(fit.summary())
predicted = fit.predict(table)
print(predicted.assign(player=names, so_far=table["hits"] / 45, rest=rest).round(3).head())

# %%
# The predictions are much nearer to the rest of the season than the averages so far are.

averages = table["hits"] / 45
for name, guess in {"average so far": averages, "partial pooling": predicted["mean"]}.items():
    print(f"{name}: root mean squared error {np.sqrt(np.mean((guess - rest) ** 2)):.3f}")

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for row, values in enumerate([rest, predicted["mean"], averages]):
    axes.scatter(values, np.full(18, row), s=22)
for ends in zip(averages, predicted["mean"], rest, strict=True):
    axes.plot(ends, [2, 1, 0], color="0.6", linewidth=0.7, zorder=0)
axes.set_yticks([0, 1, 2], ["rest of the season", "predicted", "first 45 at bat"])
axes.set_xlabel("share of hits")
axes.set_title("Extreme starts are mostly luck", loc="left")
