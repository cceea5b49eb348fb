"""Draws of predictions on rows: computed by hand from the posterior, and by sampling."""

from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats
from scipy.special import expit

import ranef as rf
from ranef.inference import base
from ranef.posterior import program_replay, row_draws
from ranef.program.training import Stream

N = 90
DRAWS = 60


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    g, h, x = rng.integers(0, 9, N), rng.integers(0, 4, N), rng.normal(size=N)
    y = 1 + 0.5 * x + 0.7 * rng.normal(size=9)[g] + 0.5 * rng.normal(size=4)[h]
    y = y + 0.4 * rng.normal(size=N)
    columns = {
        **{"y": y, "x": x, "g": [f"g{i}" for i in g], "h": [f"h{i}" for i in h]},
        **{"hit": np.where(y > 1, "yes", "no"), "flag": y > 1, "count": np.floor(np.exp(y / 2))},
        **{"kind": np.array(list("abc"))[np.digitize(y, [0.5, 1.5])], "n": rng.integers(3, 9, N)},
        "size": pd.Categorical.from_codes(
            np.digitize(y, [0.5, 1.5]), ["small", "mid", "big"], ordered=True
        ),
    }
    frame = pd.DataFrame(columns, index=pd.Index(np.arange(N) * 3 + 1, name="id"))
    return frame.assign(s=rng.binomial(frame["n"], expit(y - 1)))


def fit_of(table: pd.DataFrame, formula: str, family: object = "gaussian", **options) -> rf.Fit:
    return rf.Model(formula, family=family).fit(table, draws=DRAWS, progress=False, **options)


@pytest.fixture(scope="module")
def fit(table) -> rf.Fit:
    return fit_of(table, "y ~ x + (1 | g) + (x | h)")


def by_hand(fit: rf.Fit, rows: pd.DataFrame, *groups: str) -> np.ndarray:
    """X beta, and the effects of some groupings, of every draw and row."""
    known = fit.posterior
    x = rows["x"].to_numpy()
    out = known["Intercept"].values[0][:, None] + known["x"].values[0][:, None] * x
    for group in groups:
        of = {f"{group}__factor_dim": rows[group].to_numpy()}
        out = out + known[f"1|{group}"].sel(of).values[0]
        if f"x|{group}" in known:
            out = out + known[f"x|{group}"].sel(of).values[0] * x
    return out


def cells(found) -> np.ndarray:
    return found.stack(cell=("chain", "draw")).transpose("cell", "row", ...).values


# The draws


def test_epred_is_the_sum_of_the_terms_at_every_draw(fit, table):
    found = fit.epred(table)
    assert found.dims == ("chain", "draw", "row")
    assert found.name == "y"
    np.testing.assert_allclose(found.values[0], by_hand(fit, table, "g", "h"), rtol=1e-9)
    np.testing.assert_array_equal(found["row"], table.index)
    np.testing.assert_allclose(found.mean(("chain", "draw")), fit.predict(table)["mean"])
    np.testing.assert_array_equal(fit.epred().values, found.values)
    np.testing.assert_array_equal(fit.linpred(table).values, found.values)


def test_some_draws_are_those_of_the_posterior_with_their_numbers(fit, table):
    some, whole = fit.epred(table, draws=7), fit.epred(table)
    np.testing.assert_array_equal(some["draw"], [0, 10, 20, 30, 39, 49, 59])
    np.testing.assert_allclose(some.values, whole.sel(draw=some["draw"]).values, rtol=1e-12)
    np.testing.assert_array_equal((fit.posterior["sigma"] + some)["draw"], some["draw"])


def test_draws_are_spread_over_chains(fit, table):
    sites = {name: v.reshape(2, 30, *v.shape[2:]) for name, v in fit.draws.sites.items()}
    own = replace(fit.draws, draw=lambda: sites, effect_sampler=lambda: None)
    two = rf.Fit(fit.program, fit.training, own, "nuts", "", 0.0)
    found = two.epred(table)
    np.testing.assert_allclose(found.values.reshape(DRAWS, N), fit.epred(table).values[0])
    some = two.epred(table, draws=5)
    assert some.shape == (2, 3, N)
    np.testing.assert_array_equal(some["draw"], [0, 14, 29])
    np.testing.assert_allclose(some.values, found.values[:, [0, 14, 29]])
    assert two.predictive(table, draws=60).shape == (2, 30, N)


def test_effects_of_many_levels_are_thinned_some_at_a_time(fit, table, monkeypatch):
    whole = fit.epred(table, draws=4)
    monkeypatch.setattr(base, "_LEVELS", 2)
    monkeypatch.setattr(program_replay, "_EFFECTS", 100)
    np.testing.assert_allclose(fit.epred(table, draws=4).values, whole.values, rtol=1e-12)


def test_rows_keep_the_index_whatever_it_holds(fit, table):
    nested = pd.MultiIndex.from_arrays([np.arange(N) // 9, table["g"]], names=["draw", None])
    for index in (
        nested,
        pd.date_range("2020-01-01", periods=N, tz="UTC"),
        pd.Index(["a"] * N, name="draw"),
        pd.interval_range(0, N),
    ):
        found = fit.epred(table.set_axis(index, axis=0), draws=2)
        assert found.isel(chain=0, draw=0).to_series().index.equals(index)
    for rows in (pl.DataFrame(table[["x", "g", "h"]]), table[["x", "g", "h"]].to_dict("list")):
        np.testing.assert_array_equal(fit.epred(rows, draws=2)["row"], np.arange(N))


@pytest.mark.long
def test_linpred_is_on_the_scale_of_the_link(table):
    fit = fit_of(table, "hit ~ x + (1 | g)", "bernoulli")
    eta = by_hand(fit, table, "g")
    np.testing.assert_allclose(fit.linpred(table).values[0], eta, rtol=1e-9)
    np.testing.assert_allclose(fit.linpred(transform=True).values[0], expit(eta), rtol=1e-9)
    np.testing.assert_allclose(fit.epred(table).values[0], expit(eta), rtol=1e-9)
    population = fit.epred(table[["x"]], groups=None).values[0]
    np.testing.assert_allclose(population, expit(by_hand(fit, table)), rtol=1e-9)
    mean = fit.predict(table[["x"]], groups=None)["mean"]
    np.testing.assert_allclose(mean, expit(by_hand(fit, table)).mean(axis=0), rtol=1e-9)
    assert fit.linpred().name == "p"


@pytest.mark.long
def test_linpred_of_another_parameter(table):
    fit = fit_of(table, "y ~ x; sigma ~ x")
    known = {
        name: fit.posterior[name].values[0][:, None] for name in ("sigma_Intercept", "sigma_x")
    }
    eta = known["sigma_Intercept"] + known["sigma_x"] * table["x"].to_numpy()
    np.testing.assert_allclose(fit.linpred(table, "sigma").values[0], eta, rtol=1e-9)
    found = fit.linpred(table, "sigma", transform=True)
    assert found.name == "sigma"
    np.testing.assert_allclose(found.values[0], np.exp(eta), rtol=1e-9)


@pytest.mark.long
def test_categories_have_probabilities_and_numbers(table):
    for formula, family in (("size ~ x", "ordinal"), ("kind ~ x", "categorical")):
        fit = fit_of(table, formula, family)
        found = fit.epred(table)
        assert found.dims == ("chain", "draw", "row", "category")
        shares = fit.predict(table).filter(like="p[")
        assert [f"p[{name}]" for name in found["category"].values] == list(shares)
        np.testing.assert_allclose(found.mean(("chain", "draw")), shares, rtol=1e-9)
        drawn = fit.predictive(table)
        assert drawn.attrs["categories"] == list(found["category"].values)
        share = (drawn == 1).mean(("chain", "draw"))
        se = np.sqrt(0.25 / DRAWS)
        assert np.abs(share - shares.iloc[:, 0].to_numpy()).max() < 4.5 * se
    eta = fit.linpred(table)
    np.testing.assert_array_equal(eta["category"], ["b", "c"])
    odds = np.log(found.sel(category=["b", "c"]) / found.sel(category="a"))
    np.testing.assert_allclose(eta, odds.transpose(*eta.dims), rtol=1e-6)
    np.testing.assert_array_equal(fit.linpred(table, "muc"), eta.sel(category="c"))
    with pytest.raises(rf.OptionError, match="categories of kind have no order"):
        fit.cdf(table)
    with pytest.raises(rf.OptionError, match="categories of kind have no order"):
        fit.predict(table, quantiles=[0.5])


# The predictive distribution


def mixture_cdf(fit: rf.Fit, table: pd.DataFrame, y: object) -> np.ndarray:
    mu = by_hand(fit, table, "g", "h")
    return stats.norm(mu, fit.posterior["sigma"].values[0][:, None]).cdf(y).mean(axis=0)


def test_cdf_pit_and_quantiles_are_those_of_the_mixture_over_draws(fit, table):
    np.testing.assert_allclose(fit.cdf(table), mixture_cdf(fit, table, table["y"]), rtol=1e-9)
    np.testing.assert_allclose(fit.cdf(table, at=0.3), mixture_cdf(fit, table, 0.3), rtol=1e-9)
    several = fit.cdf(table, at=[0, 2.5])
    assert list(several) == ["cdf[0]", "cdf[2.5]"]
    np.testing.assert_allclose(several["cdf[2.5]"], mixture_cdf(fit, table, 2.5), rtol=1e-9)
    pd.testing.assert_series_equal(fit.pit(table), fit.cdf(table), check_names=False)
    assert fit.pit().index.equals(table.index)
    found = fit.predict(table, kind="response", quantiles=[0.001, 0.3, 0.999])
    for q in (0.001, 0.3, 0.999):
        np.testing.assert_allclose(mixture_cdf(fit, table, found[f"q[{q}]"]), q, atol=1e-8)
    mean = fit.predict(table, quantiles=[0.3])["q[0.3]"]
    expected = np.quantile(by_hand(fit, table, "g", "h"), 0.3, axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-9)


def test_quantiles_add_columns_and_change_none(fit, table):
    plain = fit.predict(table, kind="response")
    found = fit.predict(table, kind="response", quantiles=[0.25, 0.75])
    assert list(found) == ["mean", "sd", "lower", "upper", "q[0.25]", "q[0.75]"]
    pd.testing.assert_frame_equal(found[list(plain)], plain)


def test_chunks_and_stripes_do_not_change_the_quantiles(fit, table, monkeypatch):
    whole = fit.predict(table, kind="response", quantiles=[0.1, 0.9]).filter(like="q[")
    monkeypatch.setattr(program_replay, "_CELLS", 64 * DRAWS)
    monkeypatch.setattr("ranef.posterior.predictive_distribution._STRIPE", 13)
    found = fit.predict(table, kind="response", quantiles=[0.1, 0.9]).filter(like="q[")
    pd.testing.assert_frame_equal(found, whole, rtol=1e-7)


COUNTS = {
    "poisson": ("count ~ x", "poisson", "count"),
    "zero_inflated": ("count ~ 1", "zero_inflated_poisson", "count"),
    "binomial": ("s / n ~ x", "binomial", "s"),
    "ordinal": ("size ~ x", "ordinal", "size"),
    "mixture": ("count ~ 1", rf.Mixture("poisson", k=2), "count"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", COUNTS)
def test_discrete_responses_by_sampling(table, name):
    """The cdf is the frequency of many sampled responses; a quantile is where it reaches q."""
    formula, family, column = COUNTS[name]
    rows = table.iloc[:8]
    fit = fit_of(table, formula, family)
    drawn = np.concatenate([cells(fit.predictive(rows, seed=i)) for i in range(40)])
    y = rows[column].cat.codes + 1 if name == "ordinal" else rows[column]
    se = np.sqrt(0.25 / len(drawn))
    limits = fit.pit(rows, limits=True)
    assert np.abs((drawn <= y.to_numpy()).mean(axis=0) - limits["upper"]).max() < 5 * se
    assert np.abs((drawn < y.to_numpy()).mean(axis=0) - limits["lower"]).max() < 5 * se
    np.testing.assert_allclose(fit.cdf(rows), limits["upper"], rtol=1e-12)
    randomised = fit.pit(rows, seed=3)
    assert randomised.between(limits["lower"], limits["upper"]).all()
    assert not np.allclose(randomised, fit.pit(rows, seed=4))
    found = fit.predict(rows, kind="response", quantiles=[0.2, 0.8])
    for q in (0.2, 0.8):
        least = found[f"q[{q}]"]
        categories = list(table["size"].cat.categories)
        for i, value in enumerate(least):
            at = [categories[int(value) - 1] if name == "ordinal" else value]
            assert fit.cdf(rows.iloc[[i]], at=at).iloc[0, 0] >= q
            if value > (1 if name == "ordinal" else 0):
                at = [categories[int(value) - 2] if name == "ordinal" else value - 1]
                assert fit.cdf(rows.iloc[[i]], at=at).iloc[0, 0] < q


def test_pit_of_new_rows_of_the_model_is_uniform(fit, table):
    """Responses that the model itself has drawn, each row from another draw."""
    drawn = cells(fit.predictive(table))
    rng = np.random.default_rng(1)
    new = table.assign(y=drawn[rng.integers(0, DRAWS, N), np.arange(N)])
    assert stats.kstest(fit.pit(new), "uniform").pvalue > 0.01


# Groupings


def test_groupings_that_are_left_out_have_no_effect(fit, table):
    rows = table[["y", "x"]]
    population = by_hand(fit, table)
    np.testing.assert_allclose(fit.epred(rows, groups=None).values[0], population, rtol=1e-9)
    np.testing.assert_allclose(fit.epred(groups=None).values[0], population, rtol=1e-9)
    found = fit.predict(rows, groups=None)
    np.testing.assert_allclose(found["mean"], population.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(found["sd"], population.std(axis=0), rtol=1e-9)
    part = fit.predict(table[["x", "h"]], groups=["h"])
    np.testing.assert_allclose(part["mean"], by_hand(fit, table, "h").mean(axis=0), rtol=1e-9)
    pd.testing.assert_frame_equal(fit.predict(table, groups=["g", "h"]), fit.predict(table))
    each = stats.norm(population, fit.posterior["sigma"].values[0][:, None]).pdf(table["y"])
    scores = fit.log_score(rows, groups=None)
    np.testing.assert_allclose(scores, np.log(each.mean(axis=0)), rtol=1e-9)
    new = rows.assign(g="unheard of")
    np.testing.assert_allclose(fit.epred(new, groups=None).values[0], population, rtol=1e-9)
    with pytest.raises(rf.ColumnError, match="no grouping 'k'; known are: g, h"):
        fit.epred(table, groups=["k"])
    with pytest.raises(rf.OptionError, match="groups must be"):
        fit.predict(table, groups=3)
    with pytest.raises(rf.ColumnError, match="column 'h' is not in"):
        fit.predict(rows, groups=["h"])


@pytest.mark.long
def test_a_model_without_other_terms_and_a_loaded_fit(table, tmp_path):
    fit = fit_of(table, "y ~ 0 + (1 | g) + gp(x, by=h, m=5)")
    assert (fit.epred(table[["y"]], groups=None).values == 0).all()
    assert fit.epred(groups=None).shape == (1, DRAWS, N)
    assert (fit.predict(table[["y"]], groups=None)[["mean", "sd"]] == 0).all(axis=None)
    known = fit.posterior["1|g"].sel(g__factor_dim=table["g"].to_numpy())
    np.testing.assert_allclose(fit.epred(table[["g"]], groups="g").values, known, rtol=1e-9)
    loaded = rf.load(fit.save(tmp_path / "fit.ranef"))
    for ask in (
        lambda own: own.epred().values,
        lambda own: own.predictive(table, draws=9, seed=2).values,
        lambda own: own.predict(table[["g"]], groups=["g"], quantiles=[0.2]).to_numpy(),
        lambda own: own.simulate(n=3).to_numpy(),
        lambda own: own.fitted().to_numpy(),
    ):
        np.testing.assert_array_equal(ask(loaded), ask(fit))


@pytest.mark.long
def test_factors_and_networks(table):
    fit = fit_of(table, "y ~ x + mf(g, h, rank=2) + (1 | g)")
    found = fit.epred(table[["x", "g"]], groups=["g"]).values[0]
    np.testing.assert_allclose(found, by_hand(fit, table, "g"), rtol=1e-8)
    networks = fit_of(table, "y ~ nn(x, hidden=[3]) + (1 | g)")
    found = networks.epred(table[["x"]], groups=None)
    effect = networks.posterior["1|g"].sel(g__factor_dim=table["g"].to_numpy()).values
    np.testing.assert_allclose(networks.epred().values, found.values + effect, atol=1e-6)
    assert networks.predict(table, kind="response", quantiles=[0.5]).notna().all(axis=None)


@pytest.mark.long
def test_missing_predictors_are_drawn_or_integrated(table):
    gaps = table.assign(x=table["x"].where(np.arange(N) % 5 > 0))
    fit = fit_of(gaps, "y ~ mi(x) + (1 | g)")
    found = fit.epred(gaps)
    np.testing.assert_allclose(found.mean(("chain", "draw")), fit.predict(gaps)["mean"])
    np.testing.assert_array_equal(fit.epred().values, found.values)
    assert found.isel(row=0).std() > 2 * found.isel(row=1).std()
    assert fit.pit().between(0, 1).all()
    assert fit.simulate(n=2).notna().all(axis=None)


# Fitted values and simulated tables


def test_fitted_values_are_predictions_of_the_rows_used(table):
    holes = table.assign(x=table["x"].where(np.arange(N) % 7 > 0))
    fit = fit_of(holes, "y ~ x")
    found = fit.fitted(interval=0.5, quantiles=[0.5])
    used = holes.dropna()
    assert found.index.equals(used.index)
    expected = fit.predict(used, interval=0.5, quantiles=[0.5])
    pd.testing.assert_frame_equal(found, expected)
    assert fit.epred().sizes["row"] == len(used)


@pytest.mark.long
def test_a_simulated_table_has_parameters_of_its_own(table):
    priors = {"sigma": 1e-4, "1|g_sigma": 1.0}
    fit = rf.Model("y ~ 1 + (1 | g)", priors=priors).fit(table, draws=DRAWS, progress=False)
    design = pd.DataFrame({"g": ["new", "other"] * 3}, index=list("abcdef"))
    found = fit.simulate(design, n=5, seed=2)
    assert list(found) == [f"sim_{i}" for i in range(1, 6)]
    assert found.index.equals(design.index)
    pd.testing.assert_frame_equal(fit.simulate(design, n=5, seed=2), found)
    assert not np.allclose(fit.simulate(design, n=5, seed=3), found)
    same = found[design["g"].to_numpy() == "new"]
    assert same.std().max() < 1e-3
    assert (found.loc["a"] - found.loc["b"]).abs().min() > 1e-3
    assert same.iloc[0].std() > 0.1
    many = fit.simulate(design, n=DRAWS + 5)
    assert many.shape == (6, DRAWS + 5)


@pytest.mark.long
def test_simulated_categories_are_named_as_in_the_table(table):
    for formula, kind in (("hit ~ x", {"yes", "no"}), ("flag ~ x", {True, False})):
        values = fit_of(table, formula, "bernoulli").simulate(table, n=1)["sim_1"]
        assert set(values) == kind
        assert values.dtype == table[formula.split()[0]].dtype
    sizes = fit_of(table, "size ~ x", "ordinal").simulate(n=1)["sim_1"]
    pd.testing.assert_index_equal(sizes.cat.categories, table["size"].cat.categories)
    assert sizes.cat.ordered
    rows = pl.DataFrame(table[["x"]].to_dict("list")).with_columns(
        pl.Series("size", table["size"].tolist(), pl.Enum(["small", "mid", "big"]))
    )
    drawn = fit_of(rows, "size ~ x", "ordinal").simulate(rows, n=1)
    assert drawn.schema["sim_1"] == pl.Enum(["small", "mid", "big"])


# Refusals


def test_arrays_that_are_too_large_are_refused_with_their_size(fit, table, monkeypatch):
    with pytest.raises(rf.OptionError, match=r"7\.5 GiB, .* at most draws=536, for a part of"):
        row_draws.refuse_large(1_000, 1_000_000)
    with pytest.raises(rf.OptionError, match=r"10 draws x 100,000,000 rows x 3 categories take"):
        row_draws.refuse_large(10, 100_000_000, 3)
    monkeypatch.setattr(row_draws, "MOST_GIB", 1e-5)
    monkeypatch.setattr(program_replay.ProgramReplay, "over", None)
    for ask in (fit.epred, fit.linpred, fit.predictive):
        with pytest.raises(rf.OptionError, match="limited to 1e-05 GiB"):
            ask(table)
    with pytest.raises(rf.OptionError, match="GiB"):
        fit.simulate(table, n=50)


def test_what_cannot_be_asked_is_refused(fit, table):
    training = replace(fit.training, stream=Mock(spec=Stream))
    batches = rf.Fit(fit.program, training, fit.draws, "exact", "", 0.0)
    for ask in (batches.epred, batches.fitted, batches.pit, batches.simulate):
        with pytest.raises(rf.OptionError, match="read its rows in batches .* data="):
            ask()
    for draws in (0, 61, 1.5, "all"):
        with pytest.raises(rf.OptionError, match="draws must be"):
            fit.epred(table, draws=draws)
    with pytest.raises(rf.OptionError, match="sigma is one number for all rows"):
        fit.linpred(table, "sigma")
    with pytest.raises(rf.OptionError, match="gaussian has no parameter 'nu'"):
        fit.linpred(table, "nu")
    for quantiles in (0.5, [0], [1.0], ["a"], "ab", [None]):
        with pytest.raises(rf.OptionError, match="quantiles must be a list of probabilities"):
            fit.predict(table, quantiles=quantiles)
    for at in ("a", np.nan, [1, None], {}, True):
        with pytest.raises(rf.OptionError, match="at must be a finite number"):
            fit.cdf(table, at=at)
    with pytest.raises(rf.OptionError, match="new_levels must be one of 'error'"):
        fit.epred(new_levels="some")
    with pytest.raises(rf.OptionError, match="an empty list"):
        fit.cdf(table, at=[])
    with pytest.raises(rf.OptionError, match="n must be a whole number"):
        fit.simulate(table, n=0)
    with pytest.raises(rf.DataError, match="not seen in training"):
        fit.epred(table.assign(g="new"))
