"""mi(): missing predictors as parameters, integrated over row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import integrate, stats

import ranef as rf
from contract_term import learn
from ranef.errors import ColumnError, DataError, FormulaError, MethodError
from ranef.training import Training


def table(n: int = 200, seed: int = 4) -> dict[str, np.ndarray]:
    """X and w with gaps, more of them where y is large; b is 0 or 1, c counts."""
    rng = np.random.default_rng(seed)
    z, g = rng.normal(size=n), rng.integers(0, 6, n)
    x = 0.5 + 0.8 * z + 0.5 * rng.normal(size=6)[g] + rng.normal(size=n)
    w = -0.4 * x + rng.normal(size=n)
    b = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    c = rng.poisson(np.exp(0.4 * z)).astype(float)
    y = 1 + 1.5 * x - 0.5 * z + w + b - 0.5 * c + rng.normal(size=n)
    likely = 1 / (1 + np.exp(1.2 - 1.5 * (y - y.mean()) / y.std()))
    out = {"y": y, "z": z, "g": np.array([f"g{i}" for i in g]), "whole": x}
    for name, values in {"x": x, "w": w, "b": b, "c": c}.items():
        out[name] = np.where(rng.random(n) < likely, np.nan, values)
    out["count"] = rng.poisson(np.exp(np.clip(y / 4, -3, 2))).astype(float)
    return out


def at_values(formula: str, family: str, values: dict) -> tuple[float, Training]:
    """The program's log density at values of its parameters, less that of their priors."""
    program, training = learn(formula, table(40), family)
    problem = program.problem(training)
    with jax.enable_x64(True):
        data = jax.tree.map(jnp.asarray, problem.data)
        total, trace = log_density(lambda: problem.run(data, problem.n), (), {}, values)
    prior = sum(
        float(site["fn"].log_prob(site["value"]))
        for site in trace.values()
        if site["type"] == "sample" and not site["is_observed"]
    )
    return float(total) - prior, training


COMMON = {"Intercept": 0.2, "mi(x)": 0.6, "x_Intercept": 0.3, "x_z": 0.7, "x_sigma": 0.9}


def row_by_row(of_response, values: dict) -> float:
    """The same by adaptive quadrature over each missing x."""
    data = table(40)
    total = 0.0
    for y, k, x, z in zip(data["y"], data["count"], data["x"], data["z"], strict=True):
        law = stats.norm(values["x_Intercept"] + values["x_z"] * z, values["x_sigma"])

        def joint(x, y=y, k=k, law=law):
            eta = values["Intercept"] + values["mi(x)"] * x
            return law.pdf(x) * np.exp(of_response(y, k, eta))

        if np.isnan(x):
            ends = law.mean() - 9, law.mean() + 9
            total += np.log(integrate.quad(joint, *ends, epsabs=0, limit=200)[0])
        else:
            total += np.log(joint(x))
    return total


@pytest.mark.parametrize(
    ("family", "of_response", "extra", "tolerance"),
    [
        ("gaussian", lambda y, k, eta: stats.norm.logpdf(y, eta, 1.3), {"sigma": 1.3}, 1e-9),
        ("poisson", lambda y, k, eta: stats.poisson.logpmf(k, np.exp(eta)), {}, 1e-4),
        (
            "student",
            lambda y, k, eta: stats.t.logpdf(y, 4.0, eta, 0.8),
            {"sigma": 0.8, "nu": 4.0},
            2e-2,
        ),
    ],
)
def test_the_program_integrates_what_is_missing(family, of_response, extra, tolerance):
    response = "count" if family == "poisson" else "y"
    values = {**COMMON, **extra}
    found, training = at_values(f"{response} ~ mi(x); mi(x) ~ z", family, values)
    assert training.rows.used == training.rows.read == 40
    assert training.state.gaps == int(np.isnan(table(40)["x"]).sum()) > 5
    np.testing.assert_allclose(found, row_by_row(of_response, values), atol=tolerance)


def test_a_binary_column_and_a_count_are_summed_over():
    values = {
        **{"Intercept": 0.2, "mi(b)": 0.8, "mi(c)": -0.4, "sigma": 1.3},
        **{"b_Intercept": 0.1, "c_Intercept": -0.2, "c_z": 0.5},
    }
    formula = "y ~ mi(b, family=bernoulli) + mi(c); mi(c, family=poisson) ~ z"
    found, _ = at_values(formula, "gaussian", values)
    data, expected = table(40), 0.0
    for y, b, c, z in zip(data["y"], data["b"], data["c"], data["z"], strict=True):
        mean = np.exp(values["c_Intercept"] + values["c_z"] * z)
        p = 1 / (1 + np.exp(-values["b_Intercept"]))
        inside = [
            stats.norm.pdf(y, values["Intercept"] + 0.8 * i - 0.4 * j, 1.3)
            * stats.bernoulli.pmf(i, p)
            * stats.poisson.pmf(j, mean)
            for i in ([0, 1] if np.isnan(b) else [b])
            for j in (range(60) if np.isnan(c) else [c])
        ]
        expected += np.log(sum(inside))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_columns_that_predict_each_other_in_turn_are_integrated_together():
    """A row's y and its observed columns are jointly normal, whatever is missing."""
    values = {
        **{"Intercept": 0.2, "mi(x)": 0.6, "mi(w)": -0.7, "sigma": 1.3},
        **{"w_Intercept": 0.1, "w_mi(x)": -0.5, "w_sigma": 0.8},
        **{"x_Intercept": 0.3, "x_sigma": 0.9},
    }
    found, _ = at_values("y ~ mi(x) + mi(w); mi(w) ~ mi(x)", "gaussian", values)
    data, expected = table(40), 0.0
    # x = mean + sd e_1, w = ... + e_2, y = ... + e_3.
    mean = np.array([0.3, 0.1 - 0.5 * 0.3, 0.0])
    mean[2] = 0.2 + 0.6 * mean[0] - 0.7 * mean[1]
    root = np.array([[0.9, 0, 0], [-0.5 * 0.9, 0.8, 0], [0, 0, 1.3]])
    root[2, :2] = 0.6 * root[0, :2] - 0.7 * root[1, :2]
    covariance = root @ root.T
    for row in zip(data["x"], data["w"], data["y"], strict=True):
        there = ~np.isnan(row)
        law = stats.multivariate_normal(mean[there], covariance[np.ix_(there, there)])
        expected += law.logpdf(np.array(row)[there])
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_part_of_the_rows_stands_for_all():
    """Over all parts of one size the scaled densities average to that of the whole."""
    program, training = learn("y ~ mi(x) + z; mi(x) ~ z + (1 | g)", table(40), "gaussian")
    problem = program.problem(training)
    with jax.enable_x64(True):
        seeded = numpyro.handlers.seed(problem.run, 0)
        values = {
            name: site["value"]
            for name, site in numpyro.handlers.trace(seeded).get_trace(problem.data, 40).items()
            if site["type"] == "sample" and not site["is_observed"]
        }

        def observed(rows):
            data = jax.tree.map(lambda a: jnp.asarray(a)[rows], problem.data)
            _, trace = log_density(lambda: problem.run(data, 40), (), {}, values)
            (site,) = [s for s in trace.values() if s.get("is_observed")]
            return float(site["scale"] * site["fn"].log_factor)

        parts = [observed(np.arange(start, start + 10)) for start in range(0, 40, 10)]
        np.testing.assert_allclose(np.mean(parts), observed(np.arange(40)), rtol=1e-10)


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ mi(x) + z; mi(x) ~ z + (1 | g)").fit(table(), progress=False, draws=400)


def test_no_row_is_dropped_and_auto_finds_a_method(fit):
    assert fit.rows.used == 200
    assert fit.method == "svi"
    assert "mi(x)" in fit.why
    assert fit.check().verdict != "distrust"
    assert {"mi(x)", "x_Intercept", "x_z", "x_1|g_sigma", "x_sigma"} < set(fit.summary().index)


def test_imputed_values_follow_the_response(fit):
    data = table()
    found = fit.imputed("x")
    assert list(found.columns) == ["row", "mean", "sd", "lower", "upper"]
    np.testing.assert_array_equal(found["row"], np.flatnonzero(np.isnan(data["x"])))
    own = data["whole"][found["row"]]
    inside = ((found["lower"] <= own) & (own <= found["upper"])).mean()
    assert 0.8 < inside < 0.98
    # Its predictor model alone, as for a new row, knows less of x than that and y do.
    mean = fit.posterior["x_sigma"].mean().item()
    assert (found["sd"] < mean).all()
    with pytest.raises(ColumnError, match=r"no mi\(z\)"):
        fit.imputed("z")


def test_rows_dropped_for_other_columns_keep_their_numbers():
    data = table(60)
    data["z"] = np.where(np.arange(60) % 7 == 0, np.nan, data["z"])
    options = {"chains": 1, "tune": 50, "draws": 20, "progress": False}
    fit = rf.Model("y ~ mi(x) + z").fit(data, method="nuts", **options)
    gaps = np.isnan(data["x"]) & ~np.isnan(data["z"])
    np.testing.assert_array_equal(fit.imputed("x")["row"], np.flatnonzero(gaps))
    assert fit.rows.dropped == {"z": int(np.isnan(data["z"]).sum())}


def test_a_new_row_without_x_is_predicted_from_its_model(fit):
    new = {"x": [np.nan, 1.0], "z": [0.3, 0.3], "g": ["g0", "g0"]}
    draws = {name: fit.posterior[name].to_numpy().ravel() for name in fit.fixef().index}
    sigma, own = (fit.posterior[n].to_numpy().ravel() for n in ("sigma", "x_sigma"))
    nu = draws["x_Intercept"] + 0.3 * draws["x_z"]
    nu = nu + fit.posterior["x_1|g"].sel(g__factor_dim="g0").to_numpy().ravel()
    mean = draws["Intercept"] + 0.3 * draws["z"] + draws["mi(x)"] * nu
    sd = np.sqrt(np.mean((draws["mi(x)"] * own) ** 2) + mean.var())
    found = fit.predict(new)
    np.testing.assert_allclose(found.loc[0, "mean"], mean.mean(), atol=4 * sd / 20)
    np.testing.assert_allclose(found.loc[0, "sd"], sd, rtol=0.15)
    assert found.loc[1, "sd"] < 0.3 * found.loc[0, "sd"]
    # Its score integrates x in closed form.
    score = stats.norm.logpdf(1.5, mean, np.hypot(sigma, draws["mi(x)"] * own))
    np.testing.assert_allclose(
        fit.log_score({**new, "y": [1.5, 1.5]})[0], np.log(np.exp(score).mean()), rtol=1e-9
    )
    assert fit.loo().bad < 0.05


def test_a_kept_fit_imputes_the_same(fit, tmp_path):
    again = rf.load(fit.save(tmp_path / "fit.ranef"))
    assert again.imputed("x").equals(fit.imputed("x"))


def test_nuts_agrees_with_the_program_written_out():
    """A latent for every missing value, as the model is written on paper."""
    data = table(120)
    model = rf.Model("y ~ mi(x); mi(x) ~ z")
    priors = model.priors_for(data)
    missing = np.isnan(data["x"])

    def program():
        def of(name):
            prior = priors[name]
            if isinstance(prior, rf.Normal):
                return numpyro.sample(name, dist.Normal(prior.mu, prior.sigma))
            law = dist.StudentT(prior.nu, 0.0, prior.sigma)
            return numpyro.sample(name, dist.FoldedDistribution(law))

        nu, spread = of("x_Intercept") + of("x_z") * data["z"], of("x_sigma")
        latent = numpyro.sample("missing", dist.Normal(nu[missing], spread))
        x = jnp.asarray(np.nan_to_num(data["x"])).at[np.flatnonzero(missing)].set(latent)
        numpyro.sample("x", dist.Normal(nu[~missing], spread), obs=data["x"][~missing])
        mean = of("Intercept") + of("mi(x)") * x
        numpyro.sample("y", dist.Normal(mean, of("sigma")), obs=data["y"])

    with jax.enable_x64(True):
        kernel = numpyro.infer.NUTS(program)
        chain = numpyro.infer.MCMC(kernel, num_warmup=400, num_samples=1500, progress_bar=False)
        chain.run(jax.random.key(0))
        hand = {name: np.asarray(value) for name, value in chain.get_samples().items()}
    options = {"chains": 2, "tune": 400, "draws": 1000, "progress": False}
    fit = model.fit(data, method="nuts", **options)
    found = fit.summary()
    for name in ("Intercept", "mi(x)", "sigma", "x_Intercept", "x_z", "x_sigma"):
        sd = hand[name].std()
        # The written-out chain has some 500 effective draws of the worst of them.
        np.testing.assert_allclose(found.loc[name, "mean"], hand[name].mean(), atol=0.15 * sd)
        np.testing.assert_allclose(found.loc[name, "sd"], sd, rtol=0.15)
    imputed, sds = fit.imputed("x"), hand["missing"].std(axis=0)
    np.testing.assert_allclose(imputed["mean"], hand["missing"].mean(axis=0), atol=0.25 * sds.max())
    np.testing.assert_allclose(imputed["sd"], sds, rtol=0.2)


@pytest.mark.parametrize("method", ["exact", "laplace"])
def test_closed_forms_refuse_by_name(method):
    with pytest.raises(MethodError, match=r"mi\(x\)"):
        rf.Model("y ~ mi(x) + z").fit(table(40), method=method, progress=False)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ mi(x); mi(x) ~ mi(x)", "predicted by each other"),
        ("y ~ mi(x) + mi(w); mi(x) ~ mi(w); mi(w) ~ mi(x)", r"mi\(x\) and mi\(w\)"),
        ("y ~ mi(x, family=gamma)", "must be one of gaussian"),
        ("y ~ mi(x, family=poisson); mi(x, family=bernoulli) ~ z", "two families"),
        ("y ~ mi(x):z", "cannot be part of an interaction"),
    ],
)
def test_formulas_that_cannot_be_are_refused(formula, message):
    with pytest.raises(FormulaError, match=message):
        rf.Model(formula)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([np.nan, np.nan, np.nan], "no value in any row"),
        ([1.0, np.inf, 2.0], "infinite in row 2"),
        (["a", "b", None], "holds text"),
    ],
)
def test_columns_that_cannot_be_are_refused(values, message):
    with pytest.raises(DataError, match=message):
        rf.Model("y ~ mi(x)").fit({"y": [1.0, 2.0, 4.0], "x": values}, progress=False)
