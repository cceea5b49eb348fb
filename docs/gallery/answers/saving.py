"""
A fit that is kept: saving, loading, a report
=============================================

A fit goes into one file, which holds the model, the draws and the rows that were used. Nothing in
the file is run as code when it is loaded, and the loaded fit answers to the last bit what the fit
answered.

The table is generated.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(8)
ward = rng.integers(0, 25, 500)
table = pd.DataFrame({"age": rng.uniform(20, 90, 500), "ward": ward})
odds = -4 + 0.05 * table["age"] + rng.normal(0, 0.7, 25)[ward]
table["infection"] = np.where(rng.random(500) < 1 / (1 + np.exp(-odds)), "yes", "no")

model = rf.Model("infection ~ age + (1 | ward)", family="bernoulli")
fit = model.fit(table, progress=False)

# %%
# Save, load, compare.

folder = Path(tempfile.mkdtemp())
path = fit.save(folder / "infections.ranef")
later = rf.load(path)
print(f"{os.path.getsize(path) / 1e6:.1f} MB")
print(later)
print("same predictions:", later.predict(table).equals(fit.predict(table)))

# %%
# A damaged file is refused with a sentence.

(folder / "half.ranef").write_bytes(path.read_bytes()[:20_000])
try:
    rf.load(folder / "half.ranef")
except rf.FileError as error:
    print(str(error).replace(str(folder), "."))

# %%
# The fit as one page for a colleague, which needs no other file: ``fit.report("report.html")``.
# One of its pictures:

figure = rf.plots.group_check(later, "ward")
