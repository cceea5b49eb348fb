"""
Crossed groupings: readers and words
====================================

Forty readers read the same sixty words aloud, and the time until they begin is measured. Readers
differ, words differ, and both are samples: of other readers, other words. A test that averages
over words, or over readers, takes one of the two for fixed. Crossed groupings take neither.

The table is generated, so that the truth is known: longer words take 12 ms more for each letter.
"""

import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(2)
readers, words = 40, 60
letters = rng.integers(3, 11, words)
table = pd.DataFrame(
    {"reader": np.repeat(np.arange(readers), words), "word": np.tile(np.arange(words), readers)}
)
table["letters"] = letters[table["word"]]
table["ms"] = (
    500
    + 12 * (table["letters"] - 6)
    + rng.normal(0, 60, readers)[table["reader"]]
    + rng.normal(0, 30, words)[table["word"]]
    + rng.normal(0, 80, len(table))
)

fit = rf.Model("ms ~ letters + (1 | reader) + (1 | word)").fit(table, progress=False)
print(fit.summary())

# %%
# Without the intercepts of words, the sd of ``letters`` comes out far too small: the 2,400 rows
# are only 60 words.

naive = rf.Model("ms ~ letters + (1 | reader)").fit(table, progress=False)
for name, each in {"readers and words": fit, "readers alone": naive}.items():
    mean, sd = each.fixef().loc["letters", ["mean", "sd"]]
    print(f"{name}: {mean:.1f} ms for each letter, sd {sd:.1f}")

# %%
# The words that take longest and shortest, given their number of letters.

figure = rf.plots.group_effects(fit, "word", largest=20)
