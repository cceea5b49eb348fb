"""Target densities of the chains: of all parameters, or with coefficients integrated out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.inference.advi import guide as guides
from ranef.inference.base import Draws
from ranef.inference.lmm.coefficient_posterior import CoefficientPosterior
from ranef.inference.lmm.integrated_draws import with_coefficients
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import dependent
from ranef.inference.mcmc.marginal_likelihood import JaxMarginalLikelihood
from ranef.inference.mcmc.partial_centering import PartialCentering, centrings
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.lazy import Array, jax, jnp, log_density, numpyro, ravel_pytree
from ranef.numerics.shapes import Float
from ranef.program.problem import Latent, Problem
from ranef.program.training import Rows
from ranef.terms.blocks import LinearBlock

Point = Float[Array, "d"]
Scalar = Float[Array, ""]
ChainDraws = Float[NDArray, "chain draw d"]


@dataclass(frozen=True)
class JointTarget:
    """The posterior density of all parameters, in coordinates z suited to NUTS.

    Common effects (fixed effects) are whitened, and group effects partially centered.

    Attributes:
        problem: the model and its rows.
        guide: maps z to all sites except the group effects.
        centrings: map z to the group effects.
        about: name of the density in messages.
    """

    problem: Problem
    guide: guides.Guide
    centrings: Sequence[PartialCentering]
    about = "of all parameters"

    @classmethod
    def of(cls, problem: Problem, latents: Mapping[str, Latent]) -> "JointTarget":
        """The density of a problem with these sites."""
        guide = guides.build("structured", latents, problem)
        return cls(problem, guide, centrings(problem, latents))

    @property
    def start(self) -> Point:
        """Where the chains begin."""
        return jnp.zeros(self.guide.size)

    @property
    def data(self) -> Rows:
        """The rows."""
        return jax.tree.map(jnp.asarray, self.problem.data)

    def constrained(self, z: Point) -> tuple[dict[str, Array], Scalar]:
        """Values of the sites at z, and log |d site / d z| up to a constant."""
        values, log_det = self.guide.constrain(self.guide.place(z))
        noise = self.guide.split(z)
        blocks = self.problem.blocks(values)
        for centring in self.centrings:
            block = blocks[centring.label]
            own = [noise[name].reshape(block.levels, -1) for name, _ in block.sites]
            eta = jnp.concatenate(own, axis=1)
            effects, log_root = centring.effects(eta, _root(block), values)
            values |= _by_site(block, effects)
            log_det += log_root
        return values, log_det

    def log_density(self, z: Point, data: Rows) -> Scalar:
        """Log p(z | y) up to a constant, in nats."""
        values, log_det = self.constrained(z)
        return log_density(self.problem.run, (data, self.problem.n), {}, values)[0] + log_det

    def values(self, z: ChainDraws) -> dict[str, NDArray]:
        """Draws of all sites, (chain, draw, ...), from z."""
        found = jax.jit(jax.vmap(jax.vmap(lambda z: self.constrained(z)[0])))(jnp.asarray(z))
        return {name: np.asarray(value) for name, value in found.items()}

    def completed(
        self, found: Draws, values: Mapping[str, NDArray], shape: tuple[int, ...], seed: int
    ) -> Draws:
        """The draws as they are, because they have all sites."""
        return found


@dataclass(frozen=True)
class MarginalTarget:
    """The posterior density of the hyperparameters, with the coefficients integrated out.

    Attributes:
        problem: the model and its rows.
        latents: sites of the hyperparameters theta (scales and correlations).
        first: the first row, on which the program is run to compute the prior of theta.
        coefficients: their values in this run, which do not affect the prior of theta.
        collapsed: the marginal likelihood p(y | theta).
        marginal: the hyperposterior in NumPy, from which the coefficients are drawn given theta.
        about: name of the density in messages.
    """

    problem: Problem
    latents: Mapping[str, Latent]
    first: Rows
    coefficients: Mapping[str, Array]
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
        """The density of a problem.

        Args:
            problem: the model and its rows.
            latents: all sites; those of coefficients are left out.
            collapsed: the marginal likelihood.
            marginal: the hyperposterior in NumPy.
        """
        mixed = collapsed.mixed
        held = {name for name, _ in mixed.common}
        held |= {name for grouping in mixed.groupings for name, _ in grouping.sites}
        start = {name: latents[name].transform(latents[name].start) for name in held}
        first = jax.tree.map(lambda a: jnp.asarray(a[:1]), problem.data)
        own = {name: latent for name, latent in latents.items() if name not in held}
        return cls(problem, own, first, start, collapsed, marginal)

    @property
    def start(self) -> Point:
        """Where the chains begin."""
        return ravel_pytree([latent.start for latent in self.latents.values()])[0]

    @property
    def data(self) -> dict[str, Array]:
        """The cross-products of the rows."""
        return jax.tree.map(jnp.asarray, self.collapsed.data)

    def constrained(self, z: Point) -> tuple[dict[str, Array], Scalar]:
        """Values of the hyperparameters at z by site, and log |d site / d z|."""
        separate = ravel_pytree([latent.start for latent in self.latents.values()])[1]
        values, log_det = {}, jnp.zeros(())
        for (name, latent), own in zip(self.latents.items(), separate(z), strict=True):
            values[name] = latent.transform(own)
            log_det += jnp.sum(latent.transform.log_abs_det_jacobian(own, values[name]))
        return values, log_det

    def log_density(self, z: Point, data: Mapping[str, Array]) -> Scalar:
        """Log p(z | y) up to a constant, in nats."""
        values, log_det = self.constrained(z)
        mixed = self.collapsed.mixed
        seeded = numpyro.handlers.seed(self.problem.run, 0)
        program = numpyro.handlers.substitute(seeded, data={**self.coefficients, **values})
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

    def values(self, z: ChainDraws) -> dict[str, NDArray]:
        """Draws of the hyperparameters, (chain, draw, ...), from z."""
        found = jax.jit(jax.vmap(jax.vmap(lambda z: self.constrained(z)[0])))(jnp.asarray(z))
        return {name: np.asarray(value) for name, value in found.items()}

    def completed(
        self, found: Draws, values: Mapping[str, NDArray], shape: tuple[int, ...], seed: int
    ) -> Draws:
        """The result with draws of the coefficients from their exact conditional.

        Args:
            found: the result with draws of the hyperparameters only.
            values: draws of the hyperparameters, (chain, draw, ...) by site.
            shape: number of chains, and of draws of each.
            seed: seed of the draws.

        Raises:
            DataError: for linearly dependent common columns.
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
        return with_coefficients(found, coefficients, lambda: draws)


def _root(block: LinearBlock) -> Float[Array, "k k"]:
    """A Cholesky factor of the prior covariance of a block."""
    factor = jnp.asarray(block.factor)
    return factor if factor.ndim == 2 else jnp.diag(factor)


def _by_site(block: LinearBlock, effects: Float[Array, "levels k"]) -> dict[str, Array]:
    """Coefficients by the sites that hold them, in the sites' shapes."""
    out, start = {}, 0
    for (name, count), shape in zip(block.sites, block.shapes, strict=True):
        lead = () if block.codes is None else (block.levels,)
        out[name] = effects[:, start : start + count].reshape((*lead, *shape))
        start += count
    return out
