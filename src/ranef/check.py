"""The verdict on a fit: symptoms, what each means, what to do, and one word at the end.

trust      nothing speaks against it
caution    something may be off; the symptoms say what
distrust   do not use it as it is
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.inference.convergence import E_BFMI, convergence, energy_fractions
from ranef.posterior import Posterior

VERDICTS = ("trust", "caution", "distrust")

# R-hat beyond which chains have not seen the same posterior, and the share of divergent steps
# beyond which a part of it is missing rather than hard to reach.
_APART, _DIVERGENT = 1.05, 0.01
# The 5% quantile of an sd over its median below which zero cannot be told from it; that of
# |N(0, 1)|, all of whose mass is at the wall, is .09.
_AT_ZERO = 0.15
# Variance inflation (Marquardt, 1970) from which a column is named, and from which only its
# prior tells it from the others.
_INFLATED, _TOLD_BY_PRIOR = 10.0, 1e8


@dataclass(frozen=True)
class Symptom:
    """What was seen.

    Attributes:
        sign: what it is, with its number.
        meaning: what it says of the fit.
        remedy: what to do.
        weight: the verdict that it alone would bring; "trust" for what is only worth knowing.
    """

    sign: str
    meaning: str
    remedy: str
    weight: str

    def __str__(self) -> str:
        return f"{self.sign}: {self.meaning}; {self.remedy}"


@dataclass(frozen=True)
class Check:
    """What `Fit.check` returns; it prints as a few lines.

    Attributes:
        symptoms: the gravest first.
    """

    symptoms: tuple[Symptom, ...]

    @property
    def verdict(self) -> str:
        """The gravest of the symptoms' weights, "trust" without any."""
        return max((s.weight for s in self.symptoms), key=VERDICTS.index, default="trust")

    @property
    def reasons(self) -> tuple[str, ...]:
        """The symptoms as sentences."""
        return tuple(str(symptom) for symptom in self.symptoms)

    def __str__(self) -> str:
        lines = [f"- {reason}" for reason in self.reasons]
        return "\n".join([*(lines or ["nothing speaks against this fit"]), self.verdict])

    __repr__ = __str__


def check(posterior: Posterior) -> Check:
    """The verdict on what a method returned."""
    draws = posterior.draws
    found = list(_chains(posterior) if draws.statistics else _ending(posterior))
    found += [*_boundaries(posterior), *_collinear(posterior)]
    return Check(tuple(sorted(found, key=lambda s: -VERDICTS.index(s.weight))))


def _ending(posterior: Posterior) -> Iterator[Symptom]:
    """Of a method that judges its own end."""
    draws = posterior.draws
    if not draws.converged:
        yield Symptom(
            draws.message,
            "the draws are not of the posterior",
            "compare with method='nuts'",
            "distrust",
        )


def _chains(posterior: Posterior) -> Iterator[Symptom]:
    """R-hat, effective draws, divergences and energies of chains."""
    draws = posterior.draws
    how = convergence({n: draws.sites[n] for n in draws.sites if n not in draws.later})
    if not how.mixed:
        yield Symptom(
            f"R-hat of {how.r_hat_of} is {how.r_hat:.3f}",
            "the chains have not seen the same posterior",
            "raise tune and draws, or give the scales tighter priors",
            "distrust" if how.r_hat > _APART else "caution",
        )
    if not how.enough:
        yield Symptom(
            f"{how.ess_of} has {how.ess:,.0f} effective draws in {how.chains} chains",
            "its mean and interval are noisy",
            "raise draws",
            "caution",
        )
    diverging = draws.statistics.get("diverging", np.zeros((1, 1)))
    if diverging.any():
        yield Symptom(
            f"{int(diverging.sum()):,} of {diverging.size:,} steps diverged",
            "a narrow part of the posterior may be missing",
            "raise target_accept, as in target_accept=0.95",
            "distrust" if diverging.mean() > _DIVERGENT else "caution",
        )
    energy = draws.statistics.get("energy")
    if energy is not None and float(energy_fractions(energy).min()) < E_BFMI:
        yield Symptom(
            f"E-BFMI is {float(energy_fractions(energy).min()):.2f}",
            "the chains move slowly through the tails",
            "raise draws, or give the scales tighter priors",
            "caution",
        )


def _boundaries(posterior: Posterior) -> Iterator[Symptom]:
    """Scales of group effects that the data cannot tell from zero."""
    for name, variable in posterior.variables.items():
        if variable.role != "sd" or isinstance(
            posterior.training.state.priors.get(name), priors.Fixed | priors.PointEstimate
        ):
            continue
        low, middle = np.quantile(posterior.draws.sites[name], [0.05, 0.5])
        if low < _AT_ZERO * middle:
            yield Symptom(
                f"{name} may be zero (5% of its posterior lies below {low:.2g})",
                f"the data do not tell whether anything varies by {variable.factor} here",
                "read its interval, not its mean, or leave the term out",
                "trust",
            )


def _collinear(posterior: Posterior) -> Iterator[Symptom]:
    """Common columns that the others make up."""
    problem = posterior.program.problem(posterior.training)
    for block in problem.structure().values():
        if block is None or block.codes is not None or block.scales or not block.sites:
            continue
        labels = [
            label
            for name, count in block.sites
            for label, _ in posterior.variables[name].elements(name)[:count]
        ]
        for label, inflation in zip(labels, _inflations(np.asarray(block.columns)), strict=True):
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
