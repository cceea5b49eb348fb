"""The reference where nothing integrates in closed form, for small models of any family.

With phi the scales, correlations, common effects and whatever else is not a group effect b,

    log p(phi | y) = f(phi, b*) - 1/2 log|A / 2 pi| + log E[exp(f - f* + (b - b*)' A (b - b*) / 2)]

with f the program's log joint, b* its mode in b, A the negative Hessian there (a Schur
complement: b is integrated out) and the expectation over b ~ N(b*, A^-1). The last part corrects
Laplace's approximation by a few antithetic draws: unbiased for p, so that importance draws of phi
have the posterior itself for their target, not its approximation (Tran et al., 2013).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import solve_triangular
from numpy.typing import NDArray
from numpyro.distributions.transforms import ExpTransform
from numpyro.infer.util import log_density

from ranef.check.reference import Reference, normal_k_hat, scale_coordinate
from ranef.errors import RanefError
from ranef.inference.base import Latent, Problem, sites_of
from ranef.inference.pareto import smoothed
from ranef.inference.proposal import Mixture, adapted
from ranef.inference.triangles import cholesky, solve
from ranef.posterior import Posterior

Numbers = NDArray[np.float64]

# Parameters beside the group effects, and numbers that an evaluation goes through, at most.
_PARAMETERS, _COST = 20, 100_000
# Columns above which a block is factored by LAPACK.
_NARROW = 6
# Values of phi in each round, rounds, and pairs of draws of b at each.
_SIZE, _ROUNDS, _PAIRS = 1_000, 4, 8
# Newton steps at most, and side by side.
_STEPS, _BATCH = 50, 40
# The reference is taken once k-hat is under this.
_GOOD = 0.5


def sampled(posterior: Posterior) -> Reference | None:
    """None for a model that is too large, or whose weights cannot be relied on."""
    problem = posterior.program.problem(posterior.training)
    if problem.windows:
        return None
    try:
        with jax.enable_x64(True):
            joint = Joint.of(posterior, problem)
            return joint and _compared(posterior, joint)
    except (RanefError, FloatingPointError, np.linalg.LinAlgError):
        return None


@dataclass(frozen=True)
class Joint:
    """The log joint density of a fit's program, in phi and b, unconstrained.

    Attributes:
        problem: the model and its rows.
        latents: its sites.
        inner: sites of the group effects, b.
        index: (J, k) places in b: of the J levels of a grouping that is alone, or all in one.
        given: point estimates and state, as the fit has them.
    """

    problem: Problem
    latents: dict[str, Latent]
    inner: tuple[str, ...]
    index: NDArray[np.int64]
    given: dict[str, Any]

    @classmethod
    def of(cls, posterior: Posterior, problem: Problem) -> "Joint | None":
        """None where it is too large."""
        draws = posterior.draws
        latents = dict(sites_of(problem, jax.random.key(0)).latents)
        blocks = [
            block
            for block in problem.structure().values()
            if block is not None and block.codes is not None
        ]
        inner = tuple(name for block in blocks for name, _ in block.sites if name in latents)
        index = _by_level(latents, inner, {block.grouping for block in blocks})
        m = index.size
        d = sum(np.size(latent.start) for latent in latents.values()) - m
        # What one evaluation goes through: a product with the rows for each column of a block,
        # and the factors.
        width = max(index.shape[1], 1)
        cost = width * (problem.n + m) + m * width**2
        if not 0 < d <= _PARAMETERS or cost > _COST:
            return None
        given = {**draws.points, **{name: dict(v) for name, v in draws.carried.items()}}
        problem = replace(problem, data=jax.tree.map(jnp.asarray, problem.data))
        return cls(problem, latents, inner, index, given)

    @property
    def outer(self) -> tuple[str, ...]:
        return tuple(name for name in self.latents if name not in self.inner)

    def separate(self, names: tuple[str, ...]) -> Any:
        """From a flat array to one for each site."""
        return ravel_pytree([self.latents[name].start for name in names])[1]

    def flat(self, names: tuple[str, ...], sites: Any) -> Numbers:
        """Draws of the sites (S, ...) in unconstrained coordinates, (S, size)."""
        size = len(next(iter(sites.values())))
        parts = [
            np.asarray(self.latents[name].transform.inv(jnp.asarray(sites[name]))).reshape(size, -1)
            for name in names
        ]
        return np.concatenate([np.zeros((size, 0)), *parts], axis=1)

    def values(self, names: tuple[str, ...], z: Array) -> dict[str, Array]:
        return {
            name: self.latents[name].transform(own)
            for name, own in zip(names, self.separate(names)(z), strict=True)
        }

    def log_density(self, phi: Array, b: Array) -> Array:
        """f, the Jacobian of phi included."""
        outer = self.values(self.outer, phi)
        inner = self.values(self.inner, b) if self.inner else {}
        log_det = jnp.zeros(())
        for name, own in zip(self.outer, self.separate(self.outer)(phi), strict=True):
            log_det += jnp.sum(self.latents[name].transform.log_abs_det_jacobian(own, outer[name]))
        # What draws as it runs, such as dropout, draws the same each time.
        run = numpyro.handlers.seed(self.problem.run, 0) if self.given else self.problem.run
        values = {**outer, **inner, **self.given}
        return log_density(run, (self.problem.data, self.problem.n), {}, values)[0] + log_det

    def marginal(self, phi: Array, start: Array, noise: Array) -> tuple[Array, Array, Array]:
        """Log p(phi, y), and the mean and second moment of b given phi."""
        if not self.inner:
            return self.log_density(phi, start), start, start
        b, root = self._mode(phi, start)
        # b = b* + L'^-1 e with A = L L', so that the quadratic form is e'e.
        steps = jax.vmap(lambda e: self._spread(solve(root, e[self.index], transposed=True)))(noise)
        draws = jnp.concatenate([b + steps, b - steps])
        values = jax.vmap(lambda own: self.log_density(phi, own))(draws)
        squares = jnp.tile(0.5 * jnp.sum(noise**2, axis=1), 2)
        ratios = jnp.nan_to_num(values + squares, nan=-jnp.inf, posinf=-jnp.inf)
        log_mean = jax.scipy.special.logsumexp(ratios) - jnp.log(len(ratios))
        log_det = jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)))
        mean = jax.nn.softmax(ratios) @ draws
        # Of so few draws the variance would be noisy; that of the normal part is exact.
        return log_mean - log_det, mean, self._spread(self._variances(root)) + mean**2

    def _variances(self, root: Array) -> Array:
        """The diagonal of every A^-1, (J, k): the squared lengths of the columns of L^-1."""
        units = (jnp.broadcast_to(e, self.index.shape) for e in jnp.eye(self.index.shape[1]))
        if self.index.shape[1] <= _NARROW:
            return jnp.stack([jnp.sum(solve(root, e) ** 2, axis=-1) for e in units], axis=-1)
        whole = jnp.broadcast_to(jnp.eye(root.shape[-1]), root.shape)
        return jnp.sum(solve_triangular(root, whole, lower=True) ** 2, axis=-2)

    def _spread(self, by_level: Array) -> Array:
        """Numbers (J, k) by level as the flat b has them."""
        return jnp.zeros(self.index.size).at[self.index].set(by_level)

    def _mode(self, phi: Array, start: Array) -> tuple[Array, Array]:
        """b* and the Cholesky factors of A, (J, k, k), by Newton's method with damping."""
        gradient = jax.grad(lambda b: self.log_density(phi, b))

        def negative_hessian(b: Array) -> Array:
            # Levels do not meet in A: one product has a column of every level's block.
            def column(e: Array) -> Array:
                unit = self._spread(jnp.broadcast_to(e, self.index.shape))
                return jax.jvp(gradient, (b,), (unit,))[1][self.index]

            return -jnp.moveaxis(jax.vmap(column)(jnp.eye(self.index.shape[1])), 0, -1)

        def step(state: tuple) -> tuple:
            b, f, damping, k, _ = state
            slope, a = gradient(b), negative_hessian(b)
            ridge = jnp.maximum(jnp.abs(jnp.diagonal(a, axis1=-2, axis2=-1)), 1e-8)
            root = cholesky(a + damping * ridge[..., None] * jnp.eye(a.shape[-1]))
            move = self._spread(solve(root, solve(root, slope[self.index]), transposed=True))
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
    def _compiled(self) -> Any:
        def every(phi: Array, start: Array, noise: Array) -> tuple[Array, Array, Array]:
            return jax.lax.map(
                lambda own: self.marginal(own[0], start, own[1]), (phi, noise), batch_size=_BATCH
            )

        return jax.jit(every)

    def marginals(
        self, phi: Numbers, start: Numbers, rng: np.random.Generator
    ) -> tuple[Numbers, Numbers, Numbers]:
        """`marginal` at phi (n, d): (n,), (n, m) and (n, m)."""
        # Where there is no b a number stands for it, since nothing goes through a loop empty.
        start = start if len(start) else np.zeros(1)
        noise = rng.standard_normal((len(phi), _PAIRS, len(start)))
        found = self._compiled(jnp.asarray(phi), jnp.asarray(start), jnp.asarray(noise))
        value, mean, square = (np.asarray(part) for part in found)
        fine = np.isfinite(value) & np.isfinite(mean).all(axis=1) & np.isfinite(square).all(axis=1)
        mean, square = (np.where(fine[:, None], part, 0.0) for part in (mean, square))
        return np.where(fine, value, -np.inf), mean, square


def _by_level(
    latents: Mapping[str, Latent], inner: Sequence[str], groupings: Collection[str]
) -> NDArray[np.int64]:
    """Places in b (J, k) level by level, or (1, m) where several groupings share rows."""
    parts, first = [], 0
    for name in inner:
        shape = np.shape(latents[name].start)
        size = int(np.prod(shape))
        parts.append(np.arange(first, first + size).reshape(shape[0], -1))
        first += size
    if len(groupings) == 1 and len({len(part) for part in parts}) == 1:
        return np.concatenate(parts, axis=1)
    return np.arange(first)[None]


def _compared(posterior: Posterior, joint: Joint) -> Reference | None:
    sites = {name: np.asarray(posterior.draws.sites[name], np.float64) for name in joint.latents}
    sites = {name: v.reshape(v.shape[0] * v.shape[1], *v.shape[2:]) for name, v in sites.items()}
    q, effects = joint.flat(joint.outer, sites), joint.flat(joint.inner, sites)
    if not np.isfinite(q).all():
        return None
    rng = np.random.default_rng(0)
    start = effects.mean(axis=0)
    k_hat = None
    if posterior.draws.from_guide:
        # As many as in the rounds below, so that one compiled program serves all.
        at = np.unique(np.linspace(0, len(q) - 1, _SIZE).astype(int))
        k_hat = normal_k_hat(q[at], joint.marginals(q[at], start, rng)[0])
    found = _weighted(joint, q, start, rng)
    if found is None:
        return None
    phi, weights, mean, square = found
    labels, columns, inside, scales = _coordinates(posterior, joint, sites, phi, weights)
    middle = weights @ inside
    away = inside - middle
    right = weights @ mean
    sd = np.sqrt(np.maximum(weights @ square - right**2, 0.0))
    levels, places = {}, 0
    for name in joint.inner:
        own = slice(places, places + np.size(joint.latents[name].start))
        places = own.stop
        part = effects[:, own]
        levels[name] = (part.mean(axis=0), part.std(axis=0, ddof=1), right[own], sd[own])
    covariance = (weights[:, None] * away).T @ away
    effective = 1 / float((weights**2).sum())
    return Reference(labels, columns, middle, covariance, effective, k_hat, scales, levels)


def _weighted(
    joint: Joint, q: Numbers, start: Numbers, rng: np.random.Generator
) -> tuple[Numbers, Numbers, Numbers, Numbers] | None:
    """Weighted draws of phi from all rounds' proposals, which adapt; None if k-hat stays high."""
    d = q.shape[1]
    covariance = np.cov(q.T).reshape(d, d)
    small = 1e-10 * np.diag(np.diagonal(covariance) + 1e-12)
    root = np.asarray(np.linalg.cholesky(covariance + small), np.float64)
    # Wider than q: a guide's sds err on the small side, and a weight can mend what is too wide.
    proposal = Mixture(
        q.mean(axis=0)[None], np.asarray(1.5 * root, np.float64), 5.0, np.ones((1, d))
    )
    for number in range(_ROUNDS):
        phi = proposal.sample(rng, _SIZE)
        value, mean, square = joint.marginals(phi, start, rng)
        ratios = value - proposal.log_density(phi)
        if not np.isfinite(ratios).any():
            return None
        weights, k = smoothed(np.where(np.isfinite(ratios), ratios, -1e300))
        effective = 1 / float((weights**2).sum())
        if k < _GOOD and (effective > 0.4 * _SIZE or number == _ROUNDS - 1):
            return phi, weights, mean, square
        proposal = adapted(rng, phi, weights, np.ones((1, d)))
    return None


def _coordinates(
    posterior: Posterior,
    joint: Joint,
    sites: dict[str, Numbers],
    phi: Numbers,
    weights: Numbers,
) -> tuple[tuple[str, ...], Numbers, Numbers, dict[str, tuple[Numbers, Numbers, Numbers]]]:
    """Labels, the coordinates of the fit's draws and of the reference's, and the scales."""
    mine = jax.vmap(lambda z: joint.values(joint.outer, z))(jnp.asarray(phi))
    labels: list[str] = []
    ours, theirs, scales = [], [], {}
    start = 0
    for name in joint.outer:
        latent = joint.latents[name]
        size = int(np.size(latent.start))
        elements = posterior.site_labels(name, size)
        own, right = sites[name], np.asarray(mine[name])
        if isinstance(latent.transform, ExpTransform):
            right, own = right.reshape(len(right), -1), own.reshape(len(own), -1)
            for i in range(size):
                order = np.argsort(right[:, i])
                cut = np.searchsorted(np.cumsum(weights[order]), 0.5)
                middle = float(right[order[min(cut, len(order) - 1)], i])
                scales[elements[i]] = (own[:, i], right[:, i], weights)
                ours.append(scale_coordinate(own[:, i], middle))
                theirs.append(scale_coordinate(right[:, i], middle))
        else:
            z = joint.flat((name,), {name: own})
            ours.extend(z.T)
            theirs.extend(phi[:, start : start + size].T)
        start += size
        labels += elements
    return tuple(labels), np.column_stack(ours), np.column_stack(theirs), scales
