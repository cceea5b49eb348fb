"""Checks whether the method converged.

It looks at the method's own criterion, k-hat of importance weights, the trend of the ELBO, and
R-hat, effective draws, divergences and energies of chains.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ranef.check.symptom import Symptom
from ranef.inference.mcmc.identified_draws import comparable
from ranef.numerics.chain_diagnostics import E_BFMI, convergence, energy_fractions
from ranef.numerics.psis import threshold
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior
from ranef.program import posterior_variables

# R-hat beyond which the draws are not to be used.
_APART = 1.05
# Share of divergent steps beyond which the draws are not to be used.
_DIVERGENT = 0.01
# Share of draws that were relabelled, beyond which means of components are unreliable.
_EXCHANGED = 0.01
# The end of a search whose two halves are compared: this share of its steps, ...
_LAST = 0.2
# ... but at most so many steps.
_MOST = 1_000
# Rise of the ELBO from the first half to the second, in nats, beyond which it was still rising.
_NATS = 0.5
# Standard errors that the rise must exceed too.
_ERRORS = 4.0


def own_criterion(posterior: Posterior) -> Iterator[Symptom]:
    """Report that the method's own criterion was not met."""
    draws = posterior.draws
    if not draws.converged:
        yield Symptom(
            draws.message,
            "the draws are not of the posterior",
            "compare with method='nuts'",
            "distrust",
        )


def weights(posterior: Posterior) -> Iterator[Symptom]:
    """Report a high k-hat of the importance weights behind the draws (Vehtari et al., 2024)."""
    k = posterior.draws.k_hat
    if k is not None and posterior.draws.converged and k > threshold(1_000):
        yield Symptom(
            f"k-hat of the importance weights is {k:.2f}",
            "the draws of the scales rest on a few of them",
            "compare with method='nuts'",
            "distrust" if k > 1 else "caution",
        )


def left_out(posterior: Posterior) -> Iterator[Symptom]:
    """Report networks that the fit left out, as they did not predict held-out rows better."""
    for label in posterior.program.left_out(posterior.draws):
        yield Symptom(
            f"{label} predicted the rows held out no better than the model without it",
            "it is left out, and the fit is that of the other terms",
            "scale its inputs, as in nn(scale(x)), or leave it out of the formula",
            "caution",
        )


def trend(posterior: Posterior) -> Iterator[Symptom]:
    """Report an ELBO that was still rising when the search ended."""
    draws = posterior.draws
    trace = np.asarray(draws.trace.get("elbo", ()), np.float64)
    # Where networks alternate with closed forms, the trace has one value for each round and not for
    # each step.
    if draws.elbo is None or len(trace) != draws.steps or not draws.converged:
        return
    rise, error = rising(trace)
    if rise > _NATS and rise > _ERRORS * error:
        yield Symptom(
            f"the ELBO still rose by {rise:.1f} nats at the end of {len(trace):,} steps",
            "the search had not arrived",
            "give more steps, as in steps=50_000, or larger ones by optimizer=",
            "caution",
        )


def rising(trace: Float[NDArray, "steps"]) -> tuple[float, float]:
    """The rise of the ELBO over the last steps, and its standard error.

    It is the mean of the later half less that of the earlier half, in nats. Of fewer than 50 finite
    values the rise is taken as zero, with an infinite standard error.
    """
    last = trace[-min(_MOST, int(_LAST * len(trace))) :]
    last = last[np.isfinite(last)]
    if len(last) < 50:
        return 0.0, math.inf
    before, after = np.array_split(last, 2)
    error = math.hypot(before.std() / math.sqrt(len(before)), after.std() / math.sqrt(len(after)))
    return float(after.mean() - before.mean()), error


def chains(posterior: Posterior) -> Iterator[Symptom]:
    """Report chains with a high R-hat, few effective draws, divergences or a low E-BFMI."""
    draws = posterior.draws
    products = posterior.problem.bilinear
    ready = {n: draws.sites[n] for n in draws.sites if n not in draws.lazy_sites}
    for name, labels in posterior_variables.site_labels(
        posterior.program, posterior.training.state
    ).items():
        if name in ready:
            own = ready.pop(name)
            flat = own.reshape(*own.shape[:2], -1)
            ready |= {label: flat[..., i] for i, label in enumerate(labels)}
    how = convergence(comparable(ready, products))
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
    moved = float(np.mean(draws.statistics.get("relabelled", 0.0)))
    if moved:
        yield Symptom(
            f"in {moved:.1%} of the draws the components stood in another order",
            "they overlap, and draws were put in the order that is nearest to the mean of all",
            "take fewer components, or tell them apart by the priors of their locations",
            "caution" if moved > _EXCHANGED else "trust",
        )
    energy = draws.statistics.get("energy")
    if energy is not None and float(energy_fractions(energy).min()) < E_BFMI:
        yield Symptom(
            f"E-BFMI is {float(energy_fractions(energy).min()):.2f}",
            "the chains move slowly through the tails",
            "raise draws, or give the scales tighter priors",
            "caution",
        )
