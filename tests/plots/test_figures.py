"""Each figure by the data it draws, from trees made by hand: no figure knows the model."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

import ranef as rf
from ranef import plots
from ranef.plots.canvas import POINTS, label
from ranef.plots.groups import effects_table, shrinkage_table
from ranef.plots.parameters import elements

RNG = np.random.default_rng(3)
DRAWS, ROWS = 40, 500
LEVELS = ["a", "$b^2$", "<b>c</b>", "d\nd", "😀", "f"]


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """A fit's groups, in numbers that are known."""
    level = {"g__factor_dim": LEVELS}
    sample = ("chain", "draw")
    corr = np.broadcast_to([[1.0, 0.3], [0.3, 1.0]], (1, DRAWS, 2, 2)).copy()
    corr[..., 0, 1] = corr[..., 1, 0] = RNG.uniform(0, 0.5, (1, DRAWS))
    posterior = xr.Dataset(
        {
            "Intercept": (sample, RNG.normal(size=(1, DRAWS))),
            "1|g": ((*sample, "g__factor_dim"), RNG.normal(np.arange(6), 0.1, (1, DRAWS, 6))),
            "x|g": ((*sample, "g__factor_dim"), RNG.normal(size=(1, DRAWS, 6))),
            "g_corr": ((*sample, "g_dim", "g_dim_2"), corr),
        },
        {**level, "g_dim": ["1", "x"], "g_dim_2": ["1", "x"]},
    )
    y = RNG.standard_t(3, ROWS)
    side, points = np.linspace(-1, 1, 4), np.linspace(-2, 2, 12)
    validation = {"observed": y, "mean": 0.5 * y, "pit": RNG.uniform(size=ROWS)}
    return xr.DataTree.from_dict(
        {
            "posterior": posterior,
            "observed_data": xr.Dataset({"y": ("row", y)}, {"row": np.arange(ROWS)}),
            "constant_data": xr.Dataset({"size|g": ("g__factor_dim", [5, 1, 9, 3, 7, 2])}, level),
            "optimization": xr.Dataset({"elbo": ("step", np.linspace(-900.0, -100.0, 300))}),
            "posterior_predictive": xr.Dataset(
                {"y": ((*sample, "row"), RNG.standard_t(3, (1, DRAWS, 250)))},
                {"row": np.arange(0, ROWS, 2)},
            ),
            "surface": xr.Dataset(
                {
                    "posterior": (("draw", "first", "second"), RNG.normal(size=(20, 4, 4))),
                    "row_first": ("row", RNG.uniform(-1, 1, ROWS)),
                    "row_second": ("row", RNG.uniform(-1, 1, ROWS)),
                    "row_response": ("row", y),
                },
                {"first": side, "second": side},
                {"predictors": ["x", "z"], "response": "y"},
            ),
            "partial_effects": xr.Dataset(
                {
                    "x": (("draw", "x_point"), RNG.normal(size=(DRAWS, 12))),
                    "f": (("draw", "f_point"), RNG.normal(size=(DRAWS, 2))),
                },
                {"x_point": points, "f_point": np.array(["u", "v"], dtype=object)},
                {"response": "y"},
            ),
            "shrinkage": xr.Dataset(
                {"unpooled|g": ("g__factor_dim", 2.0 * np.arange(6))},
                level,
                {"response": "y", "centre|g": 10.0},
            ),
            "validation": xr.Dataset({name: ("row", v) for name, v in validation.items()}),
        }
    )


def _points(figure):
    (artist,) = (a for a in figure.findobj() if a.get_gid() == POINTS and hasattr(a, "get_offsets"))
    return np.asarray(artist.get_offsets())


def test_shrinkage_orders_levels_by_size_and_joins_both_estimates(tree):
    means = tree["posterior"]["1|g"].mean(("chain", "draw")).to_numpy()
    order = [2, 4, 0, 3, 5, 1]
    table = shrinkage_table(tree)
    assert list(table["level"]) == [LEVELS[i] for i in order]
    assert list(table["size"]) == [9, 7, 5, 3, 2, 1]
    np.testing.assert_allclose(table["pooled"], 10 + means[order])
    np.testing.assert_allclose(table["unpooled"], 10 + 2.0 * np.array(order))
    figure = plots.shrinkage(tree, "g")
    np.testing.assert_allclose(_points(figure), np.c_[np.arange(6), table["pooled"]])
    axes = figure.axes[0]
    assert any(list(line.get_ydata()) == [10.0, 10.0] for line in axes.lines)
    joined = next(c for c in axes.collections if len(c.get_paths()) == 6 and c.get_gid() is None)
    np.testing.assert_allclose(
        [p.vertices[:, 1] for p in joined.get_paths()], table[["unpooled", "pooled"]]
    )


def test_levels_of_one_size_need_no_colour_bar(tree):
    alike = tree.copy()
    alike["constant_data"] = xr.DataTree(tree["constant_data"].to_dataset() * 0 + 4)
    assert len(plots.shrinkage(tree, "g").axes) == 2
    assert len(plots.shrinkage(alike, "g").axes) == 1


def test_of_very_many_levels_some_are_drawn_evenly_over_the_sizes(tree):
    k = 12_000
    level = {"g__factor_dim": np.arange(k).astype(str)}
    dims = ("chain", "draw", "g__factor_dim")
    many = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset({"1|g": (dims, np.zeros((1, 2, k)))}, level),
            "constant_data": xr.Dataset({"size|g": ("g__factor_dim", np.arange(k))}, level),
            "shrinkage": xr.Dataset(
                {"unpooled|g": ("g__factor_dim", np.ones(k))},
                level,
                {"response": "y", "centre|g": 0.0},
            ),
        }
    )
    table = shrinkage_table(many)
    assert len(table) == 5000
    assert (table["size"].iloc[0], table["size"].iloc[-1]) == (k - 1, 0)
    assert np.ptp(np.diff(table["size"])) <= 1
    assert "5,000 of 12,000" in plots.shrinkage(many).axes[0].get_xlabel()


def test_group_effects_shows_the_largest_either_way(tree):
    means = tree["posterior"]["1|g"].mean(("chain", "draw")).to_numpy()
    table = effects_table(tree, "g", largest=3)
    assert list(table["level"]) == ["f", "😀", "d\nd"]
    assert list(table["size"]) == [2, 7, 3]
    figure = plots.group_effects(tree, "g", largest=3)
    np.testing.assert_allclose(_points(figure), np.c_[means[[5, 4, 3]], [2, 1, 0]])
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["f", "😀", "d d"]
    draws = tree["posterior"]["1|g"].to_numpy()[0, :, 5]
    assert table["lower_90"][0] == pytest.approx(np.quantile(draws, 0.05))
    slopes = plots.group_effects(tree, "g", term="x")
    assert slopes.axes[0].get_xlabel() == "x|g"
    given = effects_table(tree, "g", largest=3, order="given")
    assert list(given["level"]) == ["d\nd", "😀", "f"]
    with pytest.raises(rf.OptionError, match="order must be 'mean' or 'given', not 'size'"):
        plots.group_effects(tree, "g", order="size")


def test_no_figure_touches_the_state_of_pyplot(tree):
    """The user's current figure stays current, and no figure waits to be shown once more."""
    from matplotlib import pyplot

    mine = pyplot.figure()
    try:
        figures = [
            plots.shrinkage(tree),
            plots.group_effects(tree),
            plots.data_fit(tree),
            plots.posterior(tree),
            plots.posterior_predictive(tree, "ecdf"),
        ]
        assert pyplot.get_fignums() == [mine.number]
        assert pyplot.gcf() is mine
        assert figures[0]._repr_png_().startswith(b"\x89PNG")
    finally:
        pyplot.close(mine)


def test_residuals_are_counted_within_the_central_share(tree):
    figure = plots.residuals({"one": tree, "two": tree})
    y = tree["validation"]["observed"].to_numpy()
    for axes, name in zip(figure.axes, ("one", "two"), strict=True):
        edges = [p.get_x() for p in axes.patches]
        assert sum(p.get_height() for p in axes.patches) == pytest.approx(0.98 * ROWS, abs=2)
        assert edges[0] == pytest.approx(np.quantile(0.5 * y, 0.01))
        assert axes.get_title(loc="left") == f"{name}: MAE {np.abs(0.5 * y).mean():.5g}"


def test_calibration_is_the_share_of_intervals_that_hold(tree):
    figure = plots.calibration(tree)
    pit = tree["validation"]["pit"].to_numpy()
    whole, apart = (axes.lines[0].get_ydata() for axes in figure.axes)
    for i in (5, 50, 90):
        p = figure.axes[0].lines[0].get_xdata()[i]
        tails = (1 - p) / 2
        expected = ((pit >= tails) & (pit <= 1 - tails)).mean()
        assert whole[i] == pytest.approx(expected, abs=1.5 / ROWS)
        assert apart[i] == pytest.approx(whole[i] - p)


def test_elbo_draws_every_step_and_window_means(tree):
    steps, means = plots.elbo(tree).axes[0].lines
    np.testing.assert_array_equal(steps.get_ydata(), tree["optimization"]["elbo"])
    assert len(means.get_ydata()) == 6
    assert means.get_ydata()[0] == pytest.approx(np.linspace(-900, -100, 300)[:50].mean())


def test_posterior_predictive_holds_observed_against_drawn_on_the_same_rows(tree):
    axes = plots.posterior_predictive(tree).axes[0]
    drawn, observed = axes.lines
    y = tree["observed_data"]["y"].to_numpy()[::2]
    low, high = np.quantile(y, [0.01, 0.99])
    counts = np.histogram(y, np.linspace(low, high, 61))[0]
    np.testing.assert_allclose(observed.get_ydata(), counts / len(y))
    assert drawn.get_ydata().sum() == pytest.approx(0.95, abs=0.05)


@pytest.fixture(scope="module")
def rated() -> xr.DataTree:
    """Ratings, numbered from 1, whose order is neither alphabetical nor by count."""
    y = np.array([1, 1, 2, 3, 3, 3])
    drawn = np.tile([[[1, 2, 2, 3, 3, 3], [1, 1, 1, 1, 3, 3]]], (1, 10, 1))
    attributes = {"categories": ["poor", "fair", "good"], "first": 1}
    return xr.DataTree.from_dict(
        {
            "observed_data": xr.Dataset({"y": ("row", y, attributes)}, {"row": np.arange(6)}),
            "posterior_predictive": xr.Dataset(
                {"y": (("chain", "draw", "row"), drawn)}, {"row": np.arange(6)}
            ),
        }
    )


def test_categories_are_bars_in_their_order(rated):
    axes = plots.posterior_predictive(rated).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["poor", "fair", "good"]
    np.testing.assert_allclose([p.get_height() for p in axes.patches], [2 / 6, 1 / 6, 3 / 6])
    middle = axes.lines[0].get_ydata()
    np.testing.assert_allclose(middle, [2.5 / 6, 1 / 6, 2.5 / 6])


def test_predictive_checks_of_counts(rated):
    figure = plots.posterior_predictive(rated, "rootogram")
    assert figure.axes[0].get_xlabel() == "y"
    assert plots.posterior_predictive(rated, "ecdf").axes[0].lines


def test_kinds_that_do_not_fit_the_response_are_refused(tree, rated):
    with pytest.raises(rf.OptionError, match="kind must be one of 'auto', .*, not 'pie'"):
        plots.posterior_predictive(rated, "pie")
    with pytest.raises(rf.OptionError, match="250 distinct values, too many for bars"):
        plots.posterior_predictive(tree, "bars")
    with pytest.raises(rf.OptionError, match="a rootogram is of counts, and y is not one"):
        plots.posterior_predictive(tree, "rootogram")


def test_posterior_has_a_panel_for_each_number_that_varies(tree):
    assert list(elements(tree["posterior"].to_dataset())) == ["Intercept", "g_corr[1, x]"]
    figure = plots.posterior(tree)
    titles = [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes]
    assert [t for t in titles if t] == ["Intercept", "g_corr[1, x]"]


def test_data_fit_has_a_sheet_for_each_draw(tree):
    figure = plots.data_fit(tree)
    sheets = [c for c in figure.axes[0].collections if isinstance(c, Poly3DCollection)]
    assert len(sheets) == 20
    assert figure.axes[0].get_zlabel() == "y"
    with pytest.raises(rf.OptionError, match="flat prior has no draws"):
        plots.data_fit(tree, under="prior")
    with pytest.raises(rf.OptionError, match="must be 'posterior' or 'prior'"):
        plots.data_fit(tree, under="both")


def test_data_fit_along_one_predictor_is_lines(tree):
    surface = tree["surface"].to_dataset().isel(second=0, drop=True)
    surface.attrs["predictors"] = ["x"]
    axes = plots.data_fit(xr.DataTree.from_dict({"surface": surface})).axes[0]
    lines = [line.get_ydata() for line in axes.lines[1:]]
    np.testing.assert_allclose(lines, surface["posterior"])


def test_partial_effects_are_curves_of_numbers_and_points_of_levels(tree):
    curve, points = plots.partial_effects(tree).axes
    effects = tree["partial_effects"]
    np.testing.assert_allclose(curve.lines[0].get_ydata(), effects["x"].median("draw"))
    np.testing.assert_allclose(points.lines[0].get_ydata(), effects["f"].median("draw"))
    assert [t.get_text() for t in points.get_xticklabels()] == ["u", "v"]


@pytest.mark.filterwarnings("ignore:Glyph .* missing:UserWarning")
def test_a_dollar_in_a_name_is_no_formula(tree, tmp_path):
    figure = plots.group_effects(tree, "g")
    figure.savefig(tmp_path / "figure.png")
    assert not any(t.get_parse_math() for t in figure.findobj(Text) if "$" in t.get_text())
    assert label("a\n\tb" + "c" * 50) == "a b" + "c" * 24 + "…"
    assert label("\n") == "(blank)"


def test_what_is_missing_is_said(tree):
    bare = xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset()})
    with pytest.raises(rf.OptionError, match="needs the group 'surface'.*it has posterior"):
        plots.data_fit(bare)
    with pytest.raises(rf.OptionError, match="rows the fit has not seen"):
        plots.residuals(bare)
    with pytest.raises(rf.OptionError, match="no ELBO trace"):
        plots.elbo(bare)
    with pytest.raises(rf.OptionError, match="a figure needs a fit"):
        plots.posterior("a fit")
    with pytest.raises(rf.ColumnError, match=r"no effects 1\|h; "):
        plots.group_effects(tree, "h")


def test_levels_observed_and_drawn(grouped):
    from ranef.plots.checks import check_table

    rng = np.random.default_rng(0)
    fit = rf.Model("y ~ x + (1 | g)").fit(grouped, progress=False)
    table = check_table(fit)
    for row in table.to_dict("records"):
        own = grouped["y"][grouped["g"] == row["level"]]
        assert row["observed"] == pytest.approx(own.mean())
        assert row["size"] == len(own)
        assert row["lower_90"] < row["lower_50"] < row["upper_50"] < row["upper_90"]
    assert table.attrs["levels"] == 12
    assert len(check_table(fit, most=5)) == 5
    counts = {**grouped, "y": rng.poisson(1.0, 300).astype(float)}
    poisson = rf.Model("y ~ (1 | g)", family="poisson").fit(counts, progress=False)
    zeros = check_table(poisson, statistic="zeros")
    assert ((zeros["lower_90"] < 0.4) & (zeros["upper_90"] > 0.3)).all()
    assert plots.group_check(poisson, statistic="zeros").axes[0].get_ylabel().startswith("share")
    with pytest.raises(rf.OptionError, match="no statistic 'zeros'"):
        plots.group_check(fit, statistic="zeros")
