"""
A mixture: the crabs of Naples
==============================

In 1893 W. F. R. Weldon measured a thousand crabs of the bay of Naples. One ratio, forehead to
body, was skewed. Were there two kinds of crab? Karl Pearson answered with the first mixture that
was ever fitted, by the roots of an equation of the ninth degree.

The table is real: Pearson (1894), *Contributions to the mathematical theory of evolution*,
Philosophical Transactions A 185.
"""

import matplotlib.pyplot as plt
import numpy as np

import ranef as rf

crabs = [1, 3, 5, 2, 7, 10, 13, 19, 20, 25, 40, 31, 60, 62, 54, 74, 84, 86, 96, 85]
crabs += [75, 47, 43, 24, 19, 9, 5, 0, 1]
ratio = 0.5835 + 0.004 * np.arange(29)
table = {"ratio": np.repeat(ratio, crabs)}

one = rf.Model("ratio ~ 1").fit(table, progress=False)
two = rf.Model("ratio ~ 1", family=rf.Mixture("gaussian", k=2)).fit(table, progress=False)
print(two.summary())

# %%
# Pearson had, by moments, a share of .41 with a mean of .633 and an sd of .018, and .59 with .657
# and .012.

share = 1 / (1 + np.exp(two.posterior["mix2_Intercept"].to_numpy().ravel()))
print(f"share of the first component: {share.mean():.2f}, sd {share.std():.2f}")
print(rf.compare({"one kind": one, "two kinds": two}).round(2))

# %%
# To which component would a crab with this ratio belong?

some = {"ratio": [0.61, 0.64, 0.65, 0.67]}
print(two.predict(some, kind="component").assign(ratio=some["ratio"]).round(2))

# %%
# The density as the posterior has it, component by component. Whether these are two kinds of crab
# is another question: any skewed distribution is fitted better by two normal ones.

grid = np.linspace(0.57, 0.71, 200)
means = {name: float(value) for name, value in two.fixef()["mean"].items()}
scales = {name: float(two.posterior[name].mean()) for name in ("sigma1", "sigma2")}
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.bar(ratio, np.array(crabs) / 1000 / 0.004, width=0.004, color="0.85")
total = 0
for k, weight in [(1, share.mean()), (2, 1 - share.mean())]:
    centre, sd = means[f"mu{k}_Intercept"], scales[f"sigma{k}"]
    density = weight * np.exp(-(((grid - centre) / sd) ** 2) / 2) / sd / np.sqrt(2 * np.pi)
    axes.plot(grid, density, label=f"component {k}")
    total = total + density
axes.plot(grid, total, color="0.2", linewidth=0.8)
axes.set(xlabel="forehead over body", ylabel="density")
axes.legend(frameon=False)
