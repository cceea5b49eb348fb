"""nuts against closed forms, the exact method, and the program's own density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density

import ranef as rf
from contract_term import learn
from ranef.errors import DataError, OptionError
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.inference.mcmc.marginal_likelihood import JaxMarginalLikelihood
from ranef.inference.mcmc.targets import JointTarget, MarginalTarget
from ranef.program.problem import sites_of
from ranef.program.problem_builder import build_problem

FORMULAS = [
    "y ~ x + (1 | g)",
    "y ~ 0 + x + (1 + x | g) + (1 | h)",
    "y ~ x + (x || g) + (1 | f)",
    "weights(y, w) ~ x + (1 + x + z | g) + (1 + z | f)",
    "y ~ x",
]


def problem_of(formula, table, priors=None):
    if priors is None:
        program, training = learn(formula, table)
    else:
        model = rf.Model(formula, priors=priors)
        program, training = model.program, model._learn(table)
    return build_problem(program, training)


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_collapsed_likelihood_is_that_of_the_solver(formula, grouped):
    """Two derivations of log p(theta | y), one by autodiff in JAX and one in NumPy."""
    table = {**grouped, "f": grouped["f"].copy()}
    problem = problem_of(formula, table, {"Intercept": rf.Flat()} if "0 +" not in formula else {})
    mixed = accumulate(problem, "nuts")
    marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
    x = marginal.start + 0.3 * np.random.default_rng(2).normal(size=(4, len(marginal.start)))
    x = marginal.coordinates.canonical(x)
    values = marginal.coordinates.values(x)
    with jax.enable_x64(True):
        latents = sites_of(problem, jax.random.key(0)).latents
        density = MarginalTarget.of(problem, latents, JaxMarginalLikelihood.of(mixed), marginal)
        expected = marginal.log_density(x) - marginal.coordinates.log_prior(x)[0]

        # Compiled once for all points, since one operation after another would be many times.
        @jax.jit
        def likelihood(at):
            z, prior = [], 0.0
            for name, latent in density.latents.items():
                own = latent.transform.inv(at[name])
                prior += latent.transform.log_abs_det_jacobian(own, at[name]).sum()
                z.append(jnp.ravel(own))
            given = {**density.coefficients, **at}
            prior += sum(
                _log_prior(problem, density.first, given, name) for name in density.latents
            )
            return density.log_density(jnp.concatenate(z), density.data) - prior

        places = [{n: jnp.asarray(values[n][i]) for n in density.latents} for i in range(len(x))]
        found = [float(likelihood(at)) for at in places]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("coefficients", ["integrated", "sampled"])
def test_chains_do_not_wait_for_the_threads_of_lapack(coefficients, grouped):
    """Each chain is a thread: as many as JAX has threads would wait for one another."""
    problem = problem_of("y ~ gp(x, m=14) + (1 + x | g) + (1 | h)", grouped)
    mixed = accumulate(problem, "nuts")
    with jax.enable_x64(True):
        latents = sites_of(problem, jax.random.key(0)).latents
        density = JointTarget.of(problem, latents)
        if coefficients == "integrated":
            marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
            density = MarginalTarget.of(problem, latents, JaxMarginalLikelihood.of(mixed), marginal)
        program = jax.jit(jax.grad(density.log_density)).lower(density.start, density.data)
    assert "lapack" not in program.as_text()


def _log_prior(problem, data, given, name):
    import numpyro

    seeded = numpyro.handlers.seed(problem.run, 0)
    program = numpyro.handlers.substitute(seeded, data=given)
    site = numpyro.handlers.trace(program).get_trace(data, problem.n)[name]
    return jnp.sum(site["fn"].log_prob(given[name]))


@pytest.mark.parametrize("formula", ["y ~ x + f + (1 + x | g)", "y ~ x + (x || g) + (1 | h)"])
def test_the_sampled_density_is_the_programs(formula, grouped):
    """Its coordinates change the program's density by their Jacobian alone."""
    problem = problem_of(formula, grouped)
    with jax.enable_x64(True):
        latents = sites_of(problem, jax.random.key(0)).latents
        density = JointTarget.of(problem, latents)

        def flat(z):
            """The sites on the line, where the program's Jacobian is known."""
            values = density.constrained(z)[0]
            return jnp.concatenate(
                [jnp.ravel(latents[n].transform.inv(v)) for n, v in values.items()]
            )

        @jax.jit
        def gap(z):
            values = density.constrained(z)[0]
            program = log_density(problem.run, (problem.data, problem.n), {}, values)[0]
            jacobian = jnp.linalg.slogdet(jax.jacobian(flat)(z))[1]
            for name, value in values.items():
                own = latents[name].transform.inv(value)
                jacobian += jnp.sum(latents[name].transform.log_abs_det_jacobian(own, value))
            return density.log_density(z, density.data) - program - jacobian

        places = [
            0.3 * jax.random.normal(jax.random.key(seed), density.start.shape) for seed in range(3)
        ]
        gaps = [float(gap(z)) for z in places]
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-6)


def test_known_variances_leave_the_closed_form(dyestuff):
    """Dyestuff, conjugate: mean 1527.5 with sd 19.3834, and nothing to sample."""
    priors = {"Intercept": rf.Flat(), "1|Batch_sigma": 1764.05**0.5, "sigma": 2451.25**0.5}
    fit = rf.Model("Yield ~ 1 + (1 | Batch)", priors=priors).fit(
        dyestuff, method="nuts", draws=50, progress=False
    )
    mean, sd = fit.fixef().loc["Intercept"]
    assert mean == pytest.approx(1527.5, rel=1e-6)
    assert sd == pytest.approx(19.3834, abs=1e-4)
    assert fit.posterior["1|Batch"].shape == (4, 50, 6)


@pytest.fixture(scope="module")
def chains(grouped):
    model = rf.Model("y ~ x + (1 + x | g)")
    return {
        name: model.fit(grouped, method="nuts", coefficients=name, draws=500, tune=300,
                        progress=False)
        for name in ("integrated", "sampled")
    }  # fmt: skip


@pytest.mark.parametrize("coefficients", ["integrated", "sampled"])
def test_agrees_with_the_exact_method(coefficients, chains, grouped):
    fit = chains[coefficients]
    other = rf.Model("y ~ x + (1 + x | g)").fit(grouped, method="exact", draws=10_000)
    own, exact_ = fit.summary(), other.summary()
    assert fit.converged, fit.message
    # A tenth of a posterior sd, and 10% of it, each with room for the error of 500 draws.
    away = (own["mean"] - exact_["mean"]).abs() / exact_["sd"]
    assert (away < 0.15).all()
    np.testing.assert_allclose(own["sd"], exact_["sd"], rtol=0.15)
    effects = (fit.ranef("g")["mean"] - other.ranef("g")["mean"]).abs() / other.ranef("g")["sd"]
    assert (effects < 0.15).all()


def test_the_tree_has_the_statistics_of_the_sampler(chains):
    stats = chains["sampled"].idata["sample_stats"]
    assert set(stats) >= {"diverging", "energy", "acceptance_rate", "n_steps"}
    assert stats["energy"].shape == (4, 500)
    assert 0.6 < float(stats["acceptance_rate"].mean()) < 1


def test_settings_of_the_process_are_left_alone(chains):
    assert not jax.config.jax_enable_x64
    assert jax.local_device_count() == 1


def test_student_responses(grouped):
    """Three groupings of a heavy-tailed response, sampled: the slope is 2 up to noise."""
    fit = rf.Model("y ~ x + (1 | g)", family="student").fit(
        grouped, method="nuts", draws=300, tune=300, chains=2, progress=False
    )
    mean, sd = fit.fixef().loc["x"]
    assert abs(mean - 2) < 5 * sd
    assert "2 chains of 300 draws after 300 to tune, of all parameters" in fit.message


def test_refuses_what_is_a_point_estimate(grouped):
    network = rf.Model("y ~ nn(x, hidden=[3]) + (1 | g)")
    with pytest.raises(OptionError, match=r"the weights of nn\(x, .* are point estimates"):
        network.fit(grouped, method="nuts", progress=False)
    scale = rf.Model("y ~ x + (1 | g)", priors={"1|g_sigma": rf.PointEstimate()})
    with pytest.raises(OptionError, match=r"'1\|g_sigma' is a point estimate"):
        scale.fit(grouped, method="nuts", progress=False)


def test_refuses_columns_that_cannot_be_told_apart(grouped):
    same = {**grouped, "x2": grouped["x"]}
    model = rf.Model("y ~ x + x2 + (1 | g)", priors={"common": rf.Flat()})
    with pytest.raises(DataError, match="'x2' is a combination of those before it"):
        model.fit(same, method="nuts", progress=False)
    flat = {**grouped, "y": np.ones(300)}
    with pytest.raises(DataError, match="the response y is 1 in every row"):
        rf.Model("y ~ x").fit(flat, method="nuts", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains must be a whole number of at least 1"),
        ({"tune": 2.5}, "tune must be a whole number"),
        ({"target_accept": 1.5}, "target_accept must lie between 0 and 1"),
        ({"coefficients": "both"}, "coefficients must be 'integrated' or 'sampled'"),
    ],
)
def test_refuses_options_outside_what_they_may_be(options, message, grouped):
    with pytest.raises(OptionError, match=message):
        rf.Model("y ~ x").fit(grouped, method="nuts", progress=False, **options)


def test_progress_goes_to_standard_error(grouped, capfd, monkeypatch):
    monkeypatch.setattr("ranef.progress._DELAY", 0.0)
    rf.Model("y ~ x").fit(grouped, method="nuts", draws=50, tune=50, chains=1)
    out, err = capfd.readouterr()
    assert not out
    assert "nuts" in err
