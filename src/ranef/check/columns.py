"""What the rows cannot tell: scales from zero, columns from each other."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.symptom import Symptom
from ranef.posterior import Posterior

# The 5% quantile of an sd over its median below which zero cannot be told from it; that of
# |N(0, 1)|, all of whose mass is at the wall, is .09.
_AT_ZERO = 0.15
# Variance inflation (Marquardt, 1970) from which a column is named, and from which only its
# prior tells it from the others.
_INFLATED, _TOLD_BY_PRIOR = 10.0, 1e8


def boundaries(posterior: Posterior) -> Iterator[Symptom]:
    """Scales of group effects that the data cannot tell from zero."""
    for name, variable in posterior.variables.items():
        if variable.role != "sd" or isinstance(
            posterior.training.state.priors.get(name), priors.Fixed | priors.PointEstimate
        ):
            continue
        low, middle = np.quantile(posterior.sd_draws(name), [0.05, 0.5])
        if low < _AT_ZERO * middle:
            yield Symptom(
                f"{name} may be zero (5% of its posterior lies below {low:.2g})",
                f"the data do not tell whether anything varies by {variable.factor} here",
                "read its interval, not its mean, or leave the term out",
                "trust",
            )


def collinear(posterior: Posterior) -> Iterator[Symptom]:
    """Common columns that the others make up."""
    for labels, columns in common(posterior):
        for label, inflation in zip(labels, _inflations(columns), strict=True):
            if inflation < _INFLATED:
                continue
            lost = inflation > _TOLD_BY_PRIOR
            times = np.sqrt(inflation)
            sign = f"{label} is a combination of the other columns"
            yield Symptom(
                sign if lost else f"{label} is nearly a combination of the other columns",
                "only its prior tells their effects apart"
                if lost
                else f"the sd of its effect is {times:,.1f} times what it would be alone",
                "leave one of them out, or read their effects together",
                "caution" if lost else "trust",
            )


def common(
    posterior: Posterior, parameter: str | None = None
) -> Iterator[tuple[list[str], NDArray[np.float64]]]:
    """Labels and columns (n, k) of every block of common effects, of one family parameter or all.

    Rows that were read in batches are represented by the sample that is held.
    """
    training = posterior.program.as_written(posterior.training)
    problem = posterior.program.problem(training)
    for term, block in problem.structure().items():
        if block is None or block.codes is not None or block.scales or not block.sites:
            continue
        if parameter is not None and problem.predicts[term] != parameter:
            continue
        if any(name not in posterior.variables for name, _ in block.sites):
            continue  # weights of a network
        labels = [
            label
            for name, count in block.sites
            for label, _ in posterior.variables[name].elements(name)[:count]
        ]
        yield labels, np.asarray(block.columns, np.float64)


def _inflations(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 - R_j^2) of each column on the others; 0 for one that does not vary."""
    away = columns - columns.mean(axis=0)
    size = np.linalg.norm(away, axis=0)
    varies = size > 1e-11 * np.linalg.norm(columns, axis=0)
    out = np.zeros(columns.shape[1])
    if varies.any():
        unit = away[:, varies] / size[varies]
        _, values, directions = np.linalg.svd(unit, full_matrices=False)
        values = np.maximum(values, 1e-8)
        out[varies] = ((directions / values[:, None]) ** 2).sum(axis=0)
    return out
