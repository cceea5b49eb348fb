"""The densities that chains sample: of all parameters, or with coefficients integrated out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.inference.advi import guide as guides
from ranef.inference.base import Draws
from ranef.inference.lmm.coefficient_posterior import CoefficientPosterior
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import dependent
from ranef.inference.mcmc.marginal_likelihood import JaxMarginalLikelihood
from ranef.inference.mcmc.partial_centering import PartialCentering, centrings
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.lazy import Array, jax, jnp, log_density, numpyro, ravel_pytree
from ranef.program.problem import Latent, Problem
from ranef.terms.blocks import LinearBlock


@dataclass(frozen=True)
class JointTarget:
    """The density of everything, common effects whitened and group effects partly centred.

    Attributes:
        problem: the model and its rows.
        guide: what places z, but for the coefficients of levels.
        centrings: what places these.
    """

    problem: Problem
    guide: guides.Guide
    centrings: Sequence[PartialCentering]
    about = "of all parameters"

    @classmethod
    def of(cls, problem: Problem, latents: Mapping[str, Latent]) -> "JointTarget":
        guide = guides.build("structured", latents, problem)
        return cls(problem, guide, centrings(problem, latents))

    @property
    def start(self) -> Array:
        return jnp.zeros(self.guide.size)

    @property
    def data(self) -> Any:
        return jax.tree.map(jnp.asarray, self.problem.data)

    def constrained(self, z: Array) -> tuple[dict[str, Array], Array]:
        """Values of the sites, and log |d site / d z| up to a constant."""
        values, log_det = self.guide.constrain(self.guide.place(z))
        noise = self.guide.split(z)
        blocks = self.problem.blocks(values)
        for centring in self.centrings:
            block = blocks[centring.label]
            parts = [noise[name].reshape(block.levels, -1) for name, _ in block.sites]
            eta = jnp.concatenate(parts, axis=1)
            effects, own = centring.effects(eta, _root(block), values)
            values |= _by_site(block, effects)
            log_det += own
        return values, log_det

    def log_density(self, z: Array, data: Any) -> Array:
        values, log_det = self.constrained(z)
        return log_density(self.problem.run, (data, self.problem.n), {}, values)[0] + log_det

    def values(self, z: NDArray) -> dict[str, NDArray]:
        """Draws of the sites, (chain, draw, ...)."""
        found = jax.jit(jax.vmap(jax.vmap(lambda z: self.constrained(z)[0])))(jnp.asarray(z))
        return {name: np.asarray(value) for name, value in found.items()}

    def completed(
        self, found: Draws, values: Mapping[str, NDArray], shape: tuple[int, ...], seed: int
    ) -> Draws:
        return found


@dataclass(frozen=True)
class MarginalTarget:
    """The density of the scales and correlations, with the coefficients integrated out.

    Attributes:
        problem: the model and its rows.
        latents: sites of the scales and correlations.
        first: the first row, on which the program says how likely they are beforehand.
        given: values of the coefficients there, which play no part.
        collapsed: the likelihood.
        marginal: the posterior of the coefficients given all this.
    """

    problem: Problem
    latents: Mapping[str, Latent]
    first: Any
    given: Mapping[str, Array]
    collapsed: JaxMarginalLikelihood
    marginal: LMMHyperposterior
    about = "of the scales, coefficients integrated out"

    @classmethod
    def of(
        cls,
        problem: Problem,
        latents: Mapping[str, Latent],
        collapsed: JaxMarginalLikelihood,
        marginal: LMMHyperposterior,
    ) -> "MarginalTarget":
        mixed = collapsed.mixed
        held = {name for name, _ in mixed.common}
        held |= {name for grouping in mixed.groupings for name, _ in grouping.sites}
        given = {name: latents[name].transform(latents[name].start) for name in held}
        first = jax.tree.map(lambda a: jnp.asarray(a[:1]), problem.data)
        own = {name: latent for name, latent in latents.items() if name not in held}
        return cls(problem, own, first, given, collapsed, marginal)

    @property
    def start(self) -> Array:
        return ravel_pytree([latent.start for latent in self.latents.values()])[0]

    @property
    def data(self) -> Any:
        return jax.tree.map(jnp.asarray, self.collapsed.data)

    def constrained(self, z: Array) -> tuple[dict[str, Array], Array]:
        separate = ravel_pytree([latent.start for latent in self.latents.values()])[1]
        values, log_det = {}, jnp.zeros(())
        for (name, latent), own in zip(self.latents.items(), separate(z), strict=True):
            values[name] = latent.transform(own)
            log_det += jnp.sum(latent.transform.log_abs_det_jacobian(own, values[name]))
        return values, log_det

    def log_density(self, z: Array, data: Any) -> Array:
        values, log_det = self.constrained(z)
        mixed = self.collapsed.mixed
        seeded = numpyro.handlers.seed(self.problem.run, 0)
        program = numpyro.handlers.substitute(seeded, data={**self.given, **values})
        trace = numpyro.handlers.trace(program).get_trace(self.first, self.problem.n)
        prior = [jnp.sum(trace[name]["fn"].log_prob(values[name])) for name in self.latents]
        sigma = jnp.ones(())
        if mixed.sigma:
            known = self.problem.priors[mixed.sigma]
            fixed = isinstance(known, priors.Fixed)
            sigma = jnp.asarray(known.value if fixed else values[mixed.sigma])
        blocks = self.problem.blocks(values)
        own = [_root(blocks[grouping.label]) / sigma for grouping in mixed.groupings]
        roots = []
        for f in range(len(mixed.solver.products.widths)):
            inside = [r for g, r in zip(mixed.groupings, own, strict=True) if g.factor == f]
            roots.append(jax.scipy.linalg.block_diag(*inside))
        likelihood = self.collapsed.log_likelihood(roots, sigma, data)
        return likelihood + sum(prior, log_det)

    def values(self, z: NDArray) -> dict[str, NDArray]:
        """Draws of the scales and correlations, (chain, draw, ...)."""
        found = jax.jit(jax.vmap(jax.vmap(lambda z: self.constrained(z)[0])))(jnp.asarray(z))
        return {name: np.asarray(value) for name, value in found.items()}

    def completed(
        self, found: Draws, values: Mapping[str, NDArray], shape: tuple[int, ...], seed: int
    ) -> Draws:
        """The same with draws of the coefficients, given those of the scales.

        Raises:
            DataError: for common columns that cannot be told apart.
        """
        marginal = self.marginal
        x = marginal.coordinates.inverse(values)
        x = np.broadcast_to(x, (*shape, x.shape[-1]))
        flat = x.reshape(math.prod(shape), x.shape[-1])
        coefficients = CoefficientPosterior(marginal, flat, seed, shape[0])
        try:
            draws = coefficients.sites(values)
        except DependentColumnError as error:
            raise dependent(marginal.mixed, error) from None
        return replace(
            found,
            draw=lambda: draws,
            analytic_moments=coefficients.moments,
            lazy_sites=tuple(coefficients.group_sites),
            effect_sampler=lambda: coefficients.effects,
        )


def _root(block: LinearBlock) -> Array:
    factor = jnp.asarray(block.factor)
    return factor if factor.ndim == 2 else jnp.diag(factor)


def _by_site(block: LinearBlock, effects: Array) -> dict[str, Array]:
    """Coefficients (levels, k) as the sites that hold them."""
    out, start = {}, 0
    for (name, count), shape in zip(block.sites, block.shapes, strict=True):
        lead = () if block.codes is None else (block.levels,)
        out[name] = effects[:, start : start + count].reshape((*lead, *shape))
        start += count
    return out
