"""exact against the NumPyro program's density, closed forms and published posteriors."""

import jax
import numpy as np
import pandas as pd
import pytest
from numpyro.infer.util import log_density
from scipy import stats

import ranef as rf
from ranef.data.tables import read as read_table
from ranef.errors import DataError, OptionError
from ranef.formula.formula import Formula
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import common_by_site, effects_by_site
from ranef.inference.lmm.sufficient_statistics import accumulate
from ranef.priors import checked
from ranef.priors import log_density as prior_density
from ranef.program import learning
from ranef.program.problem_builder import build_problem
from ranef.program.program import Program

FORMULAS = [
    ("y ~ x + (1 + x | g)", {}),
    ("y ~ x*f + (x || g) + (1 | h)", {"Intercept": rf.Flat(), "1|h_sigma": rf.HalfCauchy(1.0)}),
    ("y ~ 0 + x + (1 + x + z | g)", {"x": rf.Normal(1.0, 0.3), "sigma": rf.Gamma(2.0, 1.0)}),
    ("weights(y, w) ~ x + offset(z) + (1 | g) + (0 + x | g)", {"common": rf.Flat()}),
    ("se(y, w) ~ x + (1 | g) + (1 | g:h)", {"1|g_sigma": rf.LogNormal(0.0, 1.0)}),
    ("y ~ x*f + (1 | g)", {"common": rf.StudentT(3, 0.5, 1.5), "Intercept": rf.Cauchy(1, 2)}),
    ("y ~ x + z + (1 | h)", {"z": 0.4, "1|h_sigma": 0.7, "sigma": rf.Uniform(0.1, 3.0)}),
]


def problem_of(formula, table, priors):
    program = Program(Formula.parse(formula), "gaussian", checked(priors), {}, ())
    training = learning.prepare(program, read_table(table, list(program.needs())))
    return program, build_problem(program, training)


@pytest.mark.parametrize(("formula", "priors"), FORMULAS)
def test_log_density_is_the_programs(formula, priors, grouped):
    """Log p(theta, y) = log p(theta, b, y) - log p(b | theta, y), at any b: here the mean."""
    program, problem = problem_of(formula, grouped, priors)
    mixed = accumulate(problem, "exact")
    marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x = marginal.coordinates.canonical(
            (marginal.start + 0.5 * rng.normal(size=len(marginal.start)))[None]
        )
        solution, sigma = marginal.solve(x)
        sites = {n: np.asarray(v)[0] for n, v in marginal.coordinates.values(x).items()}
        sites |= common_by_site(mixed, solution.common[0])
        for grouping in mixed.groupings:
            sites |= effects_by_site(grouping, solution.effects[grouping.factor][0])
        with jax.enable_x64(True):
            joint, _ = log_density(problem.run, (problem.data, problem.n), {}, sites)
        log_det = float(solution.log_det_random[0] + solution.log_det_common[0])
        size = len(solution.common[0])
        for root, effects in zip(solution.roots, solution.effects, strict=True):
            log_det -= 2 * effects.shape[1] * np.linalg.slogdet(root[0])[1]
            size += effects[0].size
        for tail in mixed.mixtures:
            # The program has the t prior, of which the scale is integrated out.
            beta, m = solution.common[0, tail.column], mixed.mean[tail.column]
            joint = float(joint) + stats.norm(m, sites[tail.name]).logpdf(beta)
            joint += prior_density.log_density(tail.prior, sites[tail.name])[0]
            joint -= stats.t(tail.nu, m, tail.scale).logpdf(beta)
        conditional = 0.5 * log_det - 0.5 * size * np.log(2 * np.pi * float(sigma[0]) ** 2)
        expected = float(joint) - conditional + log_jacobian(marginal, x[0])
        assert marginal.log_density(x)[0] == pytest.approx(expected, abs=1e-6)


def log_jacobian(marginal, x):
    """Log |d sites / d x|, by differences."""
    coordinates = marginal.coordinates
    out = sum(np.log(s.slope(x[i])) for i, s in enumerate(coordinates.scales))
    for (correlation, _), place in zip(coordinates.correlations, coordinates.slices, strict=True):
        rows = tuple(zip(*correlation.places, strict=True))
        steps = 1e-6 * np.eye(len(correlation.places))
        jacobian = [
            (correlation.cholesky(x[place] + s)[rows] - correlation.cholesky(x[place] - s)[rows])
            / 2e-6
            for s in steps
        ]
        out += np.linalg.slogdet(np.array(jacobian))[1]
    return out


@pytest.mark.parametrize(("formula", "priors"), FORMULAS)
def test_gradient_is_that_of_the_log_density(formula, priors, grouped):
    _, problem = problem_of(formula, grouped, priors)
    marginal = LMMHyperposterior.of(
        accumulate(problem, "exact"), problem.priors, problem.residual_scale
    )
    x = marginal.start + 0.3 * np.random.default_rng(1).normal(size=len(marginal.start))
    value, gradient = marginal.value_and_gradient(x)
    assert marginal.log_density(x[None])[0] == pytest.approx(value, rel=1e-12)
    for i, step in enumerate(1e-5 * np.eye(len(x))):
        up, down = (marginal.log_density((x + s)[None])[0] for s in (step, -step))
        assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-6)


def test_dyestuff_with_known_variances(dyestuff):
    priors = {
        "Intercept": rf.Flat(),
        "sigma": float(np.sqrt(2451.25)),
        "1|Batch_sigma": float(np.sqrt(1764.05)),
    }
    fit = rf.Model("Yield ~ 1 + (1 | Batch)", priors=priors).fit(
        dyestuff, method="exact", progress=False
    )
    mean, sd = fit.fixef().loc["Intercept", ["mean", "sd"]]
    assert mean == pytest.approx(1527.5, abs=1e-6)
    assert sd == pytest.approx(19.3834, abs=5e-5)
    effects = [-17.607, 0.391, 28.562, -23.085, 56.733, -44.995]
    np.testing.assert_allclose(fit.ranef("Batch")["mean"], effects, atol=5e-4)
    np.testing.assert_allclose(fit.ranef("Batch")["sd"], 24.7730, atol=5e-5)
    # The closed form itself, to more digits than are printed.
    precision = (
        np.diag(np.r_[np.full(6, 1 / 1764.05), 0.0])
        + np.block(
            [[5 * np.eye(6), np.full((6, 1), 5.0)], [np.full((1, 6), 5.0), np.array([[30.0]])]]
        )
        / 2451.25
    )
    sums = dyestuff["Yield"].reshape(6, 5).sum(axis=1)
    covariance = np.linalg.inv(precision)
    expected = covariance @ np.r_[sums, sums.sum()] / 2451.25
    np.testing.assert_allclose(fit.ranef("Batch")["mean"], expected[:6], atol=1e-6)
    np.testing.assert_allclose(fit.ranef("Batch")["sd"] ** 2, np.diag(covariance)[:6], rtol=1e-6)


def reference(reference_data, name):
    table = pd.read_csv(reference_data / "bayes" / "reference_posteriors.csv")
    return table[table["reference"] == name].set_index("parameter")


def compare(found, expected):
    """Within a tenth of an sd in the mean and a tenth in the sd."""
    assert abs(found["mean"] - expected["mean"]) < 0.1 * expected["sd"]
    assert found["sd"] == pytest.approx(expected["sd"], rel=0.1)


def test_eight_schools(reference_data):
    table = pd.read_csv(reference_data / "bayes" / "eight_schools.csv")
    priors = {"Intercept": rf.Normal(0, 5), "1|school_sigma": rf.HalfCauchy(5)}
    model = rf.Model("se(y, sigma) ~ 1 + (1 | school)", priors=priors)
    fit = model.fit(table, method="exact", draws=10_000, progress=False)
    expected = reference(reference_data, "eight_schools-eight_schools_noncentered")
    compare(fit.summary().loc["Intercept"], expected.loc["mu"])
    compare(fit.summary().loc["1|school_sigma"], expected.loc["tau"])
    theta = fit.posterior["Intercept"] + fit.posterior["1|school"]
    for i in range(8):
        drawn = theta[..., i]
        found = {"mean": float(drawn.mean()), "sd": float(drawn.std())}
        compare(found, expected.loc[f"theta[{i + 1}]"])


FLAT = {"Intercept": rf.Flat(), "common": rf.Flat()}
REGRESSIONS = [
    ("kidiq", "kidiq-kidscore_momhs", "kid_score ~ mom_hs", rf.HalfCauchy(2.5)),
    ("kidiq", "kidiq-kidscore_momiq", "kid_score ~ mom_iq", rf.HalfCauchy(2.5)),
    ("kidiq", "kidiq-kidscore_momhsiq", "kid_score ~ mom_hs + mom_iq", rf.HalfCauchy(2.5)),
    ("kidiq", "kidiq-kidscore_interaction", "kid_score ~ mom_hs * mom_iq", rf.HalfCauchy(2.5)),
    ("earnings", "earnings-earn_height", "earn ~ height", rf.Flat()),
    ("earnings", "earnings-logearn_height", "log(earn) ~ height", rf.Flat()),
    ("earnings", "earnings-log10earn_height", "log10(earn) ~ height", rf.Flat()),
    ("earnings", "earnings-logearn_height_male", "log(earn) ~ height + male", rf.Flat()),
    ("earnings", "earnings-logearn_logheight_male", "log(earn) ~ log(height) + male", rf.Flat()),
    ("earnings", "earnings-logearn_interaction", "log(earn) ~ height * male", rf.Flat()),
    ("earnings", "earnings-logearn_interaction_z", "log(earn) ~ scale(height) * male", rf.Flat()),
]


@pytest.mark.parametrize(
    ("data", "name", "formula", "sigma"), REGRESSIONS, ids=lambda value: str(value)
)
def test_regressions_of_posteriordb(reference_data, data, name, formula, sigma):
    table = pd.read_csv(reference_data / "bayes" / f"{data}.csv")
    model = rf.Model(formula, priors={**FLAT, "sigma": sigma})
    fit = model.fit(table, method="exact", draws=10_000, progress=False)
    expected = reference(reference_data, name)
    assert len(expected)
    found = fit.summary()
    for place, parameter in enumerate(p for p in expected.index if p != "sigma"):
        compare(found.iloc[place], expected.loc[parameter])
    compare(found.loc["sigma"], expected.loc["sigma"])


def test_neals_funnel():
    """Without data the prior: v = 2 log scale is N(0, 3)."""
    table = {"y": np.zeros(9), "s": np.full(9, 1e6), "g": np.array(list("abcdefghi"))}
    model = rf.Model("se(y, s) ~ 0 + (1 | g)", priors={"1|g_sigma": rf.LogNormal(0, 1.5)})
    fit = model.fit(table, method="exact", draws=20_000, progress=False)
    v = 2 * np.log(fit.posterior["1|g_sigma"].values.ravel())
    assert v.mean() == pytest.approx(0, abs=0.1)
    assert v.std() == pytest.approx(3, rel=0.03)
    assert (v < -6).mean() == pytest.approx(0.0228, abs=0.005)


def test_moments_are_those_of_the_draws(grouped):
    fit = rf.Model("y ~ x + (1 + x | g) + (1 | h)").fit(
        grouped, method="exact", draws=20_000, progress=False
    )
    for name, (mean, sd) in fit._known.moments.items():
        drawn = fit._known.values[name][0]
        np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.05 * np.max(sd))
        np.testing.assert_allclose(drawn.std(axis=0), sd, rtol=0.05)


def test_few_factorizations_give_the_moments_that_many_do(grouped, monkeypatch):
    from ranef.inference.lmm import hyperparameter_cells

    model = rf.Model("y ~ x + (1 + x | g)")
    many = model.fit(grouped, method="exact", progress=False)
    expected = many._known.moments
    monkeypatch.setattr(hyperparameter_cells, "_EACH", 0)
    few = model.fit(grouped, method="exact", progress=False)
    for name, (mean, sd) in few._known.moments.items():
        np.testing.assert_allclose(mean, expected[name][0], atol=0.03 * np.max(sd))
        np.testing.assert_allclose(sd, expected[name][1], rtol=0.05)
        drawn = few._known.values[name][0]
        np.testing.assert_allclose(drawn.std(axis=0), expected[name][1], rtol=0.12)


def test_group_effects_are_drawn_when_they_are_asked_for(grouped):
    fit = rf.Model("y ~ x + (1 | g)").fit(grouped, method="exact", progress=False)
    fit.summary()
    fit.ranef("g")
    assert "1|g" not in fit.draws.sites._ready
    first = fit.draws.sites["1|g"]
    again = rf.Model("y ~ x + (1 | g)").fit(grouped, method="exact", progress=False)
    assert again.draws.sites["1|g"].tobytes() == first.tobytes()


def test_predictions_replay_the_program(grouped):
    fit = rf.Model("y ~ x + (1 + x | g)").fit(grouped, method="exact", progress=False)
    found = fit.predict(grouped)
    means = fit.draws.known_moments["(1 + x | g)/effects"][0]
    common = fit.fixef()["mean"]
    codes = np.array([fit.variables["1|g"].coords[0].index(g) for g in grouped["g"]])
    expected = common["Intercept"] + common["x"] * grouped["x"]
    expected = expected + means[codes, 0] + means[codes, 1] * grouped["x"]
    np.testing.assert_allclose(found["mean"], expected, atol=0.05)


def test_point_estimates_are_at_the_mode(dyestuff):
    priors = {"1|Batch_sigma": rf.PointEstimate(), "sigma": rf.PointEstimate(), **FLAT}
    fit = rf.Model(
        "Yield ~ 1 + (1 | Batch)", priors={k: v for k, v in priors.items() if k != "common"}
    ).fit(dyestuff, method="exact", progress=False)
    reml = fit.maximum_likelihood(reml=True)
    found = fit.summary()
    for name in ("1|Batch_sigma", "sigma"):
        assert found.loc[name, "kind"] == "point estimate"
        assert found.loc[name, "mean"] == pytest.approx(
            reml["varcorr"].loc[name, "estimate"], rel=0.01
        )


# What it refuses


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("y ~ x + (1 | g)", {"family": "student"}, "the family is student"),
        ("y ~ nn(x, hidden=[2]) + (1 | g)", {}, r"nn\(x, hidden=\[2\]\) is not"),
        ("y ~ x; sigma ~ x", {}, "takes one sigma for all rows"),
        ("y ~ x", {"priors": {"x": rf.HalfNormal(1)}}, "that of 'x' is HalfNormal"),
        ("y ~ x", {"priors": {"x": rf.PointEstimate()}}, "that of 'x' is PointEstimate"),
    ],
)
def test_what_it_cannot_do_is_named(formula, options, message, grouped):
    with pytest.raises(OptionError, match=message):
        rf.Model(formula, **options).fit(grouped, method="exact", progress=False)


@pytest.mark.parametrize(
    "prior",
    [rf.StudentT(3, 0, 1), rf.Cauchy(1, 0.5), rf.StudentT(30, -3, 0.4), rf.Cauchy(-9, 0.5)],
    ids=str,
)
def test_t_priors_give_the_posterior_of_their_density(prior):
    """One coefficient, sigma known: the posterior is N(b; b_hat, s) times the t density."""
    x = np.array([-1.0, 0.5, 1.0, 2.0])
    table = {"x": x, "y": 2.0 * x + np.array([0.5, -0.3, 0.2, -0.4])}
    model = rf.Model("y ~ 0 + x", priors={"x": prior, "sigma": 1.5})
    fit = model.fit(table, draws=20_000, progress=False)
    assert fit.method == "exact"
    assert list(fit.posterior.data_vars) == ["x", "sigma"] or list(fit.posterior) == ["x"]
    b = np.linspace(-20, 20, 200_001)
    b_hat, sd = x @ table["y"] / (x @ x), 1.5 / np.sqrt(x @ x)
    nu = getattr(prior, "nu", 1.0)
    log_p = stats.norm(b_hat, sd).logpdf(b) + stats.t(nu, prior.mu, prior.sigma).logpdf(b)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = p @ b
    expected = {"mean": mean, "sd": np.sqrt(p @ (b - mean) ** 2)}
    found = fit.fixef().loc["x"]
    assert abs(found["mean"] - mean) < 0.03 * expected["sd"]
    assert found["sd"] == pytest.approx(expected["sd"], rel=0.03)
    drawn = np.quantile(np.asarray(fit.posterior["x"]), [0.05, 0.5, 0.95])
    quantiles = np.interp([0.05, 0.5, 0.95], np.cumsum(p), b)
    np.testing.assert_allclose(drawn, quantiles, atol=0.06 * expected["sd"])


def exact(formula, table, **options):
    return rf.Model(formula, **options).fit(table, method="exact", progress=False)


def test_a_constant_response(grouped):
    table = {**grouped, "y": np.full(300, 7.1)}
    with pytest.raises(DataError, match="the response y is 7.1 in every row"):
        exact("y ~ x + (1 | g)", table)
    fixed = exact("y ~ x + (1 | g)", table, priors={"sigma": 1.0})
    assert fixed.fixef().loc["Intercept", "mean"] == pytest.approx(7.1, abs=0.3)


def test_a_response_that_the_columns_fit_exactly(grouped):
    table = {**grouped, "y": 3 + 2 * grouped["x"]}
    with pytest.raises(DataError, match="fit the response y exactly"):
        exact("y ~ x + (1 | g)", table)


def test_collinear_columns(grouped):
    """The default priors tell them apart; with flat ones the column is named."""
    table = {**grouped, "twice": 2 * grouped["x"]}
    fit = exact("y ~ x + twice + (1 | g)", table)
    plain = exact("y ~ x + (1 | g)", table)
    mean = fit.fixef()["mean"]
    assert mean["x"] + 2 * mean["twice"] == pytest.approx(plain.fixef().loc["x", "mean"], abs=0.01)
    assert fit.fixef().loc["x", "sd"] > 10 * plain.fixef().loc["x", "sd"]
    with pytest.raises(DataError, match="the column 'twice' is a combination"):
        exact("y ~ x + twice + (1 | g)", table, priors={"common": rf.Flat()})


def test_a_constant_column(grouped):
    """Its effect is its prior's beside an intercept; with flat ones the column is named."""
    table = {**grouped, "c": np.full(300, 4.0)}
    fit = exact("y ~ c + x", table)
    both = fit.fixef()
    plain = exact("y ~ x", table).fixef()
    total = both.loc["Intercept", "mean"] + 4 * both.loc["c", "mean"]
    assert total == pytest.approx(plain.loc["Intercept", "mean"], abs=0.02)
    with pytest.raises(DataError, match="the column 'c' is a combination"):
        exact("y ~ c + x", table, priors=FLAT)


@pytest.mark.parametrize(("away", "unit"), [(1e9, 1.0), (0.0, 1e9), (0.0, 1e-9), (1e9, 1e3)])
def test_responses_and_predictors_of_any_scale(grouped, away, unit):
    plain = exact("y ~ x + (1 | g)", grouped).summary()["mean"]
    table = {**grouped, "x": away + unit * grouped["x"], "y": away + unit * grouped["y"]}
    moved = exact("y ~ x + (1 | g)", table).summary()["mean"]
    assert moved["x"] == pytest.approx(plain["x"], rel=1e-3)
    for name in ("sigma", "1|g_sigma"):
        assert moved[name] == pytest.approx(unit * plain[name], rel=0.02)


def test_slopes_far_from_zero(grouped):
    formula, far = "y ~ x + (1 + x | g)", {**grouped, "x": grouped["x"] + 1e9}
    near, found = exact(formula, grouped), exact(formula, far)
    for name in ("x|g_sigma", "sigma"):
        expected = near.varcorr().loc[name]
        np.testing.assert_allclose(found.varcorr().loc[name], expected, rtol=1e-6)
    given = rf.Model(formula, priors={"1|g_sigma": rf.HalfNormal(1.0)})
    with pytest.raises(DataError, match=r"centre them, as in \(1 \+ center\(x\) \| g\)"):
        given.fit({**grouped, "x": grouped["x"] + 1e9}, method="exact", progress=False)


def test_one_observation_in_each_group():
    """Only the sum of the two variances is known."""
    rng = np.random.default_rng(0)
    n = 400
    table = {"y": 2 * rng.normal(size=n), "g": np.array([f"g{i}" for i in range(n)])}
    fit = exact("y ~ 1 + (1 | g)", table)
    draws = fit.posterior
    total = np.sqrt(draws["sigma"] ** 2 + draws["1|g_sigma"] ** 2)
    assert float(total.mean()) == pytest.approx(table["y"].std(), rel=0.02)
    assert float(draws["1|g_sigma"].std()) > 5 * float(total.std())


def test_a_variance_at_zero():
    """Group means that differ less than they should: the mode of the sd is zero."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(30, 10))
    y -= 0.95 * y.mean(axis=1, keepdims=True)
    table = {"y": y.ravel(), "g": np.repeat([f"g{i}" for i in range(30)], 10)}
    fit = exact("y ~ 1 + (1 | g)", table)
    assert fit.converged
    assert fit.maximum_likelihood()["theta"][0] == pytest.approx(0.0, abs=1e-4)
    drawn = np.sort(fit.posterior["1|g_sigma"].values.ravel())
    # The density at zero is at its highest: half the mass lies below the half-normal's median.
    assert np.median(drawn) < 0.12
    assert np.median(drawn) / drawn.mean() == pytest.approx(0.845, abs=0.06)


def test_a_million_groups_in_the_solver():
    """The sums of squares of a balanced one-way layout are known without any solver."""
    from ranef.inference.pwls.cross_products import GroupingFactor, RowBatch, cross_products
    from ranef.inference.pwls.solver import PWLS

    rng = np.random.default_rng(0)
    levels, m = 1_000_000, 2
    y = rng.normal(size=(levels, m)) + rng.normal(size=(levels, 1))
    codes = np.repeat(np.arange(levels, dtype=np.int32), m)
    ones = np.ones((levels * m, 1))
    solution = PWLS(
        cross_products(RowBatch(y.ravel(), ones, [GroupingFactor(codes, ones, levels)]))
    ).solve([np.array([[0.8]])])
    means = y.mean(axis=1)
    within, between = ((y - means[:, None]) ** 2).sum(), m * ((means - y.mean()) ** 2).sum()
    expected = within + between / (1 + m * 0.64)
    assert solution.residual[0] == pytest.approx(expected, rel=1e-9)
    assert solution.log_det_random[0] == pytest.approx(levels * np.log(1 + m * 0.64), rel=1e-10)
    shrunk = (means - y.mean()) * m * 0.64 / (1 + m * 0.64)
    np.testing.assert_allclose(solution.effects[0][0, :, 0], shrunk, atol=1e-9)


def test_steps_too_far_for_the_arithmetic_are_taken_back():
    """Slopes far larger than the residual: a long step of the search cannot be factored."""
    rng = np.random.default_rng(14)
    g, x = np.repeat(np.arange(25), 8), rng.normal(size=200)
    b = rng.normal(size=(25, 2)) @ np.array([[1.2, -2.0], [0.0, 0.3]])
    y = b[g, 0] + (2.3 + b[g, 1]) * x + 0.01 * rng.normal(size=200)
    table = {"y": y, "x": x, "g": np.array([f"g{i:02}" for i in g])}
    fit = exact("y ~ x + (1 + x | g)", table)
    assert fit.converged
    assert fit.summary().loc["sigma", "mean"] == pytest.approx(0.01, rel=0.2)


def test_groups_that_fit_the_response_exactly(grouped):
    codes = np.unique(grouped["g"], return_inverse=True)[1].astype(float)
    for away in (0.0, 1e-9):
        with pytest.raises(DataError, match="the arithmetic cannot tell sigma"):
            exact("y ~ 1 + (1 | g)", {**grouped, "y": codes + away * grouped["y"]})


def test_known_errors_far_below_the_scatter(grouped):
    with pytest.raises(DataError, match="standard errors are so far below the scatter"):
        exact("se(y, w) ~ 1 + (1 | g)", {**grouped, "w": np.full(300, 1e-8)})
    with pytest.raises(DataError, match="sigma is fixed so far below the scatter"):
        exact("y ~ 1 + (1 | g)", grouped, priors={"sigma": 1e-8})
    fit = exact("se(y, w) ~ 1 + (1 | g)", {**grouped, "w": np.full(300, 1e-3)})
    means = pd.Series(grouped["y"]).groupby(grouped["g"]).mean()
    assert fit.converged
    assert fit.summary().loc["1|g_sigma", "mean"] == pytest.approx(means.std(), rel=0.25)


def test_a_response_too_small_to_be_squared(grouped):
    with pytest.raises(DataError, match="too small to be squared; rescale it"):
        exact("y ~ x + (1 | g)", {**grouped, "y": 1e-200 * grouped["y"]})


def test_the_same_grouping_twice(grouped):
    """Only the sum of the two variances is known."""
    table = {**grouped, "k": np.char.replace(grouped["g"], "g", "k")}
    both = exact("y ~ x + (1 | g) + (1 | k)", table)
    one = exact("y ~ x + (1 | g)", grouped)
    sds = both.posterior
    total = np.sqrt(sds["1|g_sigma"] ** 2 + sds["1|k_sigma"] ** 2)
    assert both.converged
    assert float(total.mean()) == pytest.approx(float(one.posterior["1|g_sigma"].mean()), rel=0.25)


def test_draws_of_more_effects_than_memory_holds_are_refused_and_their_moments_are_not(
    grouped, monkeypatch
):
    monkeypatch.setattr("ranef.inference.lmm.coefficient_posterior._REALISED", 1_000)
    fit = rf.Model("y ~ x + (1 | g)").fit(grouped, draws=200, progress=False)
    assert np.isfinite(fit.ranef("g")[["mean", "sd"]]).all(axis=None)
    assert len(fit.summary()) == 5
    with pytest.raises(OptionError, match="200 draws of 12 group effects take.*draws=83 or"):
        _ = fit.posterior
    assert np.isfinite(fit.predict(grouped)).all(axis=None)
    fewer = rf.Model("y ~ x + (1 | g)").fit(grouped, draws=83, progress=False)
    assert fewer.posterior["1|g"].shape == (1, 83, 12)


def test_priors_of_variances_and_precisions_are_those_of_nuts():
    rng = np.random.default_rng(3)
    g = rng.integers(0, 8, 60)
    table = {"y": rng.normal(size=60) + rng.normal(size=8)[g], "g": g, "x": rng.normal(size=60)}
    given = {"sigma": rf.Precision(rf.Gamma(2, 1)), "1|g_sigma": rf.Variance(rf.Uniform(0, 1))}
    model = rf.Model("y ~ x + (1 | g)", priors=given)
    exact = model.fit(table, method="exact", draws=10_000, progress=False).summary()
    nuts = model.fit(table, method="nuts", draws=1_000, progress=False).summary()
    for name in ("1|g_sigma", "sigma"):
        compare(exact.loc[name], nuts.loc[name])
