"""Predictions, comparisons and slopes against the same quantities by dense algebra on draws."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.special import expit
from scipy.special import logit as log_odds

import ranef as rf
from ranef import effects
from ranef.effects import posterior_draws


def _draws(fit, name, element=None):
    values = fit.posterior[name].to_numpy().reshape(200, -1)
    return values[:, 0 if element is None else element]


def _near(table, draws, interval=0.95):
    """Whether a table has the median and quantiles of draws, (draws, rows)."""
    found = table[["lower", "estimate", "upper"]].to_numpy().T
    levels = [(1 - interval) / 2, 0.5, (1 + interval) / 2]
    np.testing.assert_allclose(found, np.quantile(draws, levels, axis=0), rtol=1e-6, atol=1e-9)


@pytest.fixture
def parts(linear):
    """Coefficients of the linear fit: x, f, x:f, log(z), b, and the Intercept."""
    return {
        "1": _draws(linear, "Intercept"),
        "x": _draws(linear, "x"),
        "mid": _draws(linear, "f", 0),
        "high": _draws(linear, "f", 1),
        "x:mid": _draws(linear, "x:f", 0),
        "x:high": _draws(linear, "x:f", 1),
        "log": _draws(linear, "log(z)"),
        "b": _draws(linear, "b"),
    }


def test_average_slopes_are_the_closed_forms(linear, parts, effects_table):
    mid, high = (effects_table["f"] == "mid").mean(), (effects_table["f"] == "high").mean()
    found = effects.avg_slopes(linear, ["x", "z"])
    of_x = parts["x"] + mid * parts["x:mid"] + high * parts["x:high"]
    of_z = parts["log"] * (1 / effects_table["z"]).mean()
    assert found["term"].tolist() == ["x", "z"]
    _near(found, np.stack([of_x, of_z], axis=1))


def test_slopes_of_rows_and_elasticities(linear, parts, effects_table):
    found = effects.slopes(linear, "z", interval=0.5)
    _near(found, parts["log"][:, None] / effects_table["z"].to_numpy(), 0.5)
    assert found.index.tolist() == effects_table.index.tolist()
    np.testing.assert_array_equal(found["z"], effects_table["z"])
    elastic = effects.slopes(linear, "z", slope="dyex")
    _near(elastic, np.repeat(parts["log"][:, None], len(effects_table), axis=1))
    predicted = posterior_draws(effects.predictions(linear)).to_numpy()[0]
    semi = effects.slopes(linear, "z", slope="eydx")
    _near(semi, parts["log"][:, None] / effects_table["z"].to_numpy() / predicted)


def test_contrasts_of_factors_are_in_declared_order(linear, parts, effects_table):
    x = effects_table["x"].mean()
    mid, high = parts["mid"] + x * parts["x:mid"], parts["high"] + x * parts["x:high"]
    for asked, names, draws in (
        (None, ["mid - low", "high - low"], [mid, high]),
        ("sequential", ["mid - low", "high - mid"], [mid, high - mid]),
        ("pairwise", ["mid - low", "high - low", "high - mid"], [mid, high, high - mid]),
        ("revreference", ["low - mid", "low - high"], [-mid, -high]),
        ("minmax", ["high - low"], [high]),
        (("high", "mid"), ["mid - high"], [mid - high]),
    ):
        found = effects.avg_comparisons(linear, {"f": asked})
        assert found["contrast"].tolist() == names
        _near(found, np.stack(draws, axis=1))
    assert len(effects.avg_comparisons(linear, {"f": "all"})) == 6


def test_contrasts_of_numbers_and_logicals(linear, parts, effects_table):
    z = effects_table["z"].to_numpy()
    sd, (q1, q3) = z.std(ddof=1), np.quantile(z, [0.25, 0.75])
    changes = {
        0.4: np.log((z + 0.2) / (z - 0.2)).mean(),
        (2, 5): np.log(5 / 2),
        "iqr": np.log(q3 / q1),
        "minmax": np.log(z.max() / z.min()),
    }
    for asked, change in changes.items():
        _near(effects.avg_comparisons(linear, {"z": asked}), parts["log"][:, None] * change)
    forward = effects.avg_comparisons(linear, {"z": lambda v: (v, v + 1)})
    _near(forward, parts["log"][:, None] * np.log((z + 1) / z).mean())
    low = effects_table["f"] == "low"
    found = effects.comparisons(linear, {"x": "sd"}, newdata=effects_table[low])
    spread = effects_table["x"].std()
    _near(found, np.repeat(parts["x"][:, None] * spread, low.sum(), axis=1))
    assert sd > 0
    logical = effects.avg_comparisons(linear, "b")
    assert logical["contrast"].tolist() == ["True - False"]
    _near(logical, parts["b"][:, None])


def test_all_predictors_by_default(linear):
    found = effects.avg_comparisons(linear)
    assert found["term"].tolist() == ["x", "f", "f", "z", "b"]


def test_averages_within_cells_and_with_weights(linear, parts, effects_table):
    found = effects.avg_slopes(linear, "x", by="f")
    assert found["f"].tolist() == ["low", "mid", "high"]
    own = [parts["x"], parts["x"] + parts["x:mid"], parts["x"] + parts["x:high"]]
    _near(found, np.stack(own, axis=1))
    w = effects_table["w"] / effects_table["w"].sum()
    share = [w[effects_table["f"] == level].sum() for level in ("mid", "high")]
    found = effects.avg_slopes(linear, "x", newdata=effects_table, weights="w")
    weighted = parts["x"] + share[0] * parts["x:mid"] + share[1] * parts["x:high"]
    _near(found, weighted[:, None])
    both = effects.avg_predictions(linear, newdata=effects_table, by=["g", "b"])
    assert list(zip(both["g"], both["b"], strict=True)) == sorted(
        set(zip(effects_table["g"], effects_table["b"], strict=True))
    )


def test_groups_are_included_or_left_out(linear, parts, effects_table):
    t = effects_table
    f = t["f"].cat.codes.to_numpy()
    zero = np.zeros(200)
    level = np.stack([zero, parts["mid"], parts["high"]], axis=1)[:, f]
    slope = np.stack([zero, parts["x:mid"], parts["x:high"]], axis=1)[:, f]
    fixed = (
        parts["1"][:, None]
        + (parts["x"][:, None] + slope) * t["x"].to_numpy()
        + level
        + parts["log"][:, None] * np.log(t["z"].to_numpy())
        + parts["b"][:, None] * t["b"].to_numpy()
    )
    _near(effects.predictions(linear, newdata=t.drop(columns="g"), groups=None), fixed)
    shift = linear.posterior["1|g"].to_numpy()[0][:, t["g"].to_numpy()]
    _near(effects.predictions(linear), fixed + shift)
    _near(effects.avg_predictions(linear), (fixed + shift).mean(axis=1)[:, None])


def test_grids_hold_other_predictors_at_typical_values(linear, parts, effects_table):
    x, z = effects_table["x"].mean(), effects_table["z"].mean()
    base = parts["1"] + parts["x"] * x + parts["log"] * np.log(z)
    at_low = effects.datagrid(linear, f="low", b=[False, True])
    assert at_low["b"].tolist() == [False, True]
    _near(effects.predictions(linear, newdata=at_low), np.stack([base, base + parts["b"]], axis=1))
    with_group = effects.datagrid(linear, g=[2, 4], f="low", b=False)
    each = linear.posterior["1|g"].to_numpy()[0][:, [2, 4]]
    _near(effects.predictions(linear, newdata=with_group), base[:, None] + each)
    mean = effects.predictions(linear, newdata="mean")
    assert "without the group effects of g" in str(mean)
    new = effects.predictions(linear, newdata=at_low, new_levels="sample")
    assert (new["upper"] - new["lower"] > mean["upper"][0] - mean["lower"][0]).all()
    assert len(effects.datagrid(linear, x="fivenum", f="unique", grid_type="median")) == 15
    every = effects.datagrid(linear, grid_type="counterfactual", b=[True, False])
    assert len(every) == 2 * len(effects_table)
    assert "g" in every


def test_representative_values_of_predictions(linear, effects_table):
    found = effects.avg_predictions(linear, {"b": [False, True]})
    gap = effects.avg_predictions(linear, {"b": [False, True]}, hypothesis="revpairwise")
    assert found["b"].tolist() == [False, True]
    np.testing.assert_allclose(
        gap["estimate"], effects.avg_comparisons(linear, "b")["estimate"], rtol=1e-9
    )


def test_marginal_means_average_a_balanced_grid(linear, parts, effects_table):
    x, z = effects_table["x"].mean(), effects_table["z"].mean()
    base = parts["1"] + parts["x"] * x + parts["log"] * np.log(z)
    levels = np.stack(
        [
            base,
            base + parts["mid"] + x * parts["x:mid"],
            base + parts["high"] + x * parts["x:high"],
        ],
        axis=1,
    )
    found = effects.marginal_means(linear, "f")
    assert found["f"].tolist() == ["low", "mid", "high"]
    _near(found, levels + parts["b"][:, None] / 2)
    share = effects_table["b"].mean()
    _near(
        effects.marginal_means(linear, "f", weights="proportional"),
        levels + parts["b"][:, None] * share,
    )
    pairs = effects.marginal_means(linear, "f", by="b", hypothesis="pairwise")
    assert pairs["hypothesis"].tolist() == ["low - mid", "low - high", "mid - high"] * 2
    contrast = levels[:, [0, 0, 1]] - levels[:, [1, 2, 2]]
    _near(pairs, np.concatenate([contrast, contrast], axis=1))


def test_comparisons_of_probabilities(logit, effects_table):
    a, bx, bb = (_draws(logit, name) for name in ("Intercept", "x", "b"))
    x, b = effects_table["x"].to_numpy(), effects_table["b"].to_numpy()

    def p(x, b):
        return expit(a[:, None] + bx[:, None] * x + bb[:, None] * b)

    yes, no = p(x, True).mean(axis=1), p(x, False).mean(axis=1)
    for name, expected in {
        "difference": yes - no,
        "ratio": yes / no,
        "lnratio": np.log(yes / no),
        "lnor": log_odds(yes) - log_odds(no),
        "lift": yes / no - 1,
    }.items():
        found = effects.avg_comparisons(logit, "b", comparison=name)
        _near(found, expected[:, None])
        null = 1.0 if name == "ratio" else 0.0
        assert found["pd"][0] == max((expected > null).mean(), (expected < null).mean())
    own = effects.avg_comparisons(logit, "b", comparison=lambda high, low: high**2 - low)
    _near(own, (yes**2 - no)[:, None])
    by_row = effects.comparisons(logit, "b", comparison="lnor")
    _near(by_row, np.repeat(bb[:, None], len(x), axis=1))
    share = p(x, b)
    _near(effects.avg_slopes(logit, "x"), (bx[:, None] * share * (1 - share)).mean(1)[:, None])
    _near(effects.avg_slopes(logit, "x", type="link"), bx[:, None])
    eta = log_odds(share).mean(axis=1)
    _near(effects.avg_predictions(logit, type="invlink(link)"), expit(eta)[:, None])


@pytest.mark.long
def test_categories_have_a_row_each(ordinal, effects_table):
    slope = _draws(ordinal, "x")
    cuts = ordinal.posterior["threshold"].to_numpy().reshape(200, 2)
    eta = slope[:, None] * effects_table["x"].to_numpy()

    def density(k):
        share = expit(cuts[:, [k]] - eta)
        return share * (1 - share)

    zero = np.zeros_like(eta)
    ends = [zero, density(0), density(1), zero]
    each = [-slope[:, None] * (ends[k + 1] - ends[k]) for k in range(3)]
    found = effects.avg_slopes(ordinal, "x")
    assert found["group"].tolist() == ["no", "some", "much"]
    _near(found, np.stack([own.mean(axis=1) for own in each], axis=1))
    total = posterior_draws(effects.avg_predictions(ordinal)).sum("row")
    np.testing.assert_allclose(total, 1.0)


def test_hypotheses_about_rows(linear):
    table = effects.avg_slopes(linear, "x", by="f")
    draws = posterior_draws(table).to_numpy()[0]
    low, mid, high = draws.T
    for asked, names, expected in (
        ("b1 = b2", ["b1 = b2"], [low - mid]),
        (
            ["`high` > low", "b2 / b1 - 1 = 0"],
            ["`high` > low", "b2 / b1 - 1 = 0"],
            [high - low, mid / low - 1],
        ),
        (
            "pairwise",
            ["low - mid", "low - high", "mid - high"],
            [low - mid, low - high, mid - high],
        ),
        ("reference", ["mid - low", "high - low"], [mid - low, high - low]),
        ("sequential", ["mid - low", "high - mid"], [mid - low, high - mid]),
        ([1, -0.5, -0.5], ["weights 1"], [low - (mid + high) / 2]),
        (lambda d: d.max(axis=1), ["function"], [draws.max(axis=1)]),
    ):
        found = effects.avg_slopes(linear, "x", by="f", hypothesis=asked, rope=(-0.1, 0.1))
        assert found["hypothesis"].tolist() == names
        expected = np.stack(expected, axis=1)
        _near(found, expected)
        inside = (np.abs(expected) <= 0.1).mean(axis=0)
        np.testing.assert_allclose(found["in_rope"], inside)


def test_hypotheses_about_parameters(linear):
    found = effects.hypothesis(linear, "x > 0.4", "f[mid] < f[high]", "2 * `1|g[3]` - 1 > sigma^2")
    x, f, sigma = _draws(linear, "x"), linear.posterior["f"].to_numpy()[0], _draws(linear, "sigma")
    group = linear.posterior["1|g"].sel(g__factor_dim="3").to_numpy()[0]
    draws = [x - 0.4, f[:, 0] - f[:, 1], 2 * group - 1 - sigma**2]
    _near(found, np.stack(draws, axis=1))
    share = [(draws[0] > 0).mean(), (draws[1] < 0).mean(), (draws[2] > 0).mean()]
    np.testing.assert_allclose(found["probability"], share)
    assert found["evidence_ratio"][0] == share[0] / (1 - share[0]) or share[0] == 1


@pytest.mark.long
def test_rows_in_blocks_and_thinned_draws_give_the_same(linear, monkeypatch):
    whole = effects.avg_comparisons(linear, {"x": 1, "f": "pairwise"}, by="b")
    units = effects.comparisons(linear, "z")
    monkeypatch.setattr("ranef.effects.evaluation._CELLS", 200 * 20)
    monkeypatch.setattr("ranef.effects.estimation._KEPT", 0)
    blocks = effects.avg_comparisons(linear, {"x": 1, "f": "pairwise"}, by="b")
    pd.testing.assert_frame_equal(pd.DataFrame(whole), pd.DataFrame(blocks))
    again = effects.comparisons(linear, "z")
    pd.testing.assert_frame_equal(pd.DataFrame(units), pd.DataFrame(again))
    np.testing.assert_allclose(posterior_draws(units), posterior_draws(again))
    monkeypatch.setattr("ranef.effects.evaluation._MOST", 1)
    monkeypatch.setattr("ranef.effects.evaluation._FEWEST", 50)
    few = effects.avg_comparisons(linear, {"x": 1}, by="b")
    assert "50 of 200 draws" in str(few)
    assert posterior_draws(few).sizes["draw"] == 50


def test_tables_print_what_they_hold_and_export(linear):
    table = effects.avg_slopes(linear, "x", rope=(0, 1))
    assert "posterior median of the slope dY/dX of the mean of y" in str(table)
    assert "averaged over 90 training rows" in table._repr_html_()
    html = table.gt().as_raw_html()
    assert "95% equal-tailed interval" in html
    assert "dY/dX" in html
    draws = posterior_draws(table)
    assert draws.dims == ("chain", "draw", "row")
    assert type(table[table["pd"] > 0]) is pd.DataFrame
    assert (table.drop(columns=["term", "contrast"]).gt(-99.0)).all(axis=None)


def test_polars_gives_polars():
    rng = np.random.default_rng(1)
    x = rng.normal(size=40)
    table = pl.DataFrame({"y": x + rng.normal(size=40), "x": x, "f": ["a", "b"] * 20})
    fit = rf.Model("y ~ x + f").fit(table, draws=100, progress=False)
    found = effects.avg_comparisons(fit, "f")
    assert isinstance(found, pl.DataFrame)
    assert posterior_draws(found).sizes == {"chain": 1, "draw": 100, "row": 1}
    assert "b - a" in found.gt().as_raw_html()
    grid = effects.datagrid(fit, x=[0.0, 1.0])
    assert isinstance(grid, pl.DataFrame)
    rows = effects.predictions(fit, newdata=grid)
    assert rows["x"].to_list() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda f: effects.avg_slopes(f, "q"), rf.ColumnError, "no predictor 'q'"),
        (lambda f: effects.avg_slopes(f, "x", by="q"), rf.ColumnError, "pass newdata=table"),
        (lambda f: effects.avg_slopes(f, {"x": 2}), rf.OptionError, "takes no contrast"),
        (lambda f: effects.avg_slopes(f, "x", slope="d"), rf.OptionError, "slope must be"),
        (lambda f: effects.avg_slopes(f, "x", type="d"), rf.OptionError, "'sigma'"),
        (lambda f: effects.avg_slopes(f, "x", interval=2), rf.OptionError, "interval"),
        (lambda f: effects.avg_slopes(f, "x", rope=(1, 0)), rf.OptionError, "rope"),
        (lambda f: effects.avg_slopes(f, "x", groups=["h"]), rf.ColumnError, "grouping 'h'"),
        (lambda f: effects.avg_slopes(f, 3), rf.OptionError, "variables must be"),
        (lambda f: effects.avg_slopes(f, []), rf.OptionError, "no column"),
        (lambda f: effects.avg_slopes(f, "x", by=3), rf.OptionError, "by must be"),
        (lambda f: effects.avg_comparisons(f, {"x": "big"}), rf.OptionError, "'iqr'"),
        (lambda f: effects.avg_comparisons(f, {"x": 0}), rf.DataError, "other than zero"),
        (lambda f: effects.avg_comparisons(f, {"f": ("low", "q")}), rf.DataError, "no level 'q'"),
        (lambda f: effects.avg_comparisons(f, {"f": 3}), rf.OptionError, "pair of levels"),
        (lambda f: effects.avg_comparisons(f, "x", comparison="or"), rf.OptionError, "'lnor'"),
        (
            lambda f: effects.avg_comparisons(f, "x", comparison="lnor"),
            rf.DataError,
            "or more|zero",
        ),
        (lambda f: effects.avg_predictions(f, hypothesis="b1 ="), rf.FormulaError, "expected"),
        (lambda f: effects.avg_predictions(f, hypothesis="b9 = 1"), rf.FormulaError, "no 'b9'"),
        (lambda f: effects.avg_predictions(f, hypothesis="pairwise"), rf.DataError, "one alone"),
        (lambda f: effects.avg_predictions(f, hypothesis=[1, 2]), rf.OptionError, "weights of"),
        (
            lambda f: effects.avg_predictions(f, by="f", hypothesis="pairwise | q"),
            rf.ColumnError,
            "'q'",
        ),
        (lambda f: effects.datagrid(f, f="q"), rf.DataError, "no level 'q'"),
        (lambda f: effects.datagrid(f, x="q"), rf.OptionError, "'fivenum'"),
        (lambda f: effects.datagrid(f, x=np.nan), rf.DataError, "finite"),
        (lambda f: effects.datagrid(f, q=1), rf.ColumnError, "no predictor 'q'"),
        (lambda f: effects.datagrid(f, grid_type="q"), rf.OptionError, "grid_type"),
        (lambda f: effects.hypothesis(f), rf.OptionError, "one or more"),
        (lambda f: effects.hypothesis(f, "x > __import__"), rf.FormulaError, "there is no"),
        (lambda f: effects.hypothesis(f, "log(0 * x) = 1"), rf.DataError, "not a finite"),
        (lambda f: effects.marginal_means(f, "f", weights="w"), rf.OptionError, "proportional"),
        (lambda f: effects.avg_slopes(f.posterior, "x"), rf.OptionError, "take a fit"),
        (lambda f: posterior_draws(f), rf.OptionError, "as a function of rf.effects"),
    ],
)
def test_refusals_say_what_to_do(linear, call, error, said):
    with pytest.raises(error, match=said):
        call(linear)


@pytest.mark.long
def test_columns_called_as_those_of_results(effects_table):
    table = effects_table.rename(columns={"f": "group", "b": "term"})
    fit = rf.Model("level ~ group", "ordinal").fit(table, draws=50, progress=False)
    found = effects.avg_predictions(fit, by="group")
    assert found["group"].tolist() == ["low", "mid", "high"] * 3
    assert found["category"].unique().tolist() == ["no", "some", "much"]
    with pytest.raises(rf.ColumnError, match="'term' of by= has the name"):
        effects.avg_predictions(fit, newdata=table, by="term")


@pytest.mark.long
@pytest.mark.parametrize(("weights", "said"), [("point", True), ("last", False)])
def test_the_line_says_what_point_estimates_of_a_network_leave_out(weights, said):
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, 200)
    table = {"y": np.sin(x) + rng.normal(0, 0.1, 200), "x": x}
    model = rf.Model(f"y ~ nn(x, hidden=[4], weights='{weights}')")
    result = rf.effects.avg_slopes(model.fit(table, progress=False, draws=50), "x")
    assert ("without the uncertainty of the network" in repr(result)) == said
