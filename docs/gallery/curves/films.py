"""
Matrix factorization: who likes which film
==========================================

Sixty people have rated some of forty films. Some people give more stars than others, some films
are better, and beyond that tastes differ: ``mf(person, film)`` gives each person and each film a
few numbers whose products say who likes what.

The table is generated, with two such numbers.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(1)
n = 1500
table = pd.DataFrame({"person": rng.integers(0, 60, n), "film": rng.integers(0, 40, n)})
taste, kind = rng.normal(size=(60, 2)), rng.normal(size=(40, 2))
product = (taste[table["person"]] * kind[table["film"]]).sum(axis=1)
table["stars"] = 3 + product + rng.normal(0, 0.5, n)
table["stars"] += rng.normal(0, 0.4, 60)[table["person"]] + rng.normal(0, 0.3, 40)[table["film"]]
train, test = table[:1200], table[1200:]

formulas = {
    "intercepts": "stars ~ (1 | person) + (1 | film)",
    "tastes": "stars ~ (1 | person) + (1 | film) + mf(person, film, rank=4)",
}
fits = {name: rf.Model(text).fit(train, progress=False) for name, text in formulas.items()}
print(rf.compare(fits, data=test).round(2))

# %%
# Four components were allowed. The scales of two are near zero.

print(fits["tastes"].summary())

# %%
# Films for two people, of those that they have not rated.

print(fits["tastes"].recommend([3, 8], n=3).round(2))

# %%
# Pairs that were not seen: predicted and given.

figure, panels = plt.subplots(
    1, 2, figsize=(7, 3.4), sharex=True, sharey=True, layout="constrained"
)
for axes, (name, fit) in zip(panels, fits.items(), strict=True):
    guess = fit.predict(test)["mean"]
    axes.plot(guess, test["stars"], ".", color="C0", alpha=0.5)
    error = np.sqrt(np.mean((guess - test["stars"]) ** 2))
    axes.set(xlabel="predicted", title=f"{name}: error {error:.2f}")
panels[0].set_ylabel("stars given")
