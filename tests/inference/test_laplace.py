"""laplace: its density, its gradients, its integrals, and lme4's numbers."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import halfcauchy, nbinom, norm

import ranef as rf
from contract_term import learn
from ranef.errors import OptionError
from ranef.inference.glmm.corrections import AdaptiveQuadrature, SkewnessCorrection
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.glmm.predictor_variances import predictor_covariances
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.program.problem_builder import build_problem


def density(formula, table, family, priors=None):
    model = rf.Model(formula, family=family, priors=priors)
    program, training = model._learned(table)
    return GLMMHyperposterior.of(build_problem(program, training), "laplace")


def fit(formula, table, family, **options):
    keywords = {"method": "laplace", "progress": False, **options}
    return rf.Model(formula, family=family).fit(table, **keywords)


@pytest.mark.parametrize("formula", ["y ~ x + (1 + x | g)", "y ~ x + (1 | g) + (z || h)"])
def test_a_gaussian_response_is_integrated_exactly(formula, grouped):
    program, training = learn(formula, grouped)
    problem = build_problem(program, training)
    exact = LMMHyperposterior.of(
        accumulate(problem, "exact"), problem.priors, problem.residual_scale
    )
    here = GLMMHyperposterior.of(problem, "laplace")
    assert [s.name for s in exact.coordinates.scales] == [s.name for s in here.coordinates.scales]
    rng = np.random.default_rng(0)
    for _ in range(3):
        values = exact.coordinates.values(exact.start + 0.2 * rng.normal(size=len(exact.start)))
        a, b = exact.coordinates.inverse(values), here.coordinates.inverse(values)
        expected, slope = exact.value_and_gradient(a)
        found, gradient = here.value_and_gradient(b)
        jacobians = [
            sum(math.log(s.slope(v)) for s, v in zip(t.coordinates.scales, x, strict=False))
            for t, x in ((exact, a), (here, b))
        ]
        assert found - jacobians[1] == pytest.approx(expected - jacobians[0], abs=1e-5)
        # Their coordinates have units of their own, in which a density has another Jacobian.
        np.testing.assert_allclose(
            _by_scale(here, b, gradient), _by_scale(exact, a, slope), rtol=1e-3, atol=1e-2
        )


def _by_scale(target, x, gradient):
    """The derivative in each scale of the log density of the scales themselves."""
    step = 1e-6
    out = []
    for scale, place, slope in zip(target.coordinates.scales, x, gradient, strict=False):
        above, below = (math.log(scale.slope(place + s)) for s in (step, -step))
        out.append((slope - (above - below) / (2 * step)) / scale.slope(place))
    return out


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("hit ~ x + (1 | g) + (1 | f)", "bernoulli"),
        ("count / trials ~ x + (1 + x | g)", "binomial"),
        ("count ~ x + (1 | g) + offset(log(w))", "negative_binomial"),
        ("grade ~ x + (1 | g)", "ordinal"),
        ("kind ~ x + (1 | g)", "categorical"),
        ("y ~ x + (1 | g); sigma ~ z + (1 | h)", "gaussian"),
        ("y ~ x + (1 | g)", "student"),
    ],
)
def test_the_gradient_is_that_of_the_density(formula, family, grouped):
    target = density(formula, grouped, family)
    rng = np.random.default_rng(1)
    x = target.start + 0.1 * rng.normal(size=len(target.start))
    target.settle(x)
    _, gradient = target.value_and_gradient(x)
    step = 1e-2
    for i in range(len(x)):
        beside = np.zeros_like(x)
        beside[i] = step
        above, below = target.log_density(np.array([x + beside, x - beside]))
        assert gradient[i] == pytest.approx((above - below) / (2 * step), rel=1e-2, abs=2e-2)


HEAVY = {"x": rf.StudentT(3, 0.3, 0.5), "Intercept": rf.Cauchy(1, 2)}


@pytest.mark.parametrize("formula", ["hit ~ x + f", "hit ~ x + (1 | g)", "hit ~ x + (1 + x | g)"])
def test_the_gradient_in_the_scales_of_t_priors(formula, grouped):
    target = density(formula, grouped, "bernoulli", HEAVY)
    if target.working.layout.factors:
        scalar = AdaptiveQuadrature.applies(target.working)
        target.refinement = (AdaptiveQuadrature if scalar else SkewnessCorrection)(target.working)
    x = target.start + 0.3 * np.random.default_rng(1).normal(size=len(target.start))
    target.settle(x)
    _, gradient = target.value_and_gradient(x)
    names = [scale.name for scale in target.coordinates.scales]
    places = [names.index(tail.name) for tail in target.mixed.mixtures]
    assert len(places) == 2
    for i in places:
        beside = np.zeros_like(x)
        beside[i] = 1e-2
        above, below = target.log_density(np.array([x + beside, x - beside]))
        assert gradient[i] == pytest.approx((above - below) / 2e-2, rel=1e-2, abs=2e-3)


def test_t_priors_of_a_gaussian_response_are_exacts(grouped):
    program, training = rf.Model("y ~ x + (1 | g)", priors=HEAVY)._learned(grouped)
    problem = build_problem(program, training)
    exact = LMMHyperposterior.of(
        accumulate(problem, "exact"), problem.priors, problem.residual_scale
    )
    here = GLMMHyperposterior.of(problem, "laplace")
    rng = np.random.default_rng(0)
    at = [exact.start + 0.3 * rng.normal(size=len(exact.start)) for _ in range(2)]
    a = exact.log_density(np.array(at))
    values = [exact.coordinates.values(x) for x in at]
    b = [here.coordinates.inverse(v) for v in values]
    found = here.log_density(np.array(b))

    def jacobian(target, x):
        scales = target.coordinates.scales
        return sum(math.log(s.slope(v)) for s, v in zip(scales, x, strict=True))

    moved = [jacobian(here, y) - jacobian(exact, x) for x, y in zip(at, b, strict=True)]
    np.testing.assert_allclose(found - np.array(moved), a, atol=1e-5)


@pytest.mark.parametrize(("response", "family"), [("y", "gaussian"), ("count", "poisson")])
def test_uniform_priors_cut_the_posterior_under_a_flat_one(grouped, response, family):
    """The draws under flat priors that lie inside the bounds have the posterior of these."""
    formula, upper = f"{response} ~ x + z + (1 | g)", 50.0
    flat = rf.Model(formula, family=family, priors={"x": rf.Flat(), "z": rf.Flat()})
    free = flat.fit(grouped, draws=20_000, progress=False).idata.posterior
    # The bound of z cuts the posterior at its mean, and that of x is far from it.
    middle = float(free["z"].mean())
    bounded = {"x": rf.Uniform(-1e3, 1e3), "z": rf.Uniform(middle, upper)}
    fit = rf.Model(formula, family=family, priors=bounded).fit(grouped, draws=4_000, progress=False)
    assert fit.method == ("exact" if family == "gaussian" else "laplace")
    assert fit.converged
    cut = np.asarray(fit.idata.posterior["z"]).ravel()
    assert cut.min() >= middle
    assert cut.max() <= upper
    inside = np.asarray(free["z"]).ravel() >= middle
    for name in ("Intercept", "x", "z", "1|g_sigma"):
        expected = np.asarray(free[name]).ravel()[inside]
        found = np.asarray(fit.idata.posterior[name]).ravel()
        assert found.mean() == pytest.approx(expected.mean(), abs=0.1 * expected.std()), name
        assert found.std() == pytest.approx(expected.std(), rel=0.1), name
    assert fit.summary().loc["z", "mean"] == pytest.approx(cut.mean(), abs=0.1 * cut.std())
    assert fit.check().verdict in ("trust", "caution", "unchecked")


def test_a_uniform_prior_of_all_common_effects_holds_factors_too(grouped):
    prior = {"common": rf.Uniform(-3.0, 0.5)}
    fit = rf.Model("y ~ x + f + (1 | g)", priors=prior).fit(
        {**grouped, "f": np.array(["a", "b", "c"])[np.arange(len(grouped["y"])) % 3]},
        progress=False,
    )
    assert fit.method == "exact"
    for name in ("x", "f"):
        draws = np.asarray(fit.idata.posterior[name])
        assert draws.min() >= -3.0
        assert draws.max() <= 0.5


def test_cauchy_priors_of_the_bioassay():
    """Gelman, Jakulin, Pittau and Su (2008), against the posterior on a grid."""
    dose = np.array([-0.86, -0.30, -0.05, 0.73])
    table = {"dose": dose, "dead": [0, 1, 3, 5], "n": [5, 5, 5, 5]}
    priors = {"dose": rf.Cauchy(0, 2.5), "Intercept": rf.Cauchy(0, 10)}
    model = rf.Model("dead / n ~ dose", family="binomial", priors=priors)
    fit = model.fit(table, draws=4_000, progress=False)
    assert fit.method == "laplace"
    a, b = np.meshgrid(np.linspace(-6, 8, 561), np.linspace(-5, 60, 1301), indexing="ij")
    log_p = -np.log1p((a / 10) ** 2) - np.log1p((b / 2.5) ** 2)
    for x, dead in zip(dose, table["dead"], strict=True):
        eta = a + b * x
        log_p += dead * eta - 5 * np.logaddexp(0, eta)
    p = np.exp(log_p - log_p.max())
    for name, grid, axis in (("Intercept", a[:, 0], 1), ("dose", b[0], 0)):
        own = p.sum(axis=axis) / p.sum()
        mean = own @ grid
        sd = np.sqrt(own @ (grid - mean) ** 2)
        found = fit.fixef().loc[name]
        assert abs(found["mean"] - mean) < 0.1 * sd
        assert found["sd"] == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("hit ~ x + (1 | g) + (1 | f)", "bernoulli"),
        ("count ~ x + (1 + x | g)", "poisson"),
        ("y ~ x + (1 | g)", "student"),
    ],
)
def test_the_same_place_has_the_same_density_whatever_was_visited(formula, family, grouped):
    target = density(formula, grouped, family)
    target.refinement = SkewnessCorrection(target.working)
    target.settle(target.start)
    rng = np.random.default_rng(2)
    x = target.start + 0.3 * rng.normal(size=(4, len(target.start)))
    first = target.log_density(x)
    whole = [target.value_and_gradient(each) for each in x[::-1]][::-1]
    for _ in range(3):
        target.value_and_gradient(target.start + rng.normal(size=len(target.start)))
        target.near(target.start + rng.normal(size=len(target.start)))
    np.testing.assert_array_equal(target.log_density(x[::-1])[::-1], first)
    for each, (value, gradient) in zip(x, whole, strict=True):
        again, slope = target.value_and_gradient(each)
        assert again == value
        np.testing.assert_array_equal(slope, gradient)


@pytest.mark.parametrize(
    "formula", ["hit ~ x + (1 + z | g)", "hit ~ x + (1 | g) + (1 | f)", "hit ~ (1 | h/g) + (1 | f)"]
)
def test_variances_of_rows_are_those_of_dense_algebra(formula, grouped):
    target = density(formula, grouped, "bernoulli")
    q = target.fit(target.start)
    layout = target.working.layout
    values = target.sites(target.start)
    roots = target.mixed.roots(target.groups.absolute(values))
    columns, precisions = [layout.columns], [np.diag(layout.precision)]
    for factor, root in zip(layout.factors, roots, strict=True):
        n, k = factor.columns.shape
        z = np.zeros((n, factor.levels * k))
        for a in range(k):
            z[np.arange(n), factor.codes * k + a] = factor.columns[:, a]
        columns.append(z)
        precisions.append(np.kron(np.eye(factor.levels), np.linalg.inv(root @ root.T)))
    every = np.concatenate(columns, axis=1)
    prior = np.zeros((every.shape[1],) * 2)
    start = 0
    for p in precisions:
        prior[start : start + len(p), start : start + len(p)] = p
        start += len(p)
    covariance = np.linalg.inv(every.T @ (q.weights[:, 0] * every) + prior)
    expected = np.einsum("np,pq,nq->n", every, covariance, every)
    found = predictor_covariances(q.solution.whole_covariances(), target.working.rows)[:, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_quadrature_is_the_integral_over_each_level():
    """Few rows for each level, where the nearest normal is far off."""
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(30), 3)
    table = {"y": (rng.random(90) < 0.5).astype(int), "g": [f"g{c:02d}" for c in codes]}
    table["y"][:15] = 1
    target = density("y ~ 1 + (1 | g)", table, "bernoulli")
    x = target.coordinates.inverse({"1|g_sigma": np.array(2.0)})
    q = target.fit(x)
    quadrature = AdaptiveQuadrature(target.working)
    found = quadrature._integrated(q, [np.array([[2.0]])], {})
    beta = float(found.beta[0])

    def level(y):
        def integrand(u):
            eta = beta + 2.0 * u
            log = (y * eta - np.logaddexp(0, eta)).sum() - 0.5 * u**2
            return math.exp(log) / math.sqrt(2 * math.pi)

        return math.log(quad(integrand, -12, 12, epsabs=1e-12)[0])

    expected = sum(level(table["y"][codes == c]) for c in range(30))
    assert found.value == pytest.approx(expected, abs=1e-4)
    roots = [np.array([[2.0]])]
    assert quadrature.correction(q, roots, {}) > 0.05
    # The third-order term says most of it, and not all.
    third = SkewnessCorrection(target.working).correction(q, roots, {})
    assert 0.5 < third / quadrature.correction(q, roots, {}) < 1.2


def test_effects_of_large_sds_have_more_nodes():
    """Rows that end with an event leave the effects of large sds as uncertain as their prior.

    With 15 nodes the density is a quarter of a nat too high at an sd of 6.
    """
    rng = np.random.default_rng(8)
    codes, period = np.repeat(np.arange(200), 8), np.tile(np.arange(8), 200)
    event = rng.random(1600) < 0.08
    first = np.array([np.cumsum(event[codes == c]) for c in range(200)]).ravel()
    kept = (first == 0) | (event & (first == 1))
    table = {"y": event[kept] * 1.0, "period": period[kept], "g": codes[kept].astype(str)}
    target = density("y ~ period + (1 | g)", table, "bernoulli")
    target.settle(target.start)
    target.refinement = AdaptiveQuadrature(target.working, may_add=True)
    x = target.coordinates.inverse({"1|g_sigma": np.array(6.0)})
    q, given = target.fit(x), target._roots_and_numbers(x)
    by_rule = target.refinement._integrated(q, *given)
    few, many = (AdaptiveQuadrature(target.working, n)._integrated(q, *given) for n in (15, 251))
    assert by_rule.value == pytest.approx(many.value, abs=5e-3)
    assert abs(few.value - many.value) > 0.2
    _, gradient = target.value_and_gradient(x)
    below, above = target.log_density(np.stack([x - 0.01, x + 0.01]))
    assert gradient[0] == pytest.approx((above - below) / 0.02, rel=2e-2, abs=2e-2)
    # A number of nodes that the user names is kept.
    assert AdaptiveQuadrature(target.working, 15)._integrated(q, *given).value == few.value


def test_cbpp_is_that_of_lme4(reference_data):
    table = pd.read_csv(reference_data / "mixed" / "cbpp.csv").astype({"period": str})
    table["others"] = table["size"] - table["incidence"]
    formula = "incidence / size ~ C(period) + (1 | herd)"
    found = fit(formula, table, "binomial").maximum_likelihood()
    assert found["deviance"] == pytest.approx(184.0526, abs=1e-4)
    expected = [-1.39855, -0.99234, -1.12868, -1.58030]
    np.testing.assert_allclose(found["fixef"]["estimate"], expected, atol=3e-5)
    assert found["varcorr"]["estimate"].iloc[0] == pytest.approx(0.6422, abs=1e-4)
    finer = fit(formula, table, "binomial", quadrature=25)
    best = finer.maximum_likelihood()
    assert best["deviance"] == pytest.approx(183.9667, abs=1e-4)
    assert best["theta"][0] == pytest.approx(0.6475, abs=1e-4)
    assert finer.deviance(best["theta"]) == pytest.approx(best["deviance"], abs=1e-6)
    reverse = fit(formula.replace("incidence", "others"), table, "binomial")
    negated = reverse.maximum_likelihood()["fixef"]["estimate"]
    np.testing.assert_allclose(negated, -found["fixef"]["estimate"], atol=1e-5)
    np.testing.assert_allclose(
        reverse.fixef()["mean"], -fit(formula, table, "binomial").fixef()["mean"], atol=2e-3
    )


def test_verbagg_is_that_of_lme4(reference_data):
    """lme4's search ends where its criterion is 1e-5 above its least."""
    table = pd.read_csv(reference_data / "mixed" / "VerbAgg.csv")
    formula = "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
    likelihood = fit(formula, table, "bernoulli", draws=50)._likelihood
    theta = np.array([1.33954, 0.49524])
    common = np.array([0.19926, 0.05741, 0.32061, -1.05864, -2.10506, -1.05528])
    published = likelihood.criterion(theta, common, {})
    found = likelihood.maximum()
    assert found["deviance"] <= published
    assert published - found["deviance"] < 1e-3
    np.testing.assert_allclose(found["theta"], theta, atol=3e-4)
    np.testing.assert_allclose(found["fixef"]["estimate"], common, atol=5e-4)


def test_groups_that_say_one_thing_only_have_sensible_effects():
    """All successes in one group, no counts in another, rates by an offset."""
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(15), 20)
    effects = 0.5 * rng.normal(size=15)
    hours = rng.uniform(0.5, 20.0, 300)
    count = rng.poisson(hours * np.exp(-0.5 + effects[codes]))
    count[codes == 3] = 0
    hit = (rng.random(300) < 1 / (1 + np.exp(-effects[codes]))).astype(int)
    hit[codes == 4] = 1
    table = {"count": count, "hit": hit, "hours": hours, "g": [f"g{c:02d}" for c in codes]}
    rates = fit("count ~ 1 + (1 | g) + offset(log(hours))", table, "poisson")
    assert rates.fixef()["mean"].iloc[0] == pytest.approx(-0.5, abs=0.8)
    none = rates.ranef("g").loc["g03", "mean"]
    assert np.isfinite(none)
    assert none == rates.ranef("g")["mean"].min()
    hits = fit("hit ~ 1 + (1 | g)", table, "bernoulli").ranef("g")
    assert hits.loc["g04", "mean"] == hits["mean"].max() < 4.0


def test_rows_that_overshoot_are_held_back(monkeypatch):
    """Groups of successes alone under a wide prior: without a secant it takes forty steps."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(20), 15)
    hit = np.where(codes < 15, rng.random(300) < 0.5, codes % 2).astype(int)
    target = density("hit ~ 1 + (1 | g)", {"hit": hit, "g": codes.astype(str)}, "bernoulli")
    tried = []
    monkeypatch.setattr(
        type(target.working), "_tried", _counted(type(target.working)._tried, tried)
    )
    x = target.coordinates.inverse({"1|g_sigma": np.array(4.0)})
    target.left = 1e-6
    assert target.fit(x).left < 1e-6
    assert len(tried) <= 16


def _counted(call, calls):
    def counted(*given):
        calls.append(None)
        return call(*given)

    return counted


def test_the_density_has_no_step_where_the_sd_is_zero():
    """Even where the common effects are skewed, as of a response of zeros alone."""
    rng = np.random.default_rng(1)
    codes = np.arange(120) % 12
    table = {"y": np.zeros(120), "x": rng.normal(size=120), "g": codes.astype(str)}
    target = density("y ~ x + (1 | g)", table, "bernoulli")
    target.refinement = AdaptiveQuadrature(target.working)
    target.settle(np.array([0.2]))
    target.left = 1e-9
    at = target.log_density(np.array([[0.0], [1e-7], [1e-3], [-1e-3]]))
    np.testing.assert_allclose(at, at[0], atol=2e-3)
    assert abs(target.value_and_gradient(np.zeros(1))[1][0]) < 0.05
    # And the draws follow it, of which a grid has the mean and sd.
    target.left = None
    x = np.linspace(0.0, 2.6, 66)[:, None]
    weights = np.exp(target.log_density(x))
    sd = target.coordinates.values(x)["1|g_sigma"]
    mean = (weights @ sd) / weights.sum()
    spread = math.sqrt((weights @ (sd - mean) ** 2) / weights.sum())
    found = fit("y ~ x + (1 | g)", table, "bernoulli", draws=4_000)
    assert found.converged
    summary = found.summary().loc["1|g_sigma"]
    assert summary["mean"] == pytest.approx(mean, abs=0.1 * spread)
    assert summary["sd"] == pytest.approx(spread, rel=0.1)


def test_quadrature_is_refused_where_there_is_no_one_scalar_grouping(grouped):
    with pytest.raises(OptionError, match="quadrature= takes a model with one grouping"):
        fit("hit ~ x + (1 + x | g)", grouped, "bernoulli", quadrature=9)
    with pytest.raises(OptionError, match="reml is for gaussian responses"):
        fit("hit ~ x + (1 | g)", grouped, "bernoulli", draws=50).deviance([1.0], reml=True)


def test_a_shape_that_may_be_infinite_keeps_its_tail():
    """Counts that are nearly Poisson's leave the half-Cauchy's tail of alpha; beside a grid."""
    y = np.random.default_rng(2).negative_binomial(3.0, 3.0 / (3.0 + 1.2), 100)
    priors = {"Intercept": rf.Normal(0.0, 5.0), "alpha": rf.HalfCauchy(1.0)}
    found = rf.Model("y ~ 1", family="negative_binomial", priors=priors).fit(
        {"y": y}, method="laplace", draws=4_000, progress=False
    )
    intercepts, shapes = np.linspace(-1.0, 1.5, 201), np.exp(np.linspace(-3.0, 9.0, 601))
    mean, shape = np.exp(intercepts)[:, None], shapes
    density = norm(0.0, 5.0).logpdf(intercepts)[:, None] + halfcauchy.logpdf(shapes)
    for value, count in zip(*np.unique(y, return_counts=True), strict=True):
        density = density + count * nbinom(shape, shape / (shape + mean)).logpmf(value)
    mass = np.exp(density - density.max()).sum(axis=0) * shapes
    levels = [0.025, 0.5, 0.975, 0.99]
    expected = np.interp(levels, np.cumsum(mass) / mass.sum(), np.log(shapes))
    alpha = np.asarray(found.idata.posterior["alpha"]).ravel()
    assert expected[-1] - expected[1] > math.log(8.0)
    np.testing.assert_allclose(np.log(np.quantile(alpha, levels)), expected, atol=0.25)
    assert any("alpha has a heavy tail" in reason for reason in found.check().reasons)


def test_the_gradient_is_known_wherever_the_density_is():
    """Far from the mode extrapolated working models have no positive definite system."""
    rng = np.random.default_rng(4)
    g, x = rng.integers(0, 6, 120), rng.normal(size=120)
    y = np.where(g == 3, 0.0, (rng.random(120) < 0.4) * 1.0)
    table = {"y": y, "x": x, "g": g.astype(str)}
    target = density("y ~ x + (1 | g)", table, "bernoulli")
    target.refinement = AdaptiveQuadrature(target.working)
    for step in (-0.6, -0.3, 0.0, 0.3, 0.6):
        target.value_and_gradient(target.start + step * target.width)
    target.settle(target.start)
    for step in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0):
        place = target.start + step * target.width
        value, gradient = target.value_and_gradient(place)
        assert value == pytest.approx(float(target.log_density(place[None])[0]), abs=1e-6)
        assert np.isfinite(gradient).all()
        assert (gradient != 0).all()
