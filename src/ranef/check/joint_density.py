"""The log joint density of a fit's program, and the same with the group effects integrated out.

Let b be the group effects and phi all other parameters: scales, correlations, common effects,
family parameters. The group effects are integrated out at each draw of phi,

    log p(phi | y) = f(phi, b*) - 1/2 log|A / 2 pi| + log E[exp(f - f* + (b - b*)' A (b - b*) / 2)]

up to a constant, where f is the program's log joint density, b* is its mode in b, f* = f(phi, b*),
A is the negative Hessian in b at the mode, and the expectation is over b ~ N(b*, A^-1). The first
two parts are Laplace's approximation. The last part corrects it by a few antithetic draws of b.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.check.deadline import Deadline
from ranef.lazy import Array, ArrayLike, jax, jnp, log_density, numpyro, ravel_pytree
from ranef.numerics.jax_cholesky import cholesky, solve, solve_columns
from ranef.numerics.shapes import Float, Int
from ranef.posterior.posterior import Posterior
from ranef.program.problem import Latent, Problem, sites_of
from ranef.program.training import Rows
from ranef.terms.blocks import LinearBlock

Vector = Float[Array, "d"]
Effects = Float[Array, "m"]
Scalar = Float[Array, ""]
# One matrix for each row of `JointDensity.index`.
Blocks = Float[Array, "rows k k"]
# Values, by site, that are known and not drawn. The value of a network is a dict of its variables.
Fixed = dict[str, Any]

# Antithetic pairs of draws of b at each draw of phi.
_PAIRS = 8
# Steps of Newton's method for the mode in b, at most.
_STEPS = 50
# Draws of phi that the compiled function evaluates at once.
_BATCH = 40


@dataclass(frozen=True)
class JointDensity:
    """The log joint density of a fit's program, as a function of unconstrained phi and b.

    Attributes:
        problem: the model and its rows.
        latents: the latent sites of the program, by name.
        inner: the sites of the group effects b.
        index: positions in the flat vector b. With a single grouping, row j holds the k effects of
            level j; with several, all effects stand in one row. The Hessian in b is
            block-diagonal over these rows.
        fixed: values of the sites that are not drawn: point estimates, and the state that the
            program carries.
    """

    problem: Problem
    latents: dict[str, Latent]
    inner: tuple[str, ...]
    index: Int[NDArray, "rows k"]
    fixed: Fixed

    @classmethod
    def of(cls, posterior: Posterior, problem: Problem) -> "JointDensity":
        """The density of a fit's program for the rows of `problem`."""
        draws = posterior.draws
        latents = dict(sites_of(problem, jax.random.key(0)).latents)
        blocks = grouped_blocks(problem)
        inner = tuple(name for block in blocks for name, _ in block.sites if name in latents)
        index = _by_level(latents, inner, {block.grouping for block in blocks})
        fixed = {**draws.points, **{name: dict(v) for name, v in draws.carried.items()}}
        problem = replace(problem, data=jax.tree.map(jnp.asarray, problem.data))
        return cls(problem, latents, inner, index, fixed)

    @property
    def parameters(self) -> int:
        """The dimension of phi."""
        return sum(int(np.size(self.latents[name].start)) for name in self.outer)

    @property
    def outer(self) -> tuple[str, ...]:
        """The sites of phi."""
        return tuple(name for name in self.latents if name not in self.inner)

    def separate(self, names: tuple[str, ...]) -> Callable[[Array], list[Array]]:
        """The function that splits a flat unconstrained vector into one array for each site."""
        return ravel_pytree([self.latents[name].start for name in names])[1]

    def flat(
        self, names: tuple[str, ...], sites: Mapping[str, Float[NDArray, "draws ..."]]
    ) -> Float[NDArray, "draws d"]:
        """Unconstrained coordinates of draws of the named sites."""
        size = len(next(iter(sites.values())))
        parts = [
            np.asarray(self.latents[name].transform.inv(jnp.asarray(sites[name]))).reshape(size, -1)
            for name in names
        ]
        return np.concatenate([np.zeros((size, 0)), *parts], axis=1)

    def values(self, names: tuple[str, ...], z: Vector) -> dict[str, Array]:
        """Values of the named sites, by name, at the flat unconstrained vector z."""
        return {
            name: self.latents[name].transform(own)
            for name, own in zip(names, self.separate(names)(z), strict=True)
        }

    def log_density(self, phi: Vector, b: Effects) -> Scalar:
        """f(phi, b): the log joint density with the log Jacobian of phi's transforms."""
        inner = self.values(self.inner, b) if self.inner else {}
        values = {**self.values(self.outer, phi), **inner}
        return self.at(values, self.problem.data) + self.log_jacobian(self.outer, phi)

    def log_jacobian(self, names: tuple[str, ...], z: Vector) -> Scalar:
        """Log |d sites / d z| of the named sites at the flat unconstrained vector z."""
        out = jnp.zeros(())
        values = self.values(names, z)
        for name, own in zip(names, self.separate(names)(z), strict=True):
            out = out + jnp.sum(
                self.latents[name].transform.log_abs_det_jacobian(own, values[name])
            )
        return jnp.asarray(out)

    def at(self, values: Mapping[str, Array], data: Rows) -> Scalar:
        """The program's log joint density at values of all sites, for the rows in `data`."""
        # The fixed seed makes layers that draw random numbers, such as dropout, deterministic.
        run = numpyro.handlers.seed(self.problem.run, 0) if self.fixed else self.problem.run
        found = log_density(run, (data, self.problem.n), {}, {**values, **self.fixed})[0]
        return jnp.asarray(found)

    def marginal(
        self, phi: Vector, start: Effects, noise: Float[Array, "pairs m"]
    ) -> tuple[Scalar, Effects, Effects]:
        """Estimate log p(phi, y) and the conditional moments of b given phi.

        Args:
            phi: unconstrained.
            start: where the search for the mode in b starts.
            noise: standard normal draws; each makes an antithetic pair.

        Returns:
            The log density up to a constant, the mean of b and its second moment.
            Without group effects the last two have no meaning.
        """
        if not self.inner:
            return self.log_density(phi, start), start, start
        b, root = self._mode(phi, start)
        # b = b* +- L'^-1 e with A = L L', so that the quadratic form (b - b*)' A (b - b*) is e'e.
        steps = jax.vmap(lambda e: self._in_order(solve(root, e[self.index], transposed=True)))(
            noise
        )
        draws = jnp.concatenate([b + steps, b - steps])
        values = jax.vmap(lambda own: self.log_density(phi, own))(draws)
        squares = jnp.tile(0.5 * jnp.sum(noise**2, axis=1), 2)
        ratios = jnp.nan_to_num(values + squares, nan=-jnp.inf, posinf=-jnp.inf)
        log_mean = jax.scipy.special.logsumexp(ratios) - jnp.log(len(ratios))
        log_det = jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)))
        weights = jax.nn.softmax(ratios)
        mean = weights @ draws
        # A variance estimated from so few draws would be noisy, so that of N(b*, A^-1) is used.
        # The weighted mean is b* + sum_i (w_i+ - w_i-) d_i over the antithetic pairs b* +- d_i.
        # Its Monte Carlo variance is therefore about sum_i (w_i+ - w_i-)^2 times the variance of
        # b, by which mean^2 is too large on average; the variance is reduced by the same amount.
        noise_of_mean = jnp.sum((weights[: len(noise)] - weights[len(noise) :]) ** 2)
        variance = self._in_order(self._variances(root)) * (1 - noise_of_mean)
        return log_mean - log_det, mean, variance + mean**2

    def _variances(self, root: Blocks) -> Float[Array, "rows k"]:
        """The diagonals of the blocks of A^-1, from their Cholesky factors L.

        They are the squared lengths of the columns of L^-1.
        """
        units = jnp.broadcast_to(jnp.eye(root.shape[-1]), root.shape)
        return jnp.sum(solve_columns(root, units) ** 2, axis=-2)

    def _in_order(self, by_level: Float[Array, "rows k"]) -> Effects:
        """Numbers by level, put into the order of the flat vector b."""
        return jnp.zeros(self.index.size).at[self.index].set(by_level)

    def _mode(self, phi: Vector, start: Effects) -> tuple[Effects, Blocks]:
        """The mode b* and the Cholesky factors of A's blocks.

        By damped Newton steps: the damping is a multiple of the Hessian's diagonal that grows
        after a step that lowers f and shrinks after one that does not.
        """
        gradient = jax.grad(lambda b: self.log_density(phi, b))

        def negative_hessian(b: Effects) -> Blocks:
            # A has no entries between levels, so that one Hessian-vector product gives one column
            # of every level's block.
            def column(e: Array) -> Array:
                unit = self._in_order(jnp.broadcast_to(e, self.index.shape))
                return jax.jvp(gradient, (b,), (unit,))[1][self.index]

            return -jnp.moveaxis(jax.vmap(column)(jnp.eye(self.index.shape[1])), 0, -1)

        def step(state: tuple) -> tuple:
            b, f, damping, k, _ = state
            slope, a = gradient(b), negative_hessian(b)
            ridge = jnp.maximum(jnp.abs(jnp.diagonal(a, axis1=-2, axis2=-1)), 1e-8)
            root = cholesky(a + damping * ridge[..., None] * jnp.eye(a.shape[-1]))
            move = self._in_order(solve(root, solve(root, slope[self.index]), transposed=True))
            new = b + move
            after = self.log_density(phi, new)
            good = jnp.isfinite(after) & (after >= f - 1e-9 * (1 + jnp.abs(f)))
            done = good & (jnp.dot(slope, move) < 1e-8)
            less = jnp.where(damping < 1e-3, 0.0, damping / 10)
            more = jnp.maximum(10 * damping, 1e-2)
            return (
                jnp.where(good, new, b),
                jnp.where(good, after, f),
                jnp.where(good, less, more),
                k + 1,
                done,
            )

        def going(state: tuple) -> Array:
            return (~state[4]) & (state[3] < _STEPS)

        f = self.log_density(phi, start)
        begin = (start, f, jnp.zeros(()), jnp.zeros((), int), jnp.zeros((), bool))
        b = jax.lax.while_loop(going, step, begin)[0]
        return b, cholesky(negative_hessian(b))

    @cached_property
    def _compiled(self) -> Callable[[Array, Array, ArrayLike], tuple[Array, Array, Array]]:
        def every(
            phi: Float[Array, "n d"], start: Effects, noise: Float[Array, "n pairs m"]
        ) -> tuple[Float[Array, "n"], Float[Array, "n m"], Float[Array, "n m"]]:
            return jax.vmap(lambda own, e: self.marginal(own, start, e))(phi, noise)

        return jax.jit(every)

    def marginals(
        self,
        phi: Float[NDArray, "n d"],
        start: Float[NDArray, "m"],
        rng: np.random.Generator,
        deadline: Deadline,
    ) -> tuple[Float[NDArray, "n"], Float[NDArray, "n effects"], Float[NDArray, "n effects"]]:
        """Evaluate `marginal` at many values of phi.

        Args:
            phi: unconstrained.
            start: where each search for the mode in b starts.
            rng: draws the noise.
            deadline: when to stop.

        Returns:
            Log densities, means and second moments of b. Where one of them is
            not finite the log density is minus infinity and the moments are zero.

        Raises:
            OutOfTimeError: if the deadline passes.
        """
        # Without group effects one unused number takes the place of b, as arrays in the compiled
        # loop must not be empty.
        start = start if len(start) else np.zeros(1)
        noise = rng.standard_normal((len(phi), _PAIRS, len(start)))
        parts = []
        for first in range(0, len(phi), _BATCH):
            deadline.tick()
            # The last batch is padded, so that all batches share one compiled function.
            own = np.minimum(np.arange(first, first + _BATCH), len(phi) - 1)
            found = self._compiled(jnp.asarray(phi[own]), jnp.asarray(start), noise[own])
            parts.append([np.asarray(part)[: len(phi) - first] for part in found])
        value, mean, square = (np.concatenate(part) for part in zip(*parts, strict=True))
        fine = np.isfinite(value) & np.isfinite(mean).all(axis=1) & np.isfinite(square).all(axis=1)
        mean, square = (np.where(fine[:, None], part, 0.0) for part in (mean, square))
        return np.where(fine, value, -np.inf), mean, square


def _by_level(
    latents: Mapping[str, Latent], inner: Sequence[str], groupings: Collection[str]
) -> Int[NDArray, "rows k"]:
    """The `index` of a `JointDensity`: levels x k for one grouping, 1 x m for several."""
    parts, first = [], 0
    for name in inner:
        shape = np.shape(latents[name].start)
        size = int(np.prod(shape))
        parts.append(np.arange(first, first + size).reshape(shape[0], -1))
        first += size
    if len(groupings) == 1 and len({len(part) for part in parts}) == 1:
        return np.concatenate(parts, axis=1)
    return np.arange(first)[None]


def grouped_blocks(problem: Problem) -> list[LinearBlock]:
    """The linear blocks of group effects, those with a coefficient vector for each level."""
    return [b for b in problem.unit_blocks().values() if b is not None and b.codes is not None]
