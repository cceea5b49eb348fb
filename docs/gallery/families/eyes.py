"""
Categories without an order: hair and eyes
==========================================

592 students of statistics at Delaware were asked for the colour of their hair and of their eyes.
Brown, blue, hazel and green have no order. The family ``categorical`` gives each colour but the
first a predictor of its own.

The table is real: Snee (1974), *Graphical display of two-way contingency tables*, The American
Statistician 28.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

hair, eyes = ["black", "brown", "red", "blond"], ["blue", "brown", "green", "hazel"]
counts = {
    ("black", "men"): [11, 32, 3, 10],
    ("brown", "men"): [50, 53, 15, 25],
    ("red", "men"): [10, 10, 7, 7],
    ("blond", "men"): [30, 3, 8, 5],
    ("black", "women"): [9, 36, 2, 5],
    ("brown", "women"): [34, 66, 14, 29],
    ("red", "women"): [7, 16, 7, 7],
    ("blond", "women"): [64, 4, 8, 5],
}
rows = [(*key, eye) for key, n in counts.items() for eye in np.repeat(eyes, n)]
table = pd.DataFrame(rows, columns=["hair", "sex", "eyes"])
print(len(table))

fit = rf.Model("eyes ~ hair + sex", family="categorical").fit(table, progress=False)
print(fit.fixef())

# %%
# A coefficient such as ``mubrown_hair[blond]`` is the log odds of brown against blue eyes, of
# blond against black hair. Probabilities are easier to read.

grid = pd.DataFrame({"hair": hair, "sex": "women"})
found = fit.predict(grid)[[f"p[{eye}]" for eye in eyes]]
print(found.set_axis(hair).round(2))

# %%
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
bottom = np.zeros(4)
colours = {"blue": "#4a7fb5", "brown": "#7a4f2b", "green": "#5f9a5f", "hazel": "#b09a5b"}
for eye in eyes:
    axes.bar(hair, found[f"p[{eye}]"], bottom=bottom, color=colours[eye], label=eye, width=0.6)
    bottom += found[f"p[{eye}]"].to_numpy()
axes.set(xlabel="hair of women", ylabel="probability")
axes.legend(title="eyes", frameon=False, bbox_to_anchor=(1, 1))
