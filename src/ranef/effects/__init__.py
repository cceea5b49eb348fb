"""Marginal effects of a fit: predictions, comparisons, slopes, marginal means and hypotheses.

    rf.effects.avg_comparisons(fit, {"x": 10})
    rf.effects.avg_slopes(fit, "x", by="f")
    rf.effects.marginal_means(fit, "f", hypothesis="pairwise")

Functions and arguments have the names and the meaning that they have in R's marginaleffects and
emmeans. Estimates are posterior medians with equal-tailed intervals. Every quantity is computed at
every posterior draw.
"""

from ranef.effects.comparisons import avg_comparisons, comparisons
from ranef.effects.conditional_effects import conditional_effects
from ranef.effects.grids import datagrid
from ranef.effects.hypotheses import hypothesis
from ranef.effects.marginal_means import marginal_means
from ranef.effects.predictions import avg_predictions, predictions
from ranef.effects.slopes import avg_slopes, slopes
from ranef.effects.table import great_table, posterior_draws

__all__ = [
    "avg_comparisons",
    "avg_predictions",
    "avg_slopes",
    "comparisons",
    "conditional_effects",
    "datagrid",
    "great_table",
    "hypothesis",
    "marginal_means",
    "posterior_draws",
    "predictions",
    "slopes",
]
