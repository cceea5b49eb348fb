"""
Counts with an exposure: deaths of doctors
==========================================

British doctors were asked in 1951 whether they smoked, and their deaths were counted for ten
years. A count of deaths means something beside the number of years that were lived:
``offset(log(years))`` makes the model one of the rate.

The table is real: deaths from coronary heart disease, from Doll and Hill (1966), *Mortality of
British doctors in relation to smoking*.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

ages = ["35-44", "45-54", "55-64", "65-74", "75-84"]
table = pd.DataFrame(
    {
        "age": ages * 2,
        "smoker": ["yes"] * 5 + ["no"] * 5,
        "deaths": [32, 104, 206, 186, 102, 2, 12, 28, 28, 31],
        "years": [52407, 43248, 28612, 12663, 5317, 18790, 10673, 5710, 2585, 1462],
    }
)
model = rf.Model("deaths ~ smoker + offset(log(years)) + (1 | age)", family="poisson")
fit = model.fit(table, progress=False)
print(fit.summary())

# %%
# The exponential of a coefficient is a ratio of rates: at the same age, smokers died of the heart
# some 1.4 times as often.

ratio = np.exp(fit.posterior["smoker"].to_numpy().ravel())
low, middle, high = np.quantile(ratio, [0.05, 0.5, 0.95])
print(f"rate ratio {middle:.2f}, 90% interval {low:.2f} to {high:.2f}")

# %%
# One ratio for all ages is not quite right: it is largest among the young. A slope for each age
# lets it differ.

vary = rf.Model("deaths ~ smoker + offset(log(years)) + (1 + smoker | age)", family="poisson")
varied = vary.fit(table, progress=False)
print(varied.varcorr())

# %%
# A prediction for one year lived is the rate.

year = table.assign(years=10_000)
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
for smoker, colour in [("yes", "C1"), ("no", "C0")]:
    rows = (table["smoker"] == smoker).to_numpy()
    for each, style in [(fit, "--"), (varied, "-")]:
        rate = each.predict(year[rows])
        axes.plot(range(5), rate["mean"], style, color=colour)
    observed = 10_000 * table["deaths"][rows] / table["years"][rows]
    axes.scatter(range(5), observed, color=colour, label=f"smoker: {smoker}")
axes.set_xticks(range(5), ages)
axes.set(xlabel="age", ylabel="deaths in 10,000 years", yscale="log")
axes.set_title("dashed: one ratio; solid: a ratio for each age", loc="left")
axes.legend(frameon=False)
