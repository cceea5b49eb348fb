"""One contract for the densities of all methods: run by ``tests/inference/test_log_density.py``.

At random points, the log density that a method computes is that of the NumPyro program. So no
shortcut of a method can drift from the model. A method with coefficients integrated out is compared
by p(theta, y) p(b | theta, y) = p(theta, b, y), at any coefficients b.

To put a method under it, add to `DENSITIES` a function that takes a problem and a random number
generator and yields `Point`s, and to `MODELS` what it is tried on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.util import log_density

import ranef as rf
from ranef.inference.advi import guide as guides
from ranef.inference.advi.elbo import Objective
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.hyperparameters.coordinates import Coordinates
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import common_by_site, effects_by_site
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.inference.mcmc.marginal_likelihood import JaxMarginalLikelihood
from ranef.inference.mcmc.targets import JointTarget, MarginalTarget
from ranef.program.problem import Problem, sites_of
from ranef.program.problem_builder import build_problem

POINTS = 3


@dataclass
class Point:
    """Values of the sites, and the log density of these values and the data by the method."""

    sites: dict[str, Any]
    log_density: float


def by_exact(problem: Problem, rng: np.random.Generator) -> Iterator[Point]:
    """The hyperposterior of `exact` times its conditional posterior of the coefficients."""
    mixed = accumulate(problem, "exact")
    marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
    for _ in range(POINTS):
        x = near(marginal.coordinates, marginal.start, rng)
        stated = marginal.log_density(x[None])[0] - log_jacobian(marginal.coordinates, x)
        sites, conditional = with_coefficients(marginal, x, rng)
        yield Point(sites, float(stated + conditional))


def by_laplace(problem: Problem, rng: np.random.Generator) -> Iterator[Point]:
    """The joint density of coefficients and hyperparameters that `laplace` integrates."""
    target = GLMMHyperposterior.of(problem, "laplace", averaged=False)
    mixed, working, n = target.mixed, target.working, problem.n
    shape = n, len(working.layout.predictors)
    for _ in range(POINTS):
        x = near(target.coordinates, target.start, rng)
        values = target.sites(x)
        roots = mixed.roots(target.groups.absolute(values))
        numbers = {name: values[name] for name in target.numbers}
        # Coefficients are those that solve a random working model.
        weights = np.broadcast_to(np.eye(shape[1]), (*shape, shape[1]))
        begin = np.array([problem.predictor_scales[k].start for k in working.layout.predictors])
        right = begin + 0.3 * rng.normal(size=shape)
        q = working.from_working_model(roots, numbers, weights, right)
        # `climbed` has the density of b / Lambda.
        stated = q.climbed + target.coordinates.log_prior(x[None])[0][0]
        stated -= log_jacobian(target.coordinates, x)
        for root, effects in zip(roots, q.solution.effects, strict=True):
            stated -= effects.shape[1] * np.linalg.slogdet(root)[1]
        sites = {**values, **common_by_site(mixed, q.solution.common[0])}
        for term in mixed.groupings:
            sites |= effects_by_site(term, q.solution.effects[term.factor][0])
        yield Point(sites, float(stated))


def by_nuts_marginal(problem: Problem, rng: np.random.Generator) -> Iterator[Point]:
    """The target of chains with coefficients integrated out, times their conditional posterior."""
    mixed = accumulate(problem, "nuts")
    marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
    collapsed = JaxMarginalLikelihood.of(mixed)
    assert collapsed is not None
    target = MarginalTarget.of(
        problem, sites_of(problem, jax.random.key(0)).latents, collapsed, marginal
    )
    density = jax.jit(lambda z: (target.log_density(z, target.data), target.constrained(z)))
    for _ in range(POINTS):
        value, (values, log_det) = density(jnp.asarray(target.start + 0.5 * normal(target, rng)))
        x = marginal.coordinates.inverse({name: np.asarray(v) for name, v in values.items()})
        sites, conditional = with_coefficients(marginal, x, rng)
        yield Point({**sites, **values}, float(value - log_det) + conditional)


def by_nuts_joint(problem: Problem, rng: np.random.Generator) -> Iterator[Point]:
    """The target of the chains of all parameters."""
    target = JointTarget.of(problem, sites_of(problem, jax.random.key(0)).latents)
    latents = target.guide.latents

    def on_the_line(z):
        values = target.constrained(z)[0]
        return jnp.concatenate([jnp.ravel(latents[n].transform.inv(values[n])) for n in latents])

    @jax.jit
    def density(z):
        log_det = jnp.linalg.slogdet(jax.jacobian(on_the_line)(z))[1]
        values = target.constrained(z)[0]
        log_det += log_det_of(latents, values)
        return target.log_density(z, target.data) - log_det, values

    for _ in range(POINTS):
        value, sites = density(jnp.asarray(0.3 * normal(target, rng)))
        yield Point(sites, float(value))


def by_svi(kind: str) -> Callable[[Problem, np.random.Generator], Iterator[Point]]:
    """The integrand log p - log q of the ELBO, plus log q by the map from noise to the sites."""

    def points(problem: Problem, rng: np.random.Generator) -> Iterator[Point]:
        sites = sites_of(problem, jax.random.key(0))
        guide = guides.build(kind, sites.latents, problem)
        objective = Objective(problem, sites, guide, 1)
        begin = objective.init()

        @jax.jit
        def density(params, key):
            integrand = objective.samples_of(params, {}, key, problem.data)[0][0]
            # `samples_of` takes its noise from the same key.
            noise = jax.random.normal(key, (1, guide.size))[0]

            def place(noise):
                return guide.place(guide.sample(params["guide"], noise))

            log_q = jax.scipy.stats.norm.logpdf(noise).sum()
            log_q -= jnp.linalg.slogdet(jax.jacobian(place)(noise))[1]
            values = guide.constrain(place(noise))[0]
            return integrand + log_q - log_det_of(sites.latents, values), values

        for seed in range(POINTS):
            params = jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape), begin)
            value, values = density(params, jax.random.key(seed))
            yield Point(values, float(value))

    return points


def near(coordinates: Coordinates, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random hyperparameters (d,) near a start."""
    return coordinates.canonical((start + 0.4 * rng.normal(size=start.shape))[None])[0]


def normal(target: JointTarget | MarginalTarget, rng: np.random.Generator) -> np.ndarray:
    """Random numbers of the shape of a target's coordinates."""
    return rng.normal(size=target.start.shape)


def log_det_of(latents: Any, values: Any) -> Any:
    """Log |d sites / d their unconstrained values|."""
    out = jnp.zeros(())
    for name, latent in latents.items():
        own = latent.transform.inv(values[name])
        out += jnp.sum(latent.transform.log_abs_det_jacobian(own, values[name]))
    return out


def log_jacobian(coordinates: Coordinates, x: np.ndarray) -> float:
    """Log |d sites / d x| of the hyperparameters, by differences where there is no closed form."""

    def by_differences(values: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> float:
        steps = 1e-6 * np.eye(len(at))
        jacobian = [(values(at + step) - values(at - step)) / 2e-6 for step in steps]
        return float(np.linalg.slogdet(np.array(jacobian))[1])

    out = float(sum(np.log(s.slope(x[i])) for i, s in enumerate(coordinates.scales)))
    for (correlation, _), place in zip(coordinates.correlations, coordinates.slices, strict=True):
        rows = tuple(zip(*correlation.places, strict=True))
        out += by_differences(lambda a, c=correlation, r=rows: c.cholesky(a)[r], x[place])
    for ordered, place in zip(coordinates.ordered, coordinates.ordered_slices, strict=True):
        out += by_differences(ordered.value, x[place])
    return out


def with_coefficients(
    marginal: LMMHyperposterior, x: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, Any], float]:
    """Random coefficients with the hyperparameters x (d,), and their log density given x.

    The quadratic form of the conditional posterior is that of the cross-products.
    """
    mixed = marginal.mixed
    products = mixed.solver.products
    solution, sigma = marginal.solve(x[None])
    sites = {n: np.asarray(v)[0] for n, v in marginal.coordinates.values(x[None]).items()}
    beside = 0.1 * rng.normal(size=mixed.solver.p)
    away = [0.1 * rng.normal(size=b[0].shape) for b in solution.effects]
    sites |= common_by_site(mixed, solution.common[0] + beside)
    for term in mixed.groupings:
        effects = solution.effects[term.factor][0] + away[term.factor]
        sites |= effects_by_site(term, effects)
    # Columns are centred there, which moves the intercept.
    centred = products.centre.transform(products.predictor)[0].T
    fixed = beside @ centred
    square = fixed @ products.common[:-1, :-1] @ fixed
    square += float(sigma[0]) ** 2 * (mixed.precision * beside**2).sum()
    log_det = float(solution.log_det_random[0] + solution.log_det_common[0])
    size = len(beside)
    for f, (root, b) in enumerate(zip(solution.roots, away, strict=True)):
        square += (np.linalg.solve(root[0], b.T) ** 2).sum()
        square += np.einsum("ja,abj,jb->", b, products.own[f], b)
        square += 2 * np.einsum("ja,acj,c->", b, products.cross[f][:, :-1], fixed)
        log_det -= 2 * len(b) * np.linalg.slogdet(root[0])[1]
        size += b.size
    for (f, h), pairs in products.pairs.items():
        left, right = away[f][pairs.left], away[h][pairs.right]
        square += 2 * np.einsum("ma,abm,mb->", left, pairs.values, right)
    variance = float(sigma[0]) ** 2
    return sites, 0.5 * float(log_det - size * np.log(2 * np.pi * variance) - square / variance)


DENSITIES = {
    "exact": {"marginal": by_exact},
    "laplace": {"joint": by_laplace},
    "nuts": {"integrated": by_nuts_marginal, "sampled": by_nuts_joint},
    "svi": {"structured": by_svi("structured"), "meanfield": by_svi("meanfield")},
}
# Densities that are known up to a constant alone.
UP_TO_A_CONSTANT = {"laplace", "nuts"}
_GAUSSIAN = [
    ("y ~ x + (1 + x | g) + (1 | h)", "gaussian"),
    ("weights(y, w) ~ x*f + offset(z) + (x || g)", "gaussian"),
]
MODELS = {
    ("exact", "marginal"): [*_GAUSSIAN, ("y ~ s(x, k=5) + (1 | g)", "gaussian")],
    ("laplace", "joint"): [
        ("hit ~ x + (1 + x | g) + (1 | h)", "bernoulli"),
        ("count ~ x + (1 | g) + offset(log(w))", "negative_binomial"),
        ("grade ~ x + (1 | g)", "ordinal"),
        ("kind ~ x + (1 | g)", "categorical"),
        ("y ~ x + (1 | g); sigma ~ z + (1 | h)", "gaussian"),
        ("y ~ x + (1 | g)", "student"),
    ],
    ("nuts", "integrated"): _GAUSSIAN,
    ("nuts", "sampled"): [
        ("hit ~ x + (1 + x | h)", "bernoulli"),
        ("y ~ x + (1 | h); sigma ~ z", "gaussian"),
    ],
    ("svi", "structured"): [("hit ~ x + (1 + x | h)", "bernoulli")],
    ("svi", "meanfield"): [("count ~ x + (1 | h)", "poisson")],
}


def check_log_density(method: str, which: str, formula: str, family: str, table: dict) -> None:
    """The method's log density is the program's, up to a constant where it is known so."""
    model = rf.Model(formula, family=family)
    program, training = model._learned(table)
    problem = build_problem(program, training)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        points = list(DENSITIES[method][which](problem, rng))
        data = jax.tree.map(jnp.asarray, problem.data)
        joint = jax.jit(lambda sites: log_density(problem.run, (data, problem.n), {}, sites)[0])
        expected = np.array([float(joint(p.sites)) for p in points])
    gaps = np.array([p.log_density for p in points]) - expected
    assert np.ptp(expected) > 1.0, "the points must differ"
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-6)
    if method not in UP_TO_A_CONSTANT:
        np.testing.assert_allclose(gaps, 0.0, atol=1e-6)
