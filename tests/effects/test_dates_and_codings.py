"""Figures and effects of models with dates, conditions and factors in an order of their own."""

import numpy as np
import pandas as pd
import pytest

import ranef as rf

FORMULA = "y ~ C(f, Sum, levels=[lo, mid, hi]) + days(d) + I(x > 0 & b)"


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(5)
    n = 120
    table = pd.DataFrame(
        {
            "x": rng.normal(size=n),
            "b": rng.random(n) < 0.5,
            "f": rng.choice(["lo", "mid", "hi"], n),
            "d": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 100, n), unit="D"),
        }
    )
    days = (table["d"] - table["d"].min()).dt.days
    table["y"] = 0.02 * days + (table["f"] == "hi") + 2.0 * ((table["x"] > 0) & table["b"])
    table["y"] += 0.1 * rng.normal(size=n)
    return rf.Model(FORMULA).fit(table, draws=200, progress=False)


def test_true_is_compared_with_false_in_a_condition(fit):
    found = rf.effects.avg_comparisons(fit, "b")
    share = (np.asarray(fit.training.sample.numbers("x")) > 0).mean()
    assert found["contrast"].tolist() == ["True - False"]
    np.testing.assert_allclose(found["estimate"], 2.0 * share, atol=0.1)


def test_figures_hold_a_logical_column_at_its_most_common_value(fit):
    effects = fit.extend("partial_effects")["partial_effects"]
    assert set(effects.data_vars) == {"f", "d", "x", "b"}
    assert effects["f_point"].to_numpy().tolist() == ["lo", "mid", "hi"]
    most = fit.training.sample.numbers("b").mean() > 0.5
    step = np.ptp(effects["x"].mean("draw").to_numpy())
    np.testing.assert_allclose(step, 2.0 if most else 0.0, atol=0.1)
