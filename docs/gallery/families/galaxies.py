"""
A mixture: galaxies in clusters
===============================

82 galaxies in the region of Corona Borealis, and the velocities at which they move away from us,
in thousands of kilometres a second. Velocity goes with distance, so that clumps of velocities are
clusters of galaxies with empty space between. No column says which galaxy is in which cluster; a
mixture finds out.

The table is real: Roeder (1990), *Density estimation with confidence sets exemplified by
superclusters and voids in the galaxies*, Journal of the American Statistical Association 85, from
the survey of Postman, Huchra and Geller (1986).
"""

import matplotlib.pyplot as plt
import numpy as np

import ranef as rf

metres = (
    "9172 9350 9483 9558 9775 10227 10406 16084 16170 18419 18552 18600 18927 19052 19070 19330 "
    "19343 19349 19440 19473 19529 19541 19547 19663 19846 19856 19863 19914 19918 19973 19989 "
    "20166 20175 20179 20196 20215 20221 20415 20629 20795 20821 20846 20875 20986 21137 21492 "
    "21701 21814 21921 21960 22185 22209 22242 22249 22314 22374 22495 22746 22747 22888 22914 "
    "23206 23241 23263 23484 23538 23542 23666 23706 23711 24129 24285 24289 24366 24717 24990 "
    "25633 26960 26995 32065 32789 34279"
)
table = {"velocity": np.array(metres.split(), dtype=float) / 1000}

one = rf.Model("velocity ~ 1").fit(table, progress=False)
three = rf.Model("velocity ~ 1", family=rf.Mixture("gaussian", k=3))
clusters = three.fit(table, progress=False)
print(clusters.summary()[["mean", "sd", "lower", "upper"]].round(2))

# %%
# ``mix2`` and ``mix3`` are log odds of the second and third component against the first. As
# shares:

odds = [np.zeros(1000)] + [clusters.posterior[f"mix{k}_Intercept"].to_numpy()[0] for k in (2, 3)]
shares = np.exp(odds) / np.exp(odds).sum(axis=0)
print("shares", shares.mean(axis=1).round(2), "sds", shares.std(axis=1).round(2))
print(rf.compare({"one": one, "three": clusters}).round(2))

# %%
# To which component would a galaxy of this velocity belong?

some = {"velocity": [10.0, 16.0, 21.0, 27.0, 33.0]}
found = clusters.predict(some, kind="component").assign(velocity=some["velocity"])
print(found.round(2))

# %%
# The density as the posterior has it. The third component is three galaxies, and its mean and sd
# are hardly known.

grid = np.linspace(5, 40, 400)
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.hist(table["velocity"], np.arange(8, 36), density=True, color="0.85")
total = 0
for k in (1, 2, 3):
    mean = clusters.posterior[f"mu{k}_Intercept"].to_numpy()[0][:, None]
    sd = clusters.posterior[f"sigma{k}"].to_numpy()[0][:, None]
    each = np.exp(-(((grid - mean) / sd) ** 2) / 2) / sd / np.sqrt(2 * np.pi)
    density = (shares[k - 1][:, None] * each).mean(axis=0)
    axes.plot(grid, density, label=f"component {k}")
    total = total + density
axes.plot(grid, total, color="0.2", linewidth=0.8)
axes.set(xlabel="thousand kilometres a second", ylabel="density")
axes.legend(frameon=False)
