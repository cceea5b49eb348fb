"""Monte Carlo estimates of the evidence lower bound (ELBO) of a problem.

    ELBO = E_q[log p(y, z) - log q(z)]

The samples are reparameterised (Kucukelbir et al., 2017), so that they can be differentiated in the
variational parameters. The gradient omits the direct derivative of log q in these parameters, whose
expectation is zero; what is left, the path derivative, has a variance that vanishes as q approaches
the posterior (Roeder, Wu and Duvenaud, 2017).
"""

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ranef.inference.advi import guide as guides
from ranef.lazy import Array, jax, jnp, log_density, numpyro
from ranef.numerics.shapes import Float
from ranef.program.networks import MutableState
from ranef.program.problem import Problem, Sites
from ranef.program.training import Rows

Latents = Float[Array, "z"]
Scalar = Float[Array, ""]


class AscentParams(TypedDict):
    """What a search moves: the variational parameters, and the point estimates by site.

    The point estimates are changes of the unconstrained start, in units of each.
    """

    guide: guides.GuideParams
    points: dict[str, Array]


class Objective:
    """The ELBO of a problem as a function of the variational parameters.

    Args:
        problem: the model and its rows.
        sites: its sites.
        guide: the variational family.
        samples: number of draws from the guide in each estimate.
    """

    def __init__(self, problem: Problem, sites: Sites, guide: guides.Guide, samples: int) -> None:
        self.problem, self.sites, self.guide, self.samples = problem, sites, guide, samples
        self.data = problem.data

    def init(self) -> AscentParams:
        """The parameters where a search begins."""
        zeros = {name: jnp.zeros_like(p.start) for name, p in self.sites.points.items()}
        return {"guide": self.guide.init(), "points": zeros}

    def points(self, params: AscentParams) -> dict[str, Array]:
        """Values of the point estimates by site."""
        return {
            name: p.transform(p.start + p.unit * params["points"][name])
            for name, p in self.sites.points.items()
        }

    def samples_of(
        self, params: AscentParams, carried: MutableState, key: Array, data: Rows
    ) -> tuple[Float[Array, "samples"], MutableState]:
        """Unbiased samples of the ELBO, on all rows or a minibatch.

        Args:
            params: variational parameters and point estimates.
            carried: state that the program updates, by site.
            key: key of the random numbers.
            data: the rows.

        Returns:
            log p(y, z) - log q(z) for each draw of z, in nats, and the updated state.
        """
        noise = jax.random.normal(key, (self.samples, self.guide.size))
        points = self.points(params)
        fixed = jax.lax.stop_gradient(params["guide"])

        def one(eps: Latents, own: Array) -> tuple[Scalar, MutableState]:
            # A network with a state may draw random numbers, as for dropout. Each sample gets its
            # own key.
            run = numpyro.handlers.seed(self.problem.run, own) if carried else self.problem.run
            u = self.guide.sample(params["guide"], eps)
            values, log_det = self.guide.constrain(self.guide.place(u))
            given = {**values, **points, **{name: dict(v) for name, v in carried.items()}}
            log_p, trace = log_density(run, (data, self.problem.n), {}, given)
            updated = {name: trace[name]["value"] for name in carried}
            return log_p + log_det - self.guide.log_density(fixed, u), updated

        keys = jax.random.split(jax.random.fold_in(key, 1), self.samples)
        values, updated = jax.vmap(one)(noise, keys)
        return values, jax.tree.map(lambda a: a[0], updated)

    def draw(self, params: AscentParams, key: Array, draws: int) -> dict[str, NDArray]:
        """Draws of every latent site from the guide, (1, draws, ...) by site.

        Args:
            params: variational parameters.
            key: key of the random numbers.
            draws: number of draws.
        """

        @jax.jit
        def all_draws(
            params: guides.GuideParams, noise: Float[Array, "draws z"]
        ) -> dict[str, Array]:
            def one(eps: Latents) -> dict[str, Array]:
                z = self.guide.place(self.guide.sample(params, eps))
                return self.guide.constrain(z)[0]

            return jax.vmap(one)(noise)

        noise = jax.random.normal(key, (draws, self.guide.size))
        out = all_draws(params["guide"], noise)
        return {name: np.asarray(value)[None] for name, value in out.items()}
