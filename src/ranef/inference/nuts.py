"""The method `nuts`: the No-U-Turn sampler (Hoffman and Gelman, 2014).

It is the reference for the other methods. For a normal response and linear terms, the coefficients
are integrated out as in ``exact``, by an implementation of its own
(``mcmc.marginal_likelihood``): the chains sample the few scales and correlations, and the
coefficients are drawn from their exact conditional posterior. For all other models the chains
sample all parameters, with whitened common effects and partially centered group effects
(``mcmc.partial_centering``).
"""

from collections.abc import Mapping

import numpy as np

from ranef.errors import OptionError, whole_number
from ranef.inference.base import Draws, Method
from ranef.inference.lmm.degenerate_residual import refuse_without_residual
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import dependent
from ranef.inference.lmm.sufficient_statistics import accumulate_or_reason
from ranef.inference.mcmc.chains import Chains, sample
from ranef.inference.mcmc.identified_draws import comparable
from ranef.inference.mcmc.marginal_likelihood import JaxMarginalLikelihood
from ranef.inference.mcmc.targets import JointTarget, MarginalTarget
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.lazy import jax
from ranef.numerics.chain_diagnostics import Convergence, convergence
from ranef.program.problem import Latent, Problem, sites_of

_COEFFICIENTS = ("integrated", "sampled")


class NUTS(Method):
    """Sampling by parallel chains of the No-U-Turn sampler.

    Options: `chains`, their number; `tune`, the steps of each chain before its draws;
    `target_accept`, the mean acceptance probability, where a higher value gives smaller steps;
    `coefficients`, "integrated" to integrate them out if possible, or "sampled".
    """

    name = "nuts"
    options = {"chains": 4, "tune": 1000, "target_accept": 0.8, "coefficients": "integrated"}

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        chosen = self.settings
        chosen["chains"] = whole_number("chains", chosen["chains"], least=1)
        chosen["tune"] = whole_number("tune", chosen["tune"], least=1)
        accept = chosen["target_accept"]
        if not isinstance(accept, float) or not 0 < accept < 1:
            raise OptionError(f"target_accept must lie between 0 and 1, not {accept!r}")
        if chosen["coefficients"] not in _COEFFICIENTS:
            raise OptionError(
                f"coefficients must be 'integrated' or 'sampled', not {chosen['coefficients']!r}"
            )

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        """Samples the posterior; see `Method.run`. `draws` is the number of each chain.

        Raises:
            OptionError: for a model with point estimates.
            DataError: if the density is not finite at its start, or common columns are linearly
                dependent.
        """
        with jax.enable_x64(True):
            return self._run(problem, seed, draws, progress)

    def _run(self, problem: Problem, seed: int, draws: int, progress: bool) -> Draws:
        """`run` in double precision."""
        site_key, chain_key = jax.random.split(jax.random.key(seed))
        sites = sites_of(problem, site_key)
        if sites.points:
            raise _point_estimate(problem, next(iter(sites.points)))
        density = self._integrated(problem, sites.latents) or JointTarget.of(problem, sites.latents)
        options = {name: self.settings[name] for name in ("chains", "tune", "target_accept")}
        chains = Chains(np.zeros((options["chains"], draws, 0)), {})
        if density.start.size:
            chains = sample(density, key=chain_key, draws=draws, progress=progress, **options)
        values, exchanged = problem.relabel(density.values(chains.z))
        statistics = dict(chains.statistics)
        if exchanged is not None and chains.statistics:
            statistics["relabelled"] = exchanged
        how = convergence(comparable(values, problem.bilinear))
        diverging = int(np.sum(chains.statistics.get("diverging", 0)))
        good = how.mixed and how.enough and not diverging
        found = Draws(
            lambda: values,
            {},
            sites.carried,
            good,
            _message(how, diverging, draws, self.settings, density.about),
            int(np.sum(chains.statistics.get("n_steps", 0))),
            statistics=statistics,
        )
        return density.completed(found, values, chains.z.shape[:2], seed)

    def _integrated(
        self, problem: Problem, latents: Mapping[str, Latent]
    ) -> "MarginalTarget | None":
        """The density with coefficients integrated out; None if not possible or not wanted."""
        if self.settings["coefficients"] == "sampled":
            return None
        mixed = accumulate_or_reason(problem)
        if isinstance(mixed, str) or mixed.mixtures:
            return None
        refuse_without_residual(mixed, problem)
        marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
        try:
            marginal.solve(marginal.start)
        except DependentColumnError as error:
            raise dependent(mixed, error) from None
        collapsed = JaxMarginalLikelihood.of(mixed)
        return MarginalTarget.of(problem, latents, collapsed, marginal) if collapsed else None


def _point_estimate(problem: Problem, name: str) -> OptionError:
    """The error for a model with a point estimate of this name."""
    network = next((label for label in problem.predicts if name.startswith(f"{label}/")), "")
    what = (
        f"the weights of {network} are point estimates"
        if network
        else (f"{name!r} is a point estimate")
    )
    advice = "" if network else "give it a prior or a number, or "
    return OptionError(
        f"method 'nuts' draws every parameter, and {what}, which it would leave where they start; "
        f"{advice}use method='svi'"
    )


def _message(
    how: Convergence, diverging: int, draws: int, settings: Mapping[str, object], about: str
) -> str:
    """How the chains ended, as a sentence."""
    text = (
        f"{settings['chains']} chains of {draws:,} draws after {settings['tune']:,} to tune, "
        f"{about}: "
    )
    if np.isfinite(how.r_hat):
        text += f"R-hat {how.r_hat:.3f} at most, "
    text += f"{how.ess:,.0f} effective draws at least" if np.isfinite(how.ess) else "no scales"
    if diverging:
        text += f", {diverging:,} divergences"
    if not how.mixed:
        return f"not converged: {text}; {how.r_hat_of} has not mixed, so raise tune and draws"
    if diverging:
        return f"{text}; raise target_accept, as in target_accept=0.95"
    return text if how.enough else f"{text}, which is few for {how.ess_of}; raise draws"
