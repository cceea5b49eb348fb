"""
Prediction: levels that were not in the table
=============================================

A model of pupils in schools is asked about a school that it knows, a school that it does not
know, and schools in general. These are three questions with three answers, and the difference is
in the intervals.

The table is generated.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

rng = np.random.default_rng(0)
school = rng.integers(0, 30, 900)
hours = rng.uniform(0, 10, 900)
score = 50 + 2 * hours + rng.normal(0, 5, 30)[school] + rng.normal(0, 8, 900)
table = pd.DataFrame({"score": score, "hours": hours, "school": school})
fit = rf.Model("score ~ hours + (1 | school)").fit(table, progress=False)

# %%
# - A known school: its own effect, which thirty pupils have told.
# - A new school: ``new_levels="sample"`` draws its effect from the distribution of schools.
# - The population: ``groups=None`` leaves out all effects of schools, and the column is not
#   needed. It is the line at the middle of all schools, not a school.

five = pd.DataFrame({"hours": [5.0], "school": [7]})
answers = {
    "school 7": fit.predict(five),
    "a new school": fit.predict(five.assign(school=99), new_levels="sample"),
    "population": fit.predict(five[["hours"]], groups=None),
}
print(pd.concat(answers).droplevel(1).round(2))

# %%
# Without a word about new levels, an unknown one is refused: it may be a typing error.

try:
    fit.predict(five.assign(school=99))
except rf.DataError as error:
    print(error)

# %%
# The mean of a school is one thing, the score of one of its pupils another: ``kind="response"``
# adds the noise.

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
rows = {name: (answer, "mean") for name, answer in answers.items()}
pupil = fit.predict(five.assign(school=99), kind="response", new_levels="sample")
rows["a pupil of a new school"] = (pupil, "response")
for place, (answer, _) in enumerate(rows.values()):
    middle, low, high = (float(answer[name].iloc[0]) for name in ("mean", "lower", "upper"))
    axes.errorbar([middle], [place], xerr=[[middle - low], [high - middle]], fmt="o", capsize=3)
axes.set_yticks(range(len(rows)), list(rows))
axes.set_xlabel("score after five hours, 90% intervals")
axes.margins(y=0.2)
