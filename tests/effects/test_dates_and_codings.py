"""Effects of models with dates, conditions and factors in an order of their own."""

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


def test_factors_are_compared_with_the_first_level_of_their_own_order(fit):
    found = rf.effects.avg_comparisons(fit, "f")
    assert found["contrast"].tolist() == ["mid - lo", "hi - lo"]
    np.testing.assert_allclose(found["estimate"], [0.0, 1.0], atol=0.1)


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


def test_dates_have_a_typical_value_and_may_be_set(fit):
    assert "d" not in set(rf.effects.avg_comparisons(fit)["term"])
    typical = rf.effects.predictions(fit, newdata="mean")
    assert pd.Timestamp("2024-01-20") < typical["d"].iloc[0] < pd.Timestamp("2024-03-20")
    rows = rf.effects.datagrid(fit, d=["2024-01-01", "2024-01-11"])
    found = rf.effects.predictions(fit, newdata=rows)["estimate"]
    np.testing.assert_allclose(np.diff(found), 0.2, atol=0.02)
    with pytest.raises(rf.DataError, match="column 'd' takes dates, such as"):
        rf.effects.datagrid(fit, d="soon")
    with pytest.raises(rf.RanefError, match="an array or a date in each row, which is not varied"):
        rf.effects.avg_slopes(fit, "d")
