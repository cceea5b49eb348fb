"""Which category is which: the declared order, else the alphabet; true is the success."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import ranef as rf

RNG = np.random.default_rng(4)
X = RNG.normal(size=300)
K = np.digitize(2 * X + RNG.logistic(size=300), [-1, 1])
NAMES = ["low", "medium", "high"]


def fitted(formula, table, **options):
    return rf.Model(formula, **options).fit(table, draws=100, progress=False)


@pytest.mark.parametrize(
    "response",
    [
        pd.Categorical.from_codes(K, NAMES, ordered=True),
        pd.Categorical.from_codes(K, [*NAMES, "unused"]),
        pl.Series(np.array(NAMES)[K], dtype=pl.Enum(NAMES)),
    ],
)
def test_an_ordinal_response_has_the_order_of_its_categories(response):
    numbers = fitted("y ~ x", {"y": K, "x": X}, family="ordinal")
    fit = fitted("y ~ x", {"y": response, "x": X}, family="ordinal")
    np.testing.assert_allclose(fit.fixef().loc["x"], numbers.fixef().loc["x"], rtol=1e-6)
    assert fit.predict({"x": [0.0]}).columns[4:].tolist() == [f"p[{n}]" for n in NAMES]


def test_the_reference_of_a_categorical_response_is_the_first_declared_category():
    y = pd.Categorical.from_codes(K, NAMES)
    assert fitted("y ~ x", {"y": y, "x": X}, family="categorical").fixef().index[0] == (
        "mumedium_Intercept"
    )


@pytest.mark.parametrize(
    ("response", "success", "sign"),
    [
        (np.where(K == 2, "Yes", "no"), "Yes", 1),
        (pd.Categorical(np.where(K == 2, "Yes", "no"), ["Yes", "no"]), "no", -1),
        (pd.Categorical(np.where(K == 2, "b", "a"), ["b", "unused", "a"]), "a", -1),
    ],
)
def test_the_success_of_two_texts_is_the_second_and_is_said(response, success, sign):
    fit = fitted("y ~ x", {"y": response, "x": X})
    assert np.sign(fit.fixef().loc["x", "mean"]) == sign
    said = f"success is y = {success!r}"
    assert said in repr(fit)
    assert said in repr(fit.summary())
    assert any(said in line for line in fit.equations())


def test_print_of_a_model_says_which_of_two_texts_will_be_the_success():
    assert "second in order is the success" in repr(rf.Model("y ~ x", family="bernoulli"))


def test_true_and_false_are_bernoulli_from_memory_and_file(tmp_path):
    table = pd.DataFrame({"y": K == 2, "x": X})
    table.to_csv(tmp_path / "t.csv", index=False)
    memory, file = fitted("y ~ x", table), fitted("y ~ x", tmp_path / "t.csv")
    assert memory.program.family.name == file.program.family.name == "bernoulli"
    pd.testing.assert_frame_equal(memory.fixef(), file.fixef())
    assert memory.fixef().loc["x", "mean"] > 0
    np.testing.assert_allclose(memory.log_score(table), memory.log_score({"y": K == 2, "x": X}))


def test_successes_and_failures_are_successes_of_trials():
    n = RNG.integers(1, 9, 300)
    s = RNG.binomial(n, 1 / (1 + np.exp(-X)))
    table = {"s": s, "f": n - s, "n": n, "x": X}
    both = fitted("cbind(s, f) ~ x", table, family="binomial")
    trials = fitted("s / n ~ x", table, family="binomial")
    pd.testing.assert_frame_equal(both.fixef(), trials.fixef())
    assert both.equations()[0] == "s_{i} ~ Binomial((s + f)_{i}, p_{i})"


def test_thresholds_span_the_constant_whatever_the_formula_says_of_it():
    table = {"y": K, "x": X, "f": np.where(X > 0, "a", "b")}
    without, with_ = (fitted(f"y ~ {i} + f", table, family="ordinal").fixef() for i in ("0", "1"))
    pd.testing.assert_frame_equal(without, with_)
