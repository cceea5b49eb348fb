"""
Too many zeros: an evening's fishing
====================================

Guests of a campsite are asked in the evening how many fish they have caught. Many say none: some
have not fished. Their zeros and those of unlucky anglers look alike. A zero-inflated model has a
probability of having fished at all, with a predictor of its own.

The table is generated, with 60% of the groups fishing, and more of them where children are few.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(3)
n = 400
table = pd.DataFrame(
    {
        "hours": rng.uniform(1, 6, n),
        "children": rng.integers(0, 4, n),
        "lake": rng.choice(list("ABCD"), n),
    }
)
fished = rng.random(n) < 1 / (1 + np.exp(-1.2 + 0.7 * table["children"]))
lake = table["lake"].map({"A": -0.3, "B": 0.0, "C": 0.2, "D": 0.4})
table["fish"] = np.where(fished, rng.poisson(np.exp(-0.4 + 0.35 * table["hours"] + lake)), 0)

plain = rf.Model("fish ~ hours + (1 | lake)", family="poisson")
inflated = rf.Model("fish ~ hours + (1 | lake); psi ~ children", family="zero_inflated_poisson")
fits = {"poisson": plain.fit(table, progress=False), "zeros": inflated.fit(table, progress=False)}
print(fits["zeros"].summary())

# %%
# ``psi`` is the probability of having fished, and ``psi_children`` its log odds for one child
# more. An hour more multiplies the catch of those who fish by about 1.4; the model without zeros
# takes hours and children for one.

print(rf.compare(fits).round(2))

# %%
# Number of groups with each catch, observed and as drawn from both fits.

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
most = 15
axes.bar(range(most), np.bincount(table["fish"], minlength=most)[:most], color="0.8")
for name, fit in fits.items():
    tree = fit.extend("posterior_predictive")
    drawn = tree["posterior_predictive"]["fish"].to_numpy().reshape(-1, n)
    axes.plot(range(most), [(drawn == k).sum(axis=1).mean() for k in range(most)], "o-", label=name)
axes.set(xlabel="fish", ylabel="groups")
axes.legend(frameon=False)
