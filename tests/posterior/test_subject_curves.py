"""Curves of single levels: own line, partial and complete pooling, beside algebra by hand."""

import numpy as np
import pandas as pd
import pytest

import ranef as rf


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    subject = np.repeat(np.arange(308, 338), 6)
    days = np.tile(np.arange(6.0), 30)
    slope, intercept = rng.normal(2, 1, 30), rng.normal(10, 3, 30)
    y = intercept[subject - 308] + slope[subject - 308] * days + rng.normal(size=180)
    return pd.DataFrame(
        {"y": y, "days": days, "z": rng.normal(size=180), "Subject": subject, "batch": subject % 2}
    )


@pytest.fixture(scope="module")
def fit(table) -> rf.Fit:
    model = rf.Model("y ~ z + days + (1 + days | Subject) + (1 | Subject:batch)")
    return model.fit(table, draws=200, progress=False)


def test_curves_of_each_level(fit, table):
    found = fit.extend("subjects")["subjects"].to_dataset()
    # The slope varies by Subject, and z, which stands first, does not.
    assert found.attrs["predictor|Subject"] == "days"
    assert found.sizes["Subject_level"] == 24
    levels = found["Subject_level"].to_numpy().tolist()
    assert levels[0] == "308"
    assert levels == sorted(levels)
    x = found["x|Subject"].to_numpy()
    mine = table[table["Subject"] == 308]
    line = np.polyfit(mine["days"], mine["y"], 1)
    np.testing.assert_allclose(found["own|Subject"][0], np.polyval(line, x))
    rows = found["row_level|Subject"].to_numpy() == "308"
    np.testing.assert_allclose(found["row_y|Subject"].to_numpy()[rows], mine["y"])
    draws = fit.draws.thinned(200)
    assert found.sizes["draw"] == draws.sites["sigma"].size
    typical = pd.DataFrame({"z": np.mean(table["z"]), "days": x, "Subject": 308})
    partial = fit.predict(typical, groups=["Subject"])["mean"]
    np.testing.assert_allclose(found["partial|Subject"][:, 0].mean("draw"), partial, rtol=1e-9)
    pooled = fit.predict(typical, groups=None)["mean"]
    np.testing.assert_allclose(found["pooled|Subject"].mean("draw"), pooled, rtol=1e-9)


def test_a_combined_level_has_the_effects_of_its_parts(fit, table):
    found = fit.extend("subjects")["subjects"].to_dataset()
    x = found["x|Subject:batch"].to_numpy()
    name = found.attrs["predictor|Subject:batch"]
    level = str(found["Subject:batch_level"].to_numpy()[0])
    subject, batch = map(int, level.split(":"))
    means = {"z": table["z"].mean(), "days": table["days"].mean()}
    rows = pd.DataFrame({**means, name: x, "Subject": subject, "batch": batch})
    whole = fit.predict(rows)["mean"]
    curve = found["partial|Subject:batch"][:, 0].mean("draw")
    np.testing.assert_allclose(curve, whole, rtol=1e-9)


def test_the_figure_has_rows_and_three_lines_in_each_panel(fit, table):
    figure = rf.plots.subjects(fit, most=5)
    assert len(figure.axes) == 5
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "308"
    rows, pooled, own, partial = axes.lines
    np.testing.assert_allclose(rows.get_ydata(), table["y"][table["Subject"] == 308])
    assert [line.get_linestyle() for line in (pooled, own, partial)] == ["--", ":", "-"]
    with pytest.raises(rf.ColumnError, match="there are no curves of the levels of 'Subjekt'"):
        rf.plots.subjects(fit, "Subjekt")


def test_a_model_without_levels_to_show_is_refused(table):
    fit = rf.Model("y ~ days").fit(table, draws=20, progress=False)
    with pytest.raises(rf.OptionError, match="has no grouping with a numeric predictor"):
        rf.plots.subjects(fit)
