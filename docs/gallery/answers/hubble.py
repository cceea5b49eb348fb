"""
Priors: the universe in 1929
============================

Edwin Hubble had distances and velocities of 24 nebulae, and drew a line through them. What does a
prior do to 24 rows? Look at what it means before the data are seen, then at what it changes.

The table is real: Hubble (1929), *A relation between distance and radial velocity among
extra-galactic nebulae*, Proceedings of the National Academy of Sciences 15. Distances are in
megaparsecs, velocities in kilometres a second.
"""

import pandas as pd

import ranef as rf

table = pd.DataFrame(
    {
        "distance": [0.032, 0.034, 0.214, 0.263, 0.275, 0.275, 0.45, 0.5, 0.5, 0.63, 0.8, 0.9]
        + [0.9, 0.9, 0.9, 1.0, 1.1, 1.1, 1.4, 1.7, 2.0, 2.0, 2.0, 2.0],
        "velocity": [170, 290, -130, -70, -185, -220, 200, 290, 270, 200, 300, -30]
        + [650, 150, 500, 920, 450, 500, 500, 960, 500, 850, 800, 1090],
    }
)
# The line goes through the origin: what is near has no velocity of its own.
weak = rf.Model("velocity ~ 0 + distance")
for name, prior in weak.priors_for(table).items():
    print(name, prior)

# %%
# The default prior, before the data: lines in every direction.

default = weak.fit(table, progress=False)
figure = rf.plots.data_fit(default, under="prior")

# %%
# Somebody who is sure that the universe stands still writes that down, and somebody of today that
# the slope is near 70.

still = rf.Model("velocity ~ 0 + distance", priors={"distance": rf.Normal(0, 50)})
today = rf.Model("velocity ~ 0 + distance", priors={"distance": rf.Normal(70, 5)})
fits = {"default": default, "stands still": still.fit(table, progress=False)}
fits["today"] = today.fit(table, progress=False)
for name, fit in fits.items():
    print(name, fit.fixef().round(0).to_string(header=False))

# %%
# Hubble's 24 rows say some 420, with his distances, which were seven times too short. A prior
# that the rows contradict predicts each of them badly from the others:

print(rf.compare(fits).round(2))

# %%
# The posterior of the default.

figure = rf.plots.data_fit(default)
