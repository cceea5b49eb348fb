"""mi(): missing predictors as parameters, integrated over row by row."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import integrate, stats

import ranef as rf
from contract_term import learn
from ranef.errors import ColumnError, DataError, FormulaError, MethodError
from ranef.program import learning
from ranef.program.problem_builder import build_problem
from ranef.program.program import RESPONSE_SITE, Program
from ranef.program.training import Training


def table(n: int = 200, seed: int = 4) -> dict[str, np.ndarray]:
    """X and w with gaps, more of them where y is large; b is 0 or 1, c counts."""
    rng = np.random.default_rng(seed)
    z, g = rng.normal(size=n), rng.integers(0, 20, n)
    x = 0.5 + 0.8 * z + 0.5 * rng.normal(size=20)[g] + rng.normal(size=n)
    w = -0.4 * x + rng.normal(size=n)
    b = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    c = rng.poisson(np.exp(0.4 * z)).astype(float)
    y = 1 + 1.5 * x - 0.5 * z + rng.normal(size=n)
    likely = 1 / (1 + np.exp(1.2 - 1.5 * (y - y.mean()) / y.std()))
    out = {"y": y, "z": z, "g": np.array([f"g{i}" for i in g]), "whole": x}
    for name, values in {"x": x, "w": w, "b": b, "c": c}.items():
        out[name] = np.where(rng.random(n) < likely, np.nan, values)
    out["count"] = rng.poisson(np.exp(np.clip(y / 4, -3, 2))).astype(float)
    return out


def at_values(formula: str, family: str, values: dict) -> tuple[float, Training]:
    """The program's log likelihood at values of its parameters."""
    program, training = learn(formula, table(40), family)
    return float(log_likelihood(program, training)(np.arange(40), values)), training


def log_likelihood(program: Program, training: Training) -> Any:
    """Rows and values of all parameters to the likelihood of all rows that those stand for."""
    problem = build_problem(program, learning.as_written(program, training))

    @jax.jit
    def compiled(data: Any, values: Any) -> Any:
        _, trace = log_density(lambda: problem.run(data, problem.n), (), {}, values)
        return trace[RESPONSE_SITE]["scale"] * trace[RESPONSE_SITE]["fn"].log_factor

    def of(rows: Any, values: Any) -> Any:
        with jax.enable_x64(True):
            return compiled(jax.tree.map(lambda a: jnp.asarray(a[rows]), problem.data), values)

    return of


def test_the_weights_of_rows_are_those_of_observed_values():
    """As trials are: the mean of a column with gaps counts every row that has a value by them."""
    rows = table(40)
    trials = np.arange(1, 41)
    rows |= {"t": trials, "y": np.minimum(rows["count"], trials)}
    training = learn("y / t ~ mi(x) + z", rows, "binomial")[1]
    seen = ~np.isnan(rows["x"])
    mean = np.average(rows["x"][seen], weights=trials[seen])
    assert training.state.terms["mi(x)"].mean == pytest.approx(mean, rel=1e-12)


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
    """Over all parts of one size the scaled likelihoods average to that of the whole."""
    likelihood = log_likelihood(*learn("y ~ mi(x); mi(x) ~ z", table(40)))
    values = {**COMMON, "sigma": 1.3}
    parts = [likelihood(np.arange(start, start + 10), values) for start in range(0, 40, 10)]
    np.testing.assert_allclose(np.mean(parts), likelihood(np.arange(40), values), rtol=1e-10)


@pytest.fixture(scope="module")
def fit():
    return rf.Model("y ~ mi(x) + z; mi(x) ~ z + (1 | g)").fit(table(), progress=False, draws=400)


def test_no_row_is_dropped_and_auto_finds_a_method(fit):
    assert fit.rows.used == 200
    assert fit.method == "svi"
    assert "mi(x)" in fit.why
    assert {"mi(x)", "x_Intercept", "x_z", "x_1|g_sigma", "x_sigma"} < set(fit.summary().index)


def test_imputed_values_have_their_conditional_law(fit):
    """Normal given theta, its precision 1 / s^2 + beta^2 / sigma^2; mixed over the draws."""
    data, found = table(), fit.imputed("x")
    assert list(found.columns) == ["row", "mean", "sd", "lower", "upper"]
    np.testing.assert_array_equal(found["row"], np.flatnonzero(np.isnan(data["x"])))
    own = {n: fit.posterior[n].to_numpy().reshape(-1, 1) for n in fit.summary().index}
    effect = fit.posterior["x_1|g"].sel(g__factor_dim=data["g"][found["row"]]).to_numpy()[0]
    y, z = data["y"][found["row"]], data["z"][found["row"]]
    nu = own["x_Intercept"] + own["x_z"] * z + effect
    left = y - own["Intercept"] - own["z"] * z
    precision = own["x_sigma"] ** -2 + (own["mi(x)"] / own["sigma"]) ** 2
    mean = nu * own["x_sigma"] ** -2 + own["mi(x)"] * left * own["sigma"] ** -2
    mean = mean / precision
    sd = np.sqrt((1 / precision).mean() + mean.var(axis=0))
    np.testing.assert_allclose(found["mean"], mean.mean(axis=0), atol=4 * sd.max() / 20)
    np.testing.assert_allclose(found["sd"], sd, rtol=0.15)
    whole = data["whole"][found["row"]]
    assert 0.8 < ((found["lower"] <= whole) & (whole <= found["upper"])).mean() < 0.98
    shown = fit.extend("imputed")["imputed"]
    np.testing.assert_array_equal(shown["x"].mean("draw"), found["mean"])
    np.testing.assert_array_equal(shown["x_observed"], data["x"][~np.isnan(data["x"])])
    with pytest.raises(ColumnError, match=r"no mi\(z\)"):
        fit.imputed("z")


def test_rows_dropped_for_other_columns_keep_their_numbers():
    data = table(60)
    data["z"] = np.where(np.arange(60) % 7 == 0, np.nan, data["z"])
    options = {"chains": 1, "tune": 20, "draws": 10, "progress": False}
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


def test_more_gaps_than_quadrature_takes_are_refused():
    rng = np.random.default_rng(0)
    names = [f"x{k}" for k in range(7)]
    table = {name: np.where(rng.random(60) < 0.1, np.nan, rng.normal(size=60)) for name in names}
    table["y"] = rng.poisson(2.0, 60)
    formula = "y ~ " + " + ".join(f"mi({name})" for name in names)
    with pytest.raises(DataError, match=r"7 columns with missing values.* at most 6"):
        rf.Model(formula, "poisson").fit(table, progress=False)
