"""Draws the pictures of README.md and of the site's first page; run it where one has changed.

python docs/pictures/make.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ranef as rf

FOLDER = Path(__file__).parent


def admissions() -> None:
    """The first model of README.md: shares by department as observed, and as the model has them."""
    table = pd.DataFrame(
        {
            "department": list("ABCDEF") * 2,
            "gender": ["men"] * 6 + ["women"] * 6,
            "admitted": [512, 353, 120, 138, 53, 22, 89, 17, 202, 131, 94, 24],
            "applied": [825, 560, 325, 417, 191, 373, 108, 25, 593, 375, 393, 341],
        }
    )
    model = rf.Model("admitted / applied ~ gender + (1 | department)", family="binomial")
    predicted = model.fit(table, progress=False).predict(table)
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for gender, colour, beside in [("men", "#2166ac", -0.12), ("women", "#c0392b", 0.12)]:
        rows = (table["gender"] == gender).to_numpy()
        place = np.arange(6) + beside
        low, high = predicted["lower"][rows], predicted["upper"][rows]
        admitted, applied = table["admitted"][rows], table["applied"][rows]
        axes.vlines(place, low, high, color=colour, linewidth=5, alpha=0.35)
        axes.scatter(place, admitted / applied, np.sqrt(applied) * 1.6, color=colour, label=gender)
        axes.axhline(admitted.sum() / applied.sum(), color=colour, linestyle="--", linewidth=0.9)
    axes.set_xticks(range(6), [f"department {name}" for name in "ABCDEF"], fontsize=8)
    axes.set_ylabel("share admitted")
    axes.set_title("bars: 90% intervals; dashed: all departments together", loc="left", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(FOLDER / "admissions.png", dpi=110)


if __name__ == "__main__":
    admissions()
