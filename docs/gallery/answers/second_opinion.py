"""
Whether to trust a fit: the second opinion
==========================================

``fit.check()`` looks for symptoms and compares the fit with the posterior by another method. Here
are a fit that it trusts, and one in which a column separates the answers, which it does not.

Both tables are generated.
"""

import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(9)
clinic = rng.integers(0, 12, 240)
table = pd.DataFrame({"dose": rng.uniform(0, 4, 240), "clinic": clinic})
odds = -2 + table["dose"] + rng.normal(0, 0.8, 12)[clinic]
table["cured"] = rng.random(240) < 1 / (1 + np.exp(-odds))

model = rf.Model("cured ~ dose + (1 | clinic)")
fit = model.fit(table, progress=False)
print(fit.check())

# %%
# "trust" is about the computation: these numbers are those of the model. Whether the model is
# that of the clinics is what pictures of the data are for.

figure = rf.plots.group_check(fit, "clinic")

# %%
# In the second table everybody with the new drug was cured. The likelihood rises without end as
# the effect of the drug grows, and only the prior holds it.

perfect = table.assign(drug=np.where(table.index < 30, "new", "old"))
perfect.loc[perfect["drug"] == "new", "cured"] = True
print(rf.Model("cured ~ drug + dose").fit(perfect, progress=False).check())
