"""The guide's density is that of what it draws, and the program's that of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st
from numpyro.infer.util import log_density

from contract_term import learn
from ranef.inference.advi import guide as guides
from ranef.program.problem import sites_of
from ranef.program.problem_builder import build_problem

FORMULA = "y ~ x + f + (1 + x | g) + (1 | h)"


@pytest.fixture(scope="module")
def parts(grouped):
    program, training = learn(FORMULA, grouped)
    problem = build_problem(program, training)
    sites = sites_of(problem, jax.random.key(0))
    return problem, sites


@pytest.mark.parametrize("kind", ["meanfield", "structured"])
def test_log_density_is_the_change_of_variables_of_its_noise(parts, kind):
    problem, sites = parts
    guide = guides.build(kind, sites.latents, problem)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: a + jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), guide.init()
    )
    noise = jnp.asarray(rng.normal(size=guide.size), jnp.float32)
    jacobian = jax.jit(jax.jacfwd(lambda e: guide.place(guide.sample(params, e))))(noise)
    _, log_det = np.linalg.slogdet(np.asarray(jacobian, dtype=np.float64))
    expected = st.norm.logpdf(np.asarray(noise, dtype=np.float64)).sum() - log_det
    got = guide.log_density(params, guide.sample(params, noise))
    np.testing.assert_allclose(got, expected, rtol=2e-4)


def test_meanfield_is_fully_factorised_and_structured_is_not(parts):
    problem, sites = parts
    for kind, factorised in (("meanfield", True), ("structured", False)):
        guide = guides.build(kind, sites.latents, problem)
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda a, r=rng: a + jnp.asarray(0.3 * r.normal(size=a.shape), a.dtype), guide.init()
        )
        place = jax.jit(jax.jacfwd(lambda e, g=guide, p=params: g.place(g.sample(p, e))))
        jacobian = place(jnp.zeros(guide.size))
        assert (np.count_nonzero(jacobian) == guide.size) == factorised


@pytest.mark.parametrize("following", [True, False])
def test_levels_follow_the_correlation_scales_and_common_effects_or_none_of_them(parts, following):
    problem, sites = parts
    guide = guides.build("structured", sites.latents, problem, following=following)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda a: a + jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), guide.init()
    )
    draw = jax.jit(jax.jacfwd(lambda e: guide.split(guide.place(guide.sample(params, e)))))
    size = {name: np.size(latent.start) for name, latent in sites.latents.items()}
    first = dict(zip(size, np.cumsum([0, *size.values()]), strict=False))
    by_noise = np.asarray(draw(jnp.zeros(guide.size))["(1 + x | g)/effects"])
    for name in ("(1 + x | g)/cholesky", "1|g_sigma/centred", "x|g_sigma/centred", "/common"):
        moved = by_noise[..., first[name] : first[name] + size[name]]
        assert np.any(moved != 0) == following


def test_what_the_search_maximises_is_the_programs_density(parts):
    """Log p of the objective against the NumPyro program at random points."""
    from ranef.inference.advi.elbo import Objective

    problem, sites = parts
    guide = guides.build("meanfield", sites.latents, problem)
    objective = Objective(problem, sites, guide, samples=3)
    params = objective.init()
    key = jax.random.key(4)
    got, _ = jax.jit(objective.samples_of)(params, {}, key, objective.data)

    @jax.jit
    def directly(eps):
        u = guide.sample(params["guide"], eps)
        values, log_det = guide.constrain(guide.place(u))
        log_p, _ = log_density(problem.run, (objective.data, problem.n), {}, values)
        return log_p + log_det - guide.log_density(params["guide"], u)

    expected = [directly(eps) for eps in jax.random.normal(key, (3, guide.size))]
    np.testing.assert_allclose(got, expected, rtol=1e-4)
