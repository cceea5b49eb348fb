"""
A mixture: two kinds of iris without their names
================================================

A hundred irises, of which somebody has measured the sepals and lost the labels: fifty are of the
species setosa, fifty of virginica. A mixture of two normal distributions is told neither which is
which nor how many there are of each. As the labels are not lost, we can see how far it comes.

The table is real: measurements of Edgar Anderson, in Fisher (1936), *The use of multiple
measurements in taxonomic problems*, Annals of Eugenics 7.
"""

import matplotlib.pyplot as plt
import numpy as np

import ranef as rf

setosa = (
    "5.1 4.9 4.7 4.6 5.0 5.4 4.6 5.0 4.4 4.9 5.4 4.8 4.8 4.3 5.8 5.7 5.4 5.1 5.7 5.1 5.4 5.1 "
    "4.6 5.1 4.8 5.0 5.0 5.2 5.2 4.7 4.8 5.4 5.2 5.5 4.9 5.0 5.5 4.9 4.4 5.1 5.0 4.5 4.4 5.0 "
    "5.1 4.8 5.1 4.6 5.3 5.0"
)
virginica = (
    "6.3 5.8 7.1 6.3 6.5 7.6 4.9 7.3 6.7 7.2 6.5 6.4 6.8 5.7 5.8 6.4 6.5 7.7 7.7 6.0 6.9 5.6 "
    "7.7 6.3 6.7 7.2 6.2 6.1 6.4 7.2 7.4 7.9 6.4 6.3 6.1 7.7 6.3 6.4 6.0 6.9 6.7 6.9 5.8 6.8 "
    "6.7 6.7 6.3 6.5 6.2 5.9"
)
table = {"sepal": np.array(f"{setosa} {virginica}".split(), dtype=float)}
species = np.repeat([1, 2], 50)

fit = rf.Model("sepal ~ 1", family=rf.Mixture("gaussian", k=2)).fit(table, progress=False)
print(fit.summary()[["mean", "sd", "lower", "upper"]].round(2))
for name, k in (("setosa", 1), ("virginica", 2)):
    own = table["sepal"][species == k]
    print(f"{name}: mean {own.mean():.2f}, sd {own.std(ddof=1):.2f}")

# %%
# ``mix2`` is the log odds of the second component. As a share, which is one half in truth:

share = 1 / (1 + np.exp(-fit.posterior["mix2_Intercept"].to_numpy().ravel()))
print(f"share of the second: {share.mean():.2f}, sd {share.std():.2f}")

# %%
# Which flower is of which kind, and how sure is the model?

found = fit.predict(table, kind="component")
right = found["component"].to_numpy() == species
print(f"{right.mean():.0%} of the flowers are in the right component")
print(found[~right].assign(sepal=table["sepal"][~right]).round(2).head())

# %%
grid = np.linspace(4, 8.2, 200)
mean = fit.posterior.mean()
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.hist(
    [table["sepal"][species == k] for k in (1, 2)],
    np.arange(4, 8.2, 0.2),
    stacked=True,
    density=True,
    color=["0.7", "0.88"],
)
for k, weight in ((1, 1 - share.mean()), (2, share.mean())):
    centre, sd = float(mean[f"mu{k}_Intercept"]), float(mean[f"sigma{k}"])
    density = weight * np.exp(-(((grid - centre) / sd) ** 2) / 2) / sd / np.sqrt(2 * np.pi)
    axes.plot(grid, density, label=f"component {k}")
axes.set(xlabel="length of sepals, cm; dark: setosa, light: virginica", ylabel="density")
axes.legend(frameon=False)
