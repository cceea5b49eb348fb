"""
Successes out of trials: admissions to Berkeley
===============================================

In the autumn of 1973, 44% of the men who applied to the six largest departments of the University
of California at Berkeley were admitted, and 30% of the women. Department by department the
difference is gone: women applied where most are rejected. A common effect of gender and an
intercept for each department say both.

The table is real: Bickel, Hammel and O'Connell (1975), *Sex bias in graduate admissions: data
from Berkeley*, Science 187.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

table = pd.DataFrame(
    {
        "department": list("ABCDEF") * 2,
        "gender": ["men"] * 6 + ["women"] * 6,
        "admitted": [512, 353, 120, 138, 53, 22, 89, 17, 202, 131, 94, 24],
        "applied": [825, 560, 325, 417, 191, 373, 108, 25, 593, 375, 393, 341],
    }
)

together = rf.Model("admitted / applied ~ gender", family="binomial")
apart = rf.Model("admitted / applied ~ gender + (1 | department)", family="binomial")
fits = {
    "all together": together.fit(table, progress=False),
    "by department": apart.fit(table, progress=False),
}
print(fits["by department"].summary())

# %%
# Coefficients are log odds. Their exponentials are ratios of odds: below one where women are
# admitted less often.

for name, fit in fits.items():
    draws = np.exp(fit.posterior["gender"].sel(gender_dim="women").to_numpy().ravel())
    low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
    print(f"{name}: odds ratio {middle:.2f}, 90% interval {low:.2f} to {high:.2f}")

# %%
# Which model predicts a department better that it has not seen? The one that knows that
# departments differ.

print(rf.compare(fits, group="department").round(2))

# %%
# Shares as observed (dots) and as the model has them (bars of 90%).

predicted = fits["by department"].predict(table)
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for gender, colour, beside in [("men", "C0", -0.12), ("women", "C1", 0.12)]:
    rows = (table["gender"] == gender).to_numpy()
    place = np.arange(6) + beside
    low, high = predicted["lower"][rows], predicted["upper"][rows]
    axes.vlines(place, low, high, color=colour, linewidth=4, alpha=0.4)
    observed = table["admitted"][rows] / table["applied"][rows]
    axes.scatter(place, observed, s=18, color=colour, label=gender)
axes.set_xticks(range(6), list("ABCDEF"))
axes.set(xlabel="department", ylabel="share admitted")
axes.legend(frameon=False)
